//! What counts as a use, and the bounds of what waits, what is noted and what the disk spends.

use super::*;
use crate::cache::index::Known;
use crate::cache::keeper;
use crate::cache::shared::MAX_USED;

/// A cache without its threads: nobody writes, sweeps or notes but the test.
fn by_hand(bench: &Bench) -> Arc<Shared> {
    let shared = Arc::new(Shared::new(bench.options.clone(), bench.clock()));
    shared.attach().unwrap();
    shared
}

fn job(shared: &Shared, n: u8) -> Job {
    let content = Content { metadata: b"m", sections: &[&[n; 9]] };
    let checked = Arc::new(entry::build(Kind::Answer, &key(n), NOW_MS, content).unwrap());
    Job { kind: Kind::Answer, key: key(n), checked, generation: shared.generation() }
}

fn answers_on_disk(bench: &Bench, keys: std::ops::Range<u8>) -> Vec<u8> {
    keys.filter(|n| bench.file(Kind::Answer, &key(*n)).exists()).collect()
}

#[test]
fn what_waits_is_bounded_in_bytes_and_given_back_once_written() {
    let mut bench = Bench::on_disk_only();
    bench.options.queue_bytes = 2 * 4160;
    let shared = by_hand(&bench);
    let push = |n| shared.queue.push(job(&shared, n));
    assert!(push(1).is_ok() && push(2).is_ok());
    assert_eq!(push(3), Err(2 * 4160));
    assert!(shared.queue.next().is_some());
    assert_eq!(push(3), Err(2 * 4160), "it is not on the disk yet");
    shared.queue.done();
    assert_eq!(shared.queue.bytes(), 4160);
    assert!(push(3).is_ok());
    shared.queue.stop();
    assert!(shared.queue.next().is_some());
    shared.queue.done();
    assert!(push(4).is_err(), "nobody would write it");
}

#[test]
fn a_flush_waits_for_what_is_being_written() {
    let bench = Bench::on_disk_only();
    let shared = by_hand(&bench);
    shared.queue.push(job(&shared, 1)).unwrap();
    assert!(shared.queue.next().is_some());
    let (sender, flushed) = std::sync::mpsc::channel();
    let flushing = Arc::clone(&shared);
    let thread = std::thread::spawn(move || {
        flushing.queue.flush();
        sender.send(()).unwrap();
    });
    assert!(flushed.recv_timeout(Duration::from_millis(100)).is_err());
    shared.queue.done();
    flushed.recv().unwrap();
    thread.join().unwrap();
}

#[test]
fn a_purge_forgets_what_waits_what_was_read_before_it_and_what_was_used() {
    let bench = Bench::new();
    let shared = by_hand(&bench);
    let before = job(&shared, 1);
    shared.write(&before).unwrap();
    assert!(shared.lookup(Kind::Answer, &key(1)).is_some());
    shared.queue.push(job(&shared, 2)).unwrap();
    shared.forget_all();
    assert_eq!(shared.queue.bytes(), 0);
    assert!(shared.lookup(Kind::Answer, &key(2)).is_none());
    assert!(shared.take_used().is_empty());
    // As a lookup would that read the file before the purge removed it.
    shared.remember(Kind::Answer, &key(1), &before.checked, before.generation);
    assert!(shared.lookup_open(Kind::Answer, &key(1), shared.clock.now()).is_none());
}

#[test]
fn a_hit_from_the_disk_counts_as_use() {
    let mut bench = Bench::on_disk_only();
    bench.options.answers_bytes = 3 * 8192;
    let cache = bench.open();
    (0..3).for_each(|n| put(&cache, Kind::Answer, n, 10));
    assert!(holds(&cache, Kind::Answer, 0));
    put(&cache, Kind::Answer, 3, 10);
    assert_eq!(answers_on_disk(&bench, 0..4), [0, 2, 3]);
}

#[test]
fn a_use_that_the_cache_was_only_told_of_counts_also_after_a_restart() {
    let mut bench = Bench::on_disk_only();
    let cache = bench.open();
    (0..3).for_each(|n| put(&cache, Kind::Answer, n, 10));
    bench.later(1000);
    cache.touch(Kind::Answer, &key(0));
    cache.touch(Kind::Answer, &key(9));
    assert_eq!(cache.shared.take_used().len(), 1, "nothing is noted of what is not there");
    cache.touch(Kind::Answer, &key(0));
    bench.options.answers_bytes = 8192;
    drop(bench.reopened(cache));
    assert_eq!(answers_on_disk(&bench, 0..3), [0]);
}

