//! Many threads on few keys, with a disk that is pulled about under them.

use super::*;
use crate::cache::keeper;

/// Numbers that differ by thread and step.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

fn storm(
    cache: &Cache,
    bench: &Bench,
    threads: u64,
    steps: u64,
    life: impl Fn(&Cache, &Bench, &mut Dice) + Sync,
) {
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let life = &life;
            scope.spawn(move || {
                let mut dice = Dice(thread * 1_000_003 + 17);
                for _ in 0..steps {
                    life(cache, bench, &mut dice);
                }
            });
        }
    });
}

fn some_entry(dice: &mut Dice) -> (Kind, u8) {
    (Kind::ALL[dice.roll(3)], u8::try_from(dice.roll(10)).unwrap())
}

fn try_put(cache: &Cache, kind: Kind, n: u8, soon: bool) {
    let payload = vec![n; 5000];
    let content = Content { metadata: b"m", sections: &[&payload] };
    if soon {
        let _ = cache.put_soon(kind, &key(n), content);
    } else {
        let _ = cache.put(kind, &key(n), content);
    }
}

/// As a disk goes bad: another file under the name. (Not in place: what a mapping shows is
/// constant, and that is what the store's first invariant and the folder's mode are for.)
fn spoil(bench: &Bench, kind: Kind, n: u8, dice: &mut Dice) {
    let file = bench.file(kind, &key(n));
    let Ok(mut bytes) = fs::read(&file) else { return };
    match dice.roll(3) {
        0 => bytes.truncate(bytes.len() / 2),
        1 => {
            let at = dice.roll(bytes.len().max(1));
            bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x40);
        }
        _ => {
            let _ = fs::remove_file(&file);
            return;
        }
    }
    let spoilt = bench.folder.path().join(format!("spoilt-{}", dice.roll(usize::MAX)));
    if fs::write(&spoilt, bytes).is_ok() {
        let _ = fs::rename(spoilt, file);
    }
}

/// After all went quiet, the index counts what the disk holds.
fn settles(cache: &Cache, bench: &Bench) {
    cache.flush();
    for kind in Kind::ALL {
        for n in 0..10 {
            holds(cache, kind, n);
        }
    }
    for (kind, numbers) in Kind::ALL.into_iter().zip(cache.stats().kinds) {
        assert_eq!(numbers.bytes, bench.disk_bytes(kind), "{kind:?}");
        assert!(numbers.bytes <= numbers.budget_bytes, "{kind:?}");
    }
    assert_eq!(bench.tmp_files(), 0);
}

#[test]
fn sixty_four_threads_on_ten_keys_see_only_whole_entries() {
    for open_bytes in [0, 64 << 20] {
        let mut bench = Bench::new();
        bench.options.open_bytes = open_bytes;
        let cache = bench.open();
        storm(&cache, &bench, 64, 100, |cache, bench, dice| {
            let (kind, n) = some_entry(dice);
            match dice.roll(20) {
                0..=11 => {
                    holds(cache, kind, n);
                }
                12..=15 => try_put(cache, kind, n, false),
                // What waits to be written hides the disk: not where the disk is the point.
                16 | 17 => try_put(cache, kind, n, open_bytes > 0),
                18 => spoil(bench, kind, n, dice),
                _ => drop(cache.peek(kind, &key(n))),
            }
        });
        if open_bytes == 0 {
            settles(&cache, &bench);
            let bad: u64 = cache.stats().kinds.iter().map(|kind| kind.bad).sum();
            assert!(bad > 0, "the spoilt ones were met");
        }
    }
}

#[test]
fn eviction_and_writing_of_the_same_keys_keep_index_and_disk_alike() {
    let mut bench = Bench::on_disk_only();
    bench.options.answers_bytes = 4 * 12_288;
    bench.options.embeddings_bytes = 4 * 12_288;
    bench.options.slices_bytes = 4 * 12_288;
    let cache = bench.open();
    storm(&cache, &bench, 16, 150, |cache, _, dice| {
        let (kind, n) = some_entry(dice);
        if dice.roll(2) == 0 {
            try_put(cache, kind, n, false);
        } else {
            holds(cache, kind, n);
        }
    });
    cache.flush();
    let evicted: u64 = cache.stats().kinds.iter().map(|kind| kind.evicted).sum();
    assert!(evicted > 100, "{evicted}");
    for (kind, numbers) in Kind::ALL.into_iter().zip(cache.stats().kinds) {
        assert_eq!(numbers.bytes, bench.disk_bytes(kind), "{kind:?}");
    }
}

