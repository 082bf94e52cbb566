//! What the cache promises, against real folders.

pub(super) mod faults;

use super::*;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64 as Millis, Ordering};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// 2026-01-01: some plausible now.
const NOW_MS: u64 = 1_767_225_600_000;
const HOUR_MS: u64 = 3_600_000;

/// A folder, a clock that can be turned, and options small enough to hit.
struct Bench {
    folder: TempDir,
    now_ms: Arc<Millis>,
    options: Options,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { dir: Some(folder.path().join("cache")), ..Options::default() };
        Self { folder, now_ms: Arc::new(Millis::new(NOW_MS)), options }
    }

    /// Both clocks of a machine that has been up for a while.
    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now_ms);
        Clock::new(move || {
            let now = Duration::from_millis(now.load(Ordering::Relaxed));
            Reading { wall: SystemTime::UNIX_EPOCH + now, uptime: now }
        })
    }

    fn open(&self) -> Cache {
        let cache = Cache::open(self.options.clone(), self.clock()).unwrap();
        wait_for_scan(&cache);
        cache
    }

    fn later(&self, ms: u64) {
        self.now_ms.fetch_add(ms, Ordering::Relaxed);
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn file(&self, kind: Kind, key: &Sum) -> PathBuf {
        let hex = key.to_hex();
        self.root().join("v1").join(kind.name()).join(&hex[..2]).join(hex)
    }
}

fn wait_for_scan(cache: &Cache) {
    while !cache.stats().scanned {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn key(n: u8) -> Sum {
    Sum::of(&[n])
}

fn put(cache: &Cache, kind: Kind, n: u8, bytes: usize) {
    let payload = vec![n; bytes];
    cache.put(kind, &key(n), Content { metadata: b"m", sections: &[&payload] }).unwrap();
}

fn holds(cache: &Cache, kind: Kind, n: u8) -> bool {
    let Some(entry) = cache.get(kind, &key(n)) else { return false };
    assert_eq!(entry.metadata(), &b"m"[..]);
    assert!(entry.section(0).unwrap().iter().all(|byte| *byte == n), "another entry's bytes");
    true
}

/// Changes a file as a failing disk would: its times stay.
fn rewrite(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    let times = fs::metadata(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
    let times = fs::FileTimes::new()
        .set_accessed(times.accessed().unwrap())
        .set_modified(times.modified().unwrap());
    fs::File::options().write(true).open(file).unwrap().set_times(times).unwrap();
}

fn files_under(path: &Path) -> Vec<PathBuf> {
    let Ok(list) = fs::read_dir(path) else { return vec![] };
    list.flat_map(|item| {
        let path = item.unwrap().path();
        if path.is_dir() { files_under(&path) } else { vec![path] }
    })
    .collect()
}

#[test]
fn what_was_put_is_found_again_also_after_a_restart() {
    let bench = Bench::new();
    let cache = bench.open();
    for kind in Kind::ALL {
        assert!(!holds(&cache, kind, 1));
        put(&cache, kind, 1, 10_000);
        assert!(holds(&cache, kind, 1));
    }
    drop(cache);
    let cache = bench.open();
    for kind in Kind::ALL {
        assert!(holds(&cache, kind, 1), "{kind:?}");
        let entry = cache.get(kind, &key(1)).unwrap();
        assert_eq!(entry.section(0).unwrap().as_ptr() as usize % ALIGN, 0);
        let floats: &[f32] = bytemuck::cast_slice(&entry.section(0).unwrap()).to_vec().leak();
        assert_eq!(floats.len(), 2500);
    }
    let stats = cache.stats();
    assert_eq!(stats.kinds.each_ref().map(|kind| kind.entries), [1, 1, 1]);
    assert_eq!(stats.trouble, None);
}

#[test]
fn kinds_and_keys_are_told_apart() {
    let bench = Bench::new();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    assert!(!holds(&cache, Kind::Slice, 1));
    assert!(!holds(&cache, Kind::Answer, 2));
}

#[test]
fn an_entry_ends_a_day_after_its_creation_however_often_it_was_hit() {
    for kind in Kind::ALL {
        let bench = Bench::new();
        let cache = bench.open();
        put(&cache, kind, 1, 10);
        bench.later(23 * HOUR_MS);
        assert!(holds(&cache, kind, 1));
        let entry = cache.get(kind, &key(1)).unwrap();
        assert_eq!(
            entry.expires(),
            SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS + 24 * HOUR_MS)
        );
        bench.later(HOUR_MS - 1);
        assert!(holds(&cache, kind, 1));
        bench.later(1);
        assert!(!holds(&cache, kind, 1), "{kind:?}");
        assert!(!holds(&bench.reopened(cache), kind, 1));
        assert!(files_under(&bench.root().join("v1")).is_empty());
    }
}

impl Bench {
    fn reopened(&self, cache: Cache) -> Cache {
        drop(cache);
        self.open()
    }
}

#[test]
fn each_kind_keeps_to_its_bytes_and_the_longest_unused_goes() {
    let mut bench = Bench::new();
    bench.options.answers_bytes = 5 * 8192;
    let cache = bench.open();
    for n in 0..5 {
        put(&cache, Kind::Answer, n, 10); // a page of head, a page of payload
    }
    assert!(holds(&cache, Kind::Answer, 0));
    put(&cache, Kind::Answer, 5, 10);
    let there: Vec<_> = (0..6).filter(|n| bench.file(Kind::Answer, &key(*n)).exists()).collect();
    assert_eq!(there, [0, 2, 3, 4, 5]);
    let stats = &cache.stats().kinds[0];
    assert_eq!((stats.entries, stats.bytes, stats.evicted), (5, 5 * 8192, 1));
}

#[test]
fn a_smaller_budget_takes_effect_at_the_next_start_oldest_first() {
    let mut bench = Bench::new();
    let cache = bench.open();
    for n in 0..5 {
        put(&cache, Kind::Slice, n, 10);
        bench.later(2000);
    }
    bench.options.slices_bytes = 2 * 8192;
    let cache = bench.reopened(cache);
    let there: Vec<_> = (0..5).filter(|n| holds(&cache, Kind::Slice, *n)).collect();
    assert_eq!(there, [3, 4]);
}

#[test]
fn an_entry_larger_than_its_kinds_budget_is_refused_and_pushes_nothing_out() {
    let mut bench = Bench::new();
    bench.options.answers_bytes = 100_000;
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    let big = vec![0; 100_001];
    let content = Content { metadata: &[], sections: &[&big] };
    let refused = cache.put(Kind::Answer, &key(2), content).unwrap_err();
    assert!(matches!(refused, PutError::TooLarge { .. }));
    assert!(holds(&cache, Kind::Answer, 1));
}

#[test]
fn a_second_daemon_is_told_who_has_the_folder() {
    let bench = Bench::new();
    let _first = bench.open();
    let error = Cache::open(bench.options.clone(), bench.clock()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()));
    assert!(text.contains("in use by process"), "{text}");
}

#[test]
fn a_folder_that_holds_something_else_is_refused_and_left_alone() {
    let bench = Bench::new();
    fs::create_dir(bench.root()).unwrap();
    fs::write(bench.root().join("thesis.txt"), "years").unwrap();
    let error = Cache::open(bench.options.clone(), bench.clock()).unwrap_err();
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
    assert_eq!(fs::read(bench.root().join("thesis.txt")).unwrap(), b"years");
}

#[test]
fn folders_and_files_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    fs::create_dir(bench.root()).unwrap();
    fs::set_permissions(bench.root(), fs::Permissions::from_mode(0o755)).unwrap();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    let file = bench.file(Kind::Answer, &key(1));
    let mut at = file.as_path();
    while at != bench.folder.path() {
        let mode = fs::metadata(at).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{at:?} {mode:o}");
        at = at.parent().unwrap();
    }
}

