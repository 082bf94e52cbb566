//! Disks that refuse: full, read-only, gone, forbidden, failing at any step. Answers are right each
//! time, the fault is counted and logged once, and the space is given back.

use super::*;
use crate::cache::keeper;
use crate::cache::store::Op;
use rustix::io::Errno;
use std::io;
use std::process::Command;

/// The cache still answers from memory, writes nothing, and says why.
fn in_trouble(cache: &Cache, n: u8) {
    let before = cache.stats();
    let content = Content { metadata: b"m", sections: &[&[n; 3000]] };
    assert!(cache.put(Kind::Answer, &key(n), content).is_err());
    assert!(holds(cache, Kind::Answer, n), "kept in memory");
    let after = cache.stats();
    assert_eq!(after.kinds[0].put_failures, before.kinds[0].put_failures + 1);
    assert!(after.faults > before.faults);
    assert!(after.trouble.is_some());
    assert_eq!(after.kinds[0].bytes, before.kinds[0].bytes);
}

#[test]
fn a_failure_at_any_step_of_a_write_leaves_no_trace_and_the_next_write_heals() {
    for kind in Kind::ALL {
        let steps = steps_of_a_put(kind);
        assert!(steps.len() >= 5, "{steps:?}");
        for (at, step) in steps.iter().enumerate() {
            for errno in [Errno::IO, Errno::NOSPC, Errno::ROFS, Errno::ACCESS, Errno::DQUOT] {
                let bench = Bench::on_disk_only();
                let cache = bench.open();
                let mut count = 0;
                let off = faults::on(move |_| {
                    count += 1;
                    if count > at { Err(errno.into()) } else { Ok(()) }
                });
                let content = Content { metadata: b"m", sections: &[&[1; 3000]] };
                let put = cache.put(kind, &key(1), content);
                drop(off);
                assert!(put.is_err(), "{kind:?} {step} {errno}");
                assert_eq!(bench.tmp_files(), 0, "{kind:?} {step} {errno}");
                // After the rename the entry is there in full, and may be found.
                let there = holds(&cache, kind, 1);
                assert_eq!(there, *step == "sync shard", "{kind:?} {step} {errno}");
                let stats = cache.stats();
                assert!(stats.trouble.is_some());
                put_again(&cache, kind, &bench);
            }
        }
    }
}

fn put_again(cache: &Cache, kind: Kind, bench: &Bench) {
    put(cache, kind, 1, 3000);
    assert!(holds(cache, kind, 1));
    let stats = cache.stats();
    assert_eq!(stats.trouble, None);
    let at = Kind::ALL.iter().position(|other| *other == kind).unwrap();
    assert_eq!(stats.kinds[at].bytes, bench.disk_bytes(kind));
}

/// The first put of a kind takes every step there is.
fn steps_of_a_put(kind: Kind) -> Vec<&'static str> {
    let bench = Bench::new();
    let cache = bench.open();
    let steps = Arc::new(Mutex::new(vec![]));
    let record = Arc::clone(&steps);
    let _off = faults::on(move |op| {
        locked(&record).push(faults::name(op));
        Ok(())
    });
    put(&cache, kind, 1, 3000);
    locked(&steps).clone()
}

#[test]
fn an_entry_is_synced_before_its_name_and_its_name_after() {
    let synced = [
        "create",
        "write",
        "set times",
        "sync file",
        "rename",
        "make shard",
        "sync kind",
        "rename",
        "sync shard",
    ];
    assert_eq!(steps_of_a_put(Kind::Answer), synced);
    assert_eq!(steps_of_a_put(Kind::Slice), synced);
    let unsynced = ["create", "write", "set times", "rename", "make shard", "sync kind", "rename"];
    assert_eq!(steps_of_a_put(Kind::Embedding), unsynced);
}

#[test]
fn a_read_that_fails_is_a_miss_and_leaves_the_entry_where_it_is() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    let off = faults::on(|op| match op {
        Op::Read => Err(Errno::IO.into()),
        _ => Ok(()),
    });
    assert!(!holds(&cache, Kind::Answer, 1));
    drop(off);
    assert!(cache.stats().trouble.unwrap().contains("can't be read"));
    assert!(holds(&cache, Kind::Answer, 1));
}

#[test]
fn a_full_disk_takes_the_room_of_older_entries_of_the_kind() {
    for full in [Errno::NOSPC, Errno::DQUOT] {
        let bench = Bench::on_disk_only();
        let cache = bench.open();
        put(&cache, Kind::Answer, 1, 10);
        put(&cache, Kind::Slice, 2, 10);
        let mut once = true;
        let _off = faults::on(move |op| match op {
            Op::Write { .. } if std::mem::take(&mut once) => Err(full.into()),
            _ => Ok(()),
        });
        put(&cache, Kind::Answer, 3, 10);
        assert!(!holds(&cache, Kind::Answer, 1), "{full}");
        assert!(holds(&cache, Kind::Slice, 2));
        assert!(holds(&cache, Kind::Answer, 3));
        assert_eq!(cache.stats().kinds[0].evicted, 1);
    }
}

