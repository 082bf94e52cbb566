//! What the command line works on: listing, verifying and purging, with and without a daemon.

use super::*;
use crate::cache::tools::Folder;

#[test]
fn purge_leaves_neither_file_nor_memory() {
    let bench = Bench::new();
    let cache = bench.open();
    for kind in Kind::ALL {
        put(&cache, kind, 1, 10);
    }
    assert_eq!(cache.purge(), 3);
    for kind in Kind::ALL {
        assert!(!holds(&cache, kind, 1));
    }
    assert!(files_under(&bench.root().join("v1")).is_empty());
    assert_eq!(cache.stats().kinds.each_ref().map(|kind| kind.entries), [0, 0, 0]);
    assert_eq!(cache.stats().kinds.each_ref().map(|kind| kind.evicted), [0, 0, 0]);
    put(&cache, Kind::Answer, 2, 10);
    assert!(holds(&cache, Kind::Answer, 2), "it goes on afterwards");
}

#[test]
fn what_was_on_its_way_at_a_purge_does_not_come_back() {
    let bench = Bench::new();
    let cache = bench.open();
    let during = cache.clone();
    let _off = faults::on(move |op| {
        if faults::name(op) == "rename" {
            during.purge();
        }
        Ok(())
    });
    let content = Content { metadata: b"m", sections: &[&[1; 9]] };
    let put = cache.put(Kind::Answer, &key(1), content);
    assert!(matches!(put, Err(PutError::Purged)), "{put:?}");
    assert!(!holds(&cache, Kind::Answer, 1));
    assert!(files_under(&bench.root().join("v1")).is_empty());
}

/// The purge comes while the entry is being made: between the count of purges and memory.
#[test]
fn what_was_being_made_at_a_purge_is_not_in_memory_either() {
    let bench = Bench::new();
    let purging: Arc<Mutex<Option<Cache>>> = Arc::default();
    let armed = Arc::clone(&purging);
    let clock = Clock::new(move || {
        let purging = locked(&armed).take();
        purging.map(|cache| cache.purge());
        let now = Duration::from_millis(NOW_MS);
        Reading { wall: SystemTime::UNIX_EPOCH + now, uptime: now }
    });
    let cache = Cache::open(bench.options, clock).unwrap();
    wait_for_scan(&cache);
    locked(&purging).replace(cache.clone());
    let content = Content { metadata: b"m", sections: &[&[1; 9]] };
    let put = cache.put(Kind::Answer, &key(1), content);
    assert!(matches!(put, Err(PutError::Purged)), "{put:?}");
    assert!(cache.peek(Kind::Answer, &key(1)).is_none());
}

/// As the writing thread has it in hand.
#[test]
fn what_is_being_written_at_a_purge_is_not_found_any_more() {
    let bench = Bench::on_disk_only();
    let shared = Shared::new(bench.options.clone(), bench.clock());
    shared.attach().unwrap();
    let content = Content { metadata: b"m", sections: &[&[1; 9]] };
    let checked = entry::build(Kind::Answer, &key(1), NOW_MS, content).unwrap();
    let checked = Arc::new(checked);
    let job = Job { kind: Kind::Answer, key: key(1), checked, generation: shared.generation() };
    shared.queue.push(job).unwrap();
    let job = shared.queue.next().unwrap();
    assert!(shared.lookup(Kind::Answer, &key(1)).is_some());
    shared.forget_all();
    assert!(shared.lookup(Kind::Answer, &key(1)).is_none());
    assert!(matches!(shared.write(&job), Err(PutError::Purged)));
    assert!(files_under(&bench.root().join("v1")).is_empty());
}

#[test]
fn a_list_shows_every_entry_and_reads_none() {
    let bench = Bench::new();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    put(&cache, Kind::Embedding, 2, 5000);
    bench.later(60_000);
    assert!(holds(&cache, Kind::Embedding, 2));
    drop(cache);
    let folder = Folder::open(&bench.root()).unwrap().unwrap();
    let _off = faults::on(|op| panic!("{}", faults::name(op)));
    let mut listed = vec![];
    folder
        .list(&mut |entry| {
            listed.push(entry);
            ControlFlow::Continue(())
        })
        .unwrap();
    let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
    assert_eq!(listed.len(), 2);
    assert_eq!((listed[0].kind, listed[0].key, listed[0].bytes), (Kind::Answer, key(1), 4160));
    assert_eq!(listed[1].created, at(NOW_MS));
    assert_eq!(listed[1].last_used, at(NOW_MS + 60_000));
}

#[test]
fn verify_deletes_what_is_damaged_and_names_it() {
    for live in [false, true] {
        let bench = Bench::on_disk_only();
        let cache = bench.open();
        for n in 0..4 {
            put(&cache, Kind::Answer, n, 10);
        }
        rewrite(&bench.file(Kind::Answer, &key(2)), |bytes| bytes.truncate(4099));
        let verified = if live {
            cache.verify(&|| ControlFlow::Continue(())).unwrap()
        } else {
            drop(cache);
            Folder::open(&bench.root())
                .unwrap()
                .unwrap()
                .verify(&|| ControlFlow::Continue(()))
                .unwrap()
        };
        assert_eq!((verified.sound, verified.bytes), (3, 3 * 4160));
        assert_eq!(verified.bad, [(Kind::Answer, key(2), Bad::Length)]);
        assert!(!bench.file(Kind::Answer, &key(2)).exists());
    }
}

#[test]
fn tools_leave_a_daemons_folder_to_the_daemon_and_make_none() {
    let bench = Bench::new();
    assert!(Folder::open(&bench.root()).unwrap().is_none());
    assert!(!bench.root().exists());
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    assert!(matches!(Folder::open(&bench.root()).unwrap_err(), OpenError::Locked { .. }));
    drop(cache);
    let folder = Folder::open(&bench.root()).unwrap().unwrap();
    let error = Cache::open(bench.options.clone(), bench.clock()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "nor does a daemon start meanwhile");
    assert_eq!(folder.purge().unwrap(), 1);
    assert!(!bench.file(Kind::Answer, &key(1)).exists());
}