#[test]
fn half_made_and_foreign_files_are_gone_after_a_start() {
    let bench = Bench::new();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    drop(cache);
    let tree = bench.root().join("v1");
    fs::write(tree.join("tmp/0123456789abcdef"), "half").unwrap();
    fs::write(tree.join("answer/readme"), "foreign").unwrap();
    let shard = bench.file(Kind::Answer, &key(1)).parent().unwrap().to_path_buf();
    fs::write(shard.join("note"), "foreign").unwrap();
    fs::write(shard.join(Sum([0xee; 32]).to_hex()), "in the wrong shard").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", shard.join("link")).unwrap();
    let cache = bench.open();
    assert_eq!(files_under(&tree), [bench.file(Kind::Answer, &key(1))]);
    assert!(holds(&cache, Kind::Answer, 1));
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn a_damaged_entry_is_a_miss_deleted_and_counted() {
    for kind in Kind::ALL {
        let bench = Bench::new();
        let cache = bench.open();
        put(&cache, kind, 1, 10_000);
        drop(cache);
        let file = bench.file(kind, &key(1));
        rewrite(&file, |bytes| bytes[9000] ^= 1);
        let cache = bench.open();
        assert!(!holds(&cache, kind, 1));
        assert!(!file.exists());
        assert_eq!(cache.stats().kinds.iter().map(|kind| kind.bad).sum::<u64>(), 1);
        put(&cache, kind, 1, 10_000);
        assert!(holds(&bench.reopened(cache), kind, 1));
    }
}

#[test]
fn an_entry_under_another_key_or_kind_is_a_miss() {
    let bench = Bench::new();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    drop(cache);
    for (kind, n) in [(Kind::Answer, 2), (Kind::Slice, 1)] {
        let to = bench.file(kind, &key(n));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(bench.file(Kind::Answer, &key(1)), to).unwrap();
    }
    let cache = bench.open();
    assert!(cache.get(Kind::Answer, &key(2)).is_none());
    assert!(cache.get(Kind::Slice, &key(1)).is_none());
    assert!(holds(&cache, Kind::Answer, 1));
}

#[test]
fn switched_off_kinds_keep_nothing_and_fail_nothing() {
    let mut bench = Bench::new();
    bench.options.embeddings = false;
    let cache = bench.open();
    assert!(!cache.keeps(Kind::Embedding));
    put(&cache, Kind::Embedding, 1, 10);
    assert!(!holds(&cache, Kind::Embedding, 1));
    bench.options.enabled = false;
    let cache = bench.reopened(cache);
    put(&cache, Kind::Answer, 1, 10);
    assert!(!holds(&cache, Kind::Answer, 1));
}

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
}

#[test]
fn a_hit_in_memory_opens_no_file() {
    let bench = Bench::new();
    let cache = bench.open();
    assert!(cache.peek(Kind::Answer, &key(1)).is_none());
    put(&cache, Kind::Answer, 1, 10);
    fs::remove_file(bench.file(Kind::Answer, &key(1))).unwrap();
    assert!(cache.peek(Kind::Answer, &key(1)).is_some());
}

#[test]
fn a_folder_deleted_under_the_daemon_is_made_anew() {
    let bench = Bench::new();
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