#[test]
fn the_last_of_the_disk_is_left_to_others() {
    let mut bench = Bench::new();
    bench.options.min_free_bytes = u64::MAX;
    let cache = bench.open();
    in_trouble(&cache, 1);
    assert_eq!(bench.tmp_files(), 0);
    assert!(files_under(&bench.root().join("v1")).is_empty());
}

#[test]
fn a_folder_deleted_under_the_daemon_is_made_anew() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    put(&cache, Kind::Embedding, 1, 10);
    fs::remove_dir_all(bench.root()).unwrap();
    assert!(!holds(&cache, Kind::Embedding, 1));
    put(&cache, Kind::Embedding, 2, 10);
    assert!(holds(&cache, Kind::Embedding, 2));
    assert!(bench.file(Kind::Embedding, &key(2)).exists());
    assert_eq!(cache.stats().kinds[1].entries, 1);
    let error = Cache::open(bench.options.clone(), bench.clock()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { .. }), "the new folder is locked too");
}

#[test]
fn only_a_part_of_the_tree_deleted_is_made_anew_too() {
    for part in ["v1", "v1/tmp", "v1/answer"] {
        let bench = Bench::on_disk_only();
        let cache = bench.open();
        put(&cache, Kind::Answer, 1, 10);
        fs::remove_dir_all(bench.root().join(part)).unwrap();
        put(&cache, Kind::Answer, 2, 10);
        assert!(bench.file(Kind::Answer, &key(2)).exists(), "{part}");
        assert!(holds(&cache, Kind::Answer, 2), "{part}");
    }
}

#[test]
fn a_folder_that_another_daemon_took_over_is_left_to_it() {
    let bench = Bench::new();
    let cache = bench.open();
    fs::rename(bench.root(), bench.folder.path().join("moved")).unwrap();
    let other = bench.open();
    fs::remove_dir_all(bench.folder.path().join("moved")).unwrap();
    in_trouble(&cache, 1);
    put(&other, Kind::Answer, 2, 10);
    assert_eq!(other.stats().trouble, None);
}