#[test]
fn nothing_outlives_the_last_purge() {
    let bench = Bench::new();
    let cache = bench.open();
    storm(&cache, &bench, 16, 60, |cache, _, dice| {
        let (kind, n) = some_entry(dice);
        match dice.roll(20) {
            0 => assert!(cache.purge() <= 30),
            1..=10 => try_put(cache, kind, n, dice.0 & 64 == 0),
            _ => {
                holds(cache, kind, n);
            }
        }
    });
    cache.purge();
    cache.flush();
    for kind in Kind::ALL {
        for n in 0..10 {
            assert!(!holds(&cache, kind, n));
        }
        assert_eq!(bench.disk_bytes(kind), 0);
    }
}

#[test]
fn what_waits_to_be_written_is_found_bounded_and_written_at_the_end() {
    let mut bench = Bench::on_disk_only();
    bench.options.queue_bytes = 3 * 9152;
    let cache = bench.open();
    let (mut kept, mut refused) = (0, 0);
    for n in 0..200 {
        let payload = vec![n; 5000];
        let content = Content { metadata: b"m", sections: &[&payload] };
        match cache.put_soon(Kind::Embedding, &key(n), content) {
            Ok(()) => {
                kept += 1;
                assert!(holds(&cache, Kind::Embedding, n));
            }
            Err(PutError::Behind { waiting_bytes }) => {
                assert!(waiting_bytes <= 3 * 9152);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    drop(cache);
    let cache = bench.open();
    let there = (0..200).filter(|n| holds(&cache, Kind::Embedding, *n)).count();
    assert_eq!((there, kept + refused), (kept, 200));
    assert!(kept >= 3);
}

/// Between the rename and the index, somebody removes the same entry: it has to wait, or the index
/// would hold what the disk does not.
#[test]
fn writing_and_removing_one_key_wait_for_each_other() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    let (sender, removed) = std::sync::mpsc::channel();
    let removing = cache.clone();
    let _off = faults::on(move |op| {
        if faults::name(op) == "sync shard" {
            let (cache, done) = (removing.clone(), sender.clone());
            std::thread::spawn(move || {
                let gone = cache.shared.discard(Kind::Answer, &key(1), None, stats::Cause::Evicted);
                done.send(gone).unwrap();
            });
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
    put(&cache, Kind::Answer, 1, 10);
    assert!(removed.recv().unwrap());
    assert!(!bench.file(Kind::Answer, &key(1)).exists());
    assert_eq!(cache.stats().kinds[0].entries, 0);
}

/// Puts the first entry anew, and before its rename has another thread look for something to remove,
/// which then finds the entry as it was and has to wait for its turn.
fn put_anew_while(cache: &Cache, removes: fn(&Shared)) {
    let (sender, removed) = std::sync::mpsc::channel();
    let removing = Arc::clone(&cache.shared);
    let _off = faults::on(move |op| {
        if faults::name(op) == "rename" {
            let (shared, done) = (Arc::clone(&removing), sender.clone());
            std::thread::spawn(move || {
                removes(&shared);
                done.send(()).unwrap();
            });
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    });
    put(cache, Kind::Answer, 1, 10);
    removed.recv().unwrap();
}

#[test]
fn the_longest_unused_that_is_written_anew_meanwhile_is_not_pushed_out() {
    let mut bench = Bench::on_disk_only();
    bench.options.answers_bytes = 3 * 8192;
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    put(&cache, Kind::Answer, 2, 10);
    put_anew_while(&cache, |shared| shared.make_room(Kind::Answer, 2 * 8192));
    assert!(holds(&cache, Kind::Answer, 1), "it is the newest now");
    assert!(!holds(&cache, Kind::Answer, 2), "it was the longest unused instead");
}

#[test]
fn what_is_written_anew_while_it_is_found_too_old_stays() {
    let by_sweep: fn(&Shared) = keeper::sweep;
    let by_scan: fn(&Shared) = |shared| scan::scan(shared, Kind::Answer, &|| false).unwrap();
    for remove in [by_sweep, by_scan] {
        let bench = Bench::on_disk_only();
        let cache = bench.open();
        put(&cache, Kind::Answer, 1, 10);
        put(&cache, Kind::Answer, 2, 10);
        bench.later(25 * HOUR_MS);
        put_anew_while(&cache, remove);
        assert!(holds(&cache, Kind::Answer, 1), "it is young");
        assert_eq!(cache.stats().kinds[0].expired, 1, "the other was removed");
    }
}
