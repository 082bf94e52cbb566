//! What the cache promises, against real folders.

mod bounds;
mod broken;
mod disk;
pub(super) mod faults;
mod kill;
mod power;
mod threads;
mod time;
mod tools;

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
        let dir = Some(folder.path().join("cache"));
        let options = Options { dir, min_free_bytes: 0, ..Options::default() };
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

impl Bench {
    /// Without the part in memory: every lookup goes to the disk.
    fn on_disk_only() -> Self {
        let mut bench = Self::new();
        bench.options.open_bytes = 0;
        bench
    }

    fn reopened(&self, cache: Cache) -> Cache {
        drop(cache);
        self.open()
    }

    fn tmp_files(&self) -> usize {
        files_under(&self.root().join("v1/tmp")).len()
    }

    /// Bytes that entries occupy on the disk, as the cache counts them.
    fn disk_bytes(&self, kind: Kind) -> u64 {
        let files = files_under(&self.root().join("v1").join(kind.name()));
        files.iter().map(|file| fs::metadata(file).unwrap().len().next_multiple_of(4096)).sum()
    }
}

/// A test that can't run here says so; `./test` lists it at the end.
fn skip(name: &str, reason: &str) {
    use std::io::Write as _;
    eprintln!("skipped {name}: {reason}");
    if let Some(list) = std::env::var_os("SAM2D_SKIPS") {
        let mut list = fs::File::options().append(true).create(true).open(list).unwrap();
        writeln!(list, "{name}: {reason}").unwrap();
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
fn a_start_waits_a_moment_for_who_is_just_ending() {
    let bench = Bench::new();
    drop(bench.open());
    let held = fs::File::open(bench.root().join(folder::LOCK)).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        drop(held);
    });
    drop(bench.open());
    ending.join().unwrap();
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
fn a_hit_in_memory_opens_no_file() {
    let bench = Bench::new();
    let cache = bench.open();
    assert!(cache.peek(Kind::Answer, &key(1)).is_none());
    put(&cache, Kind::Answer, 1, 10);
    fs::remove_file(bench.file(Kind::Answer, &key(1))).unwrap();
    assert!(cache.peek(Kind::Answer, &key(1)).is_some());
}