/// As root every permission is granted, so the thread (and those it starts) becomes nobody.
fn as_nobody(test: impl FnOnce() + Send + 'static) {
    let run = std::thread::spawn(move || {
        if rustix::process::geteuid().is_root() {
            let nobody = rustix::process::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        test();
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A bench whose folder nobody owns.
fn nobodys_bench() -> Bench {
    let bench = Bench::new();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(bench.folder.path(), Some(65_534), Some(65_534)).unwrap();
    }
    bench
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_folder_that_can_t_be_made_leaves_a_cache_in_memory() {
    let bench = nobodys_bench();
    as_nobody(move || {
        set_mode(bench.folder.path(), 0o500);
        let cache = bench.open();
        in_trouble(&cache, 1);
        set_mode(bench.folder.path(), 0o700);
        keeper::sweep(&cache.shared);
        put(&cache, Kind::Answer, 2, 10);
        assert_eq!(cache.stats().trouble, None, "it tries again by itself");
        assert!(bench.file(Kind::Answer, &key(2)).exists());
    });
}

#[test]
fn a_folder_made_read_only_still_gives_what_it_has() {
    let bench = nobodys_bench();
    as_nobody(move || {
        let cache = bench.open();
        put(&cache, Kind::Embedding, 1, 10_000);
        for part in ["v1/tmp", "v1/answer", "v1/embedding"] {
            set_mode(&bench.root().join(part), 0o500);
        }
        assert!(holds(&cache, Kind::Embedding, 1));
        in_trouble(&cache, 2);
        drop(cache);
        let cache = bench.open();
        assert!(holds(&cache, Kind::Embedding, 1));
        for part in ["v1/tmp", "v1/answer", "v1/embedding"] {
            set_mode(&bench.root().join(part), 0o700);
        }
        put(&cache, Kind::Answer, 3, 10);
        assert_eq!(cache.stats().trouble, None);
    });
}

#[test]
fn an_entry_without_permission_to_read_is_a_miss() {
    let bench = nobodys_bench();
    as_nobody(move || {
        let mut bench = bench;
        bench.options.open_bytes = 0;
        let cache = bench.open();
        put(&cache, Kind::Answer, 1, 10);
        set_mode(&bench.file(Kind::Answer, &key(1)), 0o000);
        assert!(!holds(&cache, Kind::Answer, 1));
        assert!(cache.stats().trouble.unwrap().contains("denied"));
        set_mode(&bench.file(Kind::Answer, &key(1)), 0o600);
        assert!(holds(&cache, Kind::Answer, 1));
    });
}

#[test]
fn a_folder_of_another_user_is_refused() {
    let bench = Bench::new();
    drop(bench.open());
    if !rustix::process::geteuid().is_root() {
        return skip("cache-other-user", "needs root to make a folder that is another user's");
    }
    std::os::unix::fs::chown(bench.root(), Some(65_534), None).unwrap();
    let error = Cache::open(bench.options.clone(), bench.clock()).unwrap_err();
    assert!(matches!(error, OpenError::NotOwned { owner: 65_534, .. }), "{error}");
}

/// Runs a test of this file again as a child that may mount: in a mount namespace of its own, so
/// that nothing stays mounted, and in a user namespace too where that is what it takes. True in the
/// child.
fn in_own_mounts(test: &str) -> bool {
    if is_child() {
        return true;
    }
    let root = rustix::process::geteuid().is_root();
    let namespaces = if root { "--mount" } else { "-Urm" };
    let can = Command::new("unshare")
        .args([namespaces, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt"])
        .status();
    if !can.is_ok_and(|status| status.success()) {
        skip("cache-mounts", "a mount namespace with a small tmpfs can't be made here");
        return false;
    }
    let mut unshare = Command::new("unshare");
    run_again(unshare.arg(namespaces).arg(std::env::current_exe().unwrap()), test);
    false
}

fn is_child() -> bool {
    std::env::var_os("SAM2D_CHILD").is_some()
}

fn run_again(command: &mut Command, test: &str) {
    let run = command
        .args(["--exact", &format!("cache::tests::disk::{test}"), "--nocapture"])
        .env("SAM2D_CHILD", "1")
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    let said = said.concat();
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

fn mount(options: &str, at: &Path) {
    let mut command = Command::new("mount");
    command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at);
    assert!(command.status().unwrap().success());
}

#[test]
fn a_really_full_disk_costs_the_cache_and_nothing_else() {
    if !in_own_mounts("a_really_full_disk_costs_the_cache_and_nothing_else") {
        return;
    }
    let bench = Bench::new();
    fs::create_dir(bench.root()).unwrap();
    mount("size=512k", &bench.root());
    let cache = bench.open();
    for n in 0..40 {
        put(&cache, Kind::Answer, n, 20_000);
        assert!(holds(&cache, Kind::Answer, n));
    }
    let held = (0..40).filter(|n| bench.file(Kind::Answer, &key(*n)).exists()).count();
    assert!((10..30).contains(&held), "{held} of 40 lie on the disk: the older made room");
    assert_eq!(cache.stats().kinds[0].bytes, bench.disk_bytes(Kind::Answer));
    cache.purge();
    let filler = bench.folder.path().join("cache/lost+found");
    fs::write(&filler, vec![1; 1 << 20]).unwrap_err();
    for n in 40..50 {
        in_trouble(&cache, n);
    }
    assert_eq!(bench.tmp_files(), 0, "space is given back");
    assert_eq!(cache.stats().kinds[0].bytes, bench.disk_bytes(Kind::Answer));
    fs::remove_file(&filler).unwrap();
    put(&cache, Kind::Answer, 60, 20_000);
    assert_eq!(cache.stats().trouble, None);
    let cache = bench.reopened(cache);
    assert!(holds(&cache, Kind::Answer, 60));
}

/// Collects what is logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        locked(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn trouble_is_counted_each_time_and_logged_when_it_begins_and_ends() {
    if !is_child() {
        // Alone in a process: a subscriber of one thread is unreliable beside other threads.
        let mut command = Command::new(std::env::current_exe().unwrap());
        return run_again(
            &mut command,
            "trouble_is_counted_each_time_and_logged_when_it_begins_and_ends",
        );
    }
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bench = Bench::new();
    let cache = bench.open();
    for _ in 0..2 {
        let off = faults::on(|_| Err(Errno::IO.into()));
        for n in 0..10 {
            in_trouble(&cache, n);
        }
        drop(off);
        put(&cache, Kind::Answer, 99, 10);
    }
    assert_eq!(cache.stats().faults, 20);
    let text = String::from_utf8(locked(&log.0).clone()).unwrap();
    assert_eq!(text.matches("in trouble").count(), 2, "{text}");
    assert_eq!(text.matches("writes to the disk again").count(), 2, "{text}");
    assert!(!text.contains(&key(1).to_hex()), "whole keys are not logged");
}