#[test]
fn uses_between_two_notes_are_bounded() {
    let bench = Bench::new();
    let shared = by_hand(&bench);
    let now = shared.clock.now();
    for n in 0..=MAX_USED as u64 {
        let key = Sum::of(&n.to_le_bytes());
        shared.index(Kind::Answer).insert(Known { key, created_s: 0, bytes: 1 });
        shared.touch(Kind::Answer, &key, now);
    }
    assert_eq!(shared.index(Kind::Answer).len(), MAX_USED + 1);
    assert_eq!(shared.take_used().len(), MAX_USED);
}

/// Each of these is 4160 bytes long, and the disk spends two blocks on it.
#[test]
fn budgets_count_what_the_disk_spends() {
    let mut bench = Bench::on_disk_only();
    bench.options.answers_bytes = 8192 + 4160;
    let cache = bench.open();
    put(&cache, Kind::Answer, 0, 10);
    put(&cache, Kind::Answer, 1, 10);
    assert_eq!(answers_on_disk(&bench, 0..2), [1]);
    assert_eq!(cache.stats().kinds[0].bytes, bench.disk_bytes(Kind::Answer));
}

#[test]
fn what_vanished_from_the_disk_is_not_counted_any_more() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    fs::remove_file(bench.file(Kind::Answer, &key(1))).unwrap();
    assert!(!holds(&cache, Kind::Answer, 1));
    let answers = &cache.stats().kinds[0];
    assert_eq!((answers.entries, answers.bytes), (0, 0));
}

/// The second reading of the clock in a lookup comes between the file and the index.
#[test]
fn what_is_evicted_while_it_is_read_is_not_counted_afterwards() {
    let bench = Bench::on_disk_only();
    let evicting: Arc<Mutex<Option<Cache>>> = Arc::default();
    let readings = Arc::new(Millis::new(u64::MAX));
    let (armed, left) = (Arc::clone(&evicting), Arc::clone(&readings));
    let clock = Clock::new(move || {
        if left.fetch_sub(1, Ordering::Relaxed) == 1
            && let Some(cache) = locked(&armed).take()
        {
            let cause = stats::Cause::Evicted;
            assert!(cache.shared.discard(Kind::Answer, &key(1), None, cause));
        }
        let now = Duration::from_millis(NOW_MS);
        Reading { wall: SystemTime::UNIX_EPOCH + now, uptime: now }
    });
    let cache = Cache::open(bench.options.clone(), clock).unwrap();
    wait_for_scan(&cache);
    put(&cache, Kind::Answer, 1, 10);
    locked(&evicting).replace(cache.clone());
    readings.store(2, Ordering::Relaxed);
    assert!(holds(&cache, Kind::Answer, 1), "it had been read");
    assert!(locked(&evicting).is_none() && !bench.file(Kind::Answer, &key(1)).exists());
    assert_eq!(cache.stats().kinds[0].entries, 0);
}

#[test]
fn what_is_mapped_is_not_held_in_memory_as_well() {
    let bench = Bench::new();
    let cache = bench.open();
    put(&cache, Kind::Embedding, 1, 10);
    assert!(holds(&cache, Kind::Embedding, 1));
    assert_eq!(cache.stats().open_bytes, 0);
    put(&cache, Kind::Answer, 1, 10);
    assert_eq!(cache.stats().open_bytes, 4160);
}

/// Starts to fill the index of four entries, and has something done when the last has been listed.
fn scan_while(meanwhile: fn(&Bench, &Cache)) -> Stats {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    for n in 0..4 {
        put(&cache, Kind::Answer, n, 10);
    }
    *cache.shared.index(Kind::Answer) = index::Index::default();
    let listed = std::cell::Cell::new(0);
    keeper::scan_all(&cache.shared, &|| {
        listed.set(listed.get() + 1);
        if listed.get() == 4 {
            meanwhile(&bench, &cache);
        }
        false
    });
    cache.stats()
}

#[test]
fn what_is_removed_while_the_folder_is_scanned_is_not_counted_afterwards() {
    let stats = scan_while(|_, cache| {
        cache.purge();
        put(cache, Kind::Answer, 1, 10);
        put(cache, Kind::Answer, 7, 10);
    });
    assert_eq!((stats.kinds[0].entries, stats.scanned), (2, true));
}

#[test]
fn a_folder_deleted_while_it_is_scanned_is_scanned_once_more() {
    let stats = scan_while(|bench, cache| {
        fs::remove_dir_all(bench.root()).unwrap();
        put(cache, Kind::Answer, 7, 10);
    });
    assert_eq!((stats.kinds[0].entries, stats.scanned), (1, false));
}
