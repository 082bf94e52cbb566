//! What a bench of single operations doesn't show.
//!
//! - `access`: an entry read or mapped, warm and with its pages dropped first, alternating, and
//!   copied out as an upload to a device would; medians of 15 rounds.
//! - `startup ENTRIES [cold]`: a folder of so many entries; time to the first answer, time until the
//!   index is complete and processor time for it, memory for each. `cold` (root) drops the page cache
//!   of the whole machine before each of three more starts.
//! - `body`: base64 and SHA-256 of request bodies, alone.

use rustix::fs::{Advice, fadvise};
use sam2d::cache::{Cache, Clock, Content, Kind, Options};
use sam2d_bench_cache::{key, payload};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["access"] => access(),
        ["startup", entries] => startup(entries.parse().expect("a number of entries"), false),
        ["startup", entries, "cold"] => startup(entries.parse().expect("a number"), true),
        ["body"] => body(),
        _ => {
            eprintln!("access | startup ENTRIES [cold] | body");
            std::process::exit(2);
        }
    }
}

fn open(folder: &Path) -> Cache {
    let options = Options {
        dir: Some(folder.join("sam2d")),
        open_bytes: 0,
        answers_bytes: 1 << 40,
        slices_bytes: 1 << 40,
        ..Options::default()
    };
    Cache::open(options, Clock::system()).expect("the folder is ours")
}

fn file(folder: &Path, kind: Kind, n: u64) -> PathBuf {
    let hex = key(n).to_hex();
    folder.join("sam2d/v1").join(kind.name()).join(&hex[..2]).join(&hex)
}

fn access() {
    println!("{:>10} {:>6} {:>12} {:>12} {:>12}", "bytes", "", "warm", "warm+copy", "cold+copy");
    for bytes in [500, 5_000, 20_000, 150_000, 1_000_000, 8_000_000, 16_000_000] {
        let folder = tempfile::tempdir_in(".").expect("a folder here");
        let cache = open(folder.path());
        let kinds = [(Kind::Answer, "read"), (Kind::Embedding, "map")];
        for (kind, _) in kinds {
            let content = payload(7, bytes);
            cache.put(kind, &key(1), Content { metadata: b"", sections: &[&content] }).expect("room");
            let written = std::fs::File::open(file(folder.path(), kind, 1)).expect("it was put");
            written.sync_all().expect("a disk that syncs");
        }
        let mut times: [[Vec<Duration>; 3]; 2] = Default::default();
        let times_each = if bytes < 1_000_000 { 200 } else { 10 };
        for _ in 0..15 {
            for ((kind, _), times) in kinds.into_iter().zip(&mut times) {
                let get = || cache.get(kind, &key(1)).expect("it was put").section(0).expect("one");
                times[0].push(timed(times_each, || drop(std::hint::black_box(get()))));
                times[1].push(timed(times_each, || drop(std::hint::black_box(get().to_vec()))));
                let mut cold = Duration::ZERO;
                for _ in 0..times_each.min(20) {
                    let file = std::fs::File::open(file(folder.path(), kind, 1)).expect("put");
                    fadvise(&file, 0, None, Advice::DontNeed).expect("a plain file");
                    cold += timed(1, || drop(std::hint::black_box(get().to_vec())));
                }
                times[2].push(cold / times_each.min(20));
            }
        }
        for ((_, name), times) in kinds.into_iter().zip(times) {
            let [warm, copied, cold] = times.map(median);
            println!("{bytes:>10} {name:>6} {warm:>12.2?} {copied:>12.2?} {cold:>12.2?}");
        }
    }
}

fn timed(times: u32, mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..times).for_each(|_| work());
    start.elapsed() / times
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Base64 to bytes and their SHA-256, as a request with the image in it needs at least.
fn body() {
    for bytes in [20_000_usize, 100_000, 500_000] {
        let text = base64_simd::STANDARD.encode_to_string(payload(7, bytes * 3 / 4));
        let times = (0..31).map(|_| {
            timed(20, || {
                let image = base64_simd::STANDARD.decode_to_vec(&text).expect("it is base64");
                std::hint::black_box(sam2d::domain::key::Sum::of(&image));
            })
        });
        println!("{} bytes of base64: {:.1?}", text.len(), median(times.collect()));
    }
}

fn startup(entries: u64, cold: bool) {
    let folder = tempfile::tempdir_in(".").expect("a folder here");
    drop(open(folder.path()));
    fill(folder.path(), entries);
    let warm = (0..3).map(|_| start(folder.path(), entries)).collect();
    report("warm", entries, warm);
    if !cold {
        return;
    }
    let drop_pages = || {
        rustix::fs::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3")
    };
    let cold = (0..3).map(|_| {
        drop_pages().expect("root may drop the page cache");
        start(folder.path(), entries)
    });
    report("cold", entries, cold.collect());
}

/// Slice records: the smallest entries, so the most for a disk. One is written by the cache; the
/// others are its bytes under other names (and would be found out only when asked for).
fn fill(folder: &Path, entries: u64) {
    let cache = open(folder);
    let content = Content { metadata: &[7; 300], sections: &[] };
    cache.put(Kind::Slice, &key(0), content).expect("there is room");
    drop(cache);
    let sound = std::fs::read(file(folder, Kind::Slice, 0)).expect("it was put");
    let start = Instant::now();
    let part = |at: u64| {
        for n in (1 + at..entries).step_by(16) {
            let path = file(folder, Kind::Slice, n);
            if std::fs::write(&path, &sound).is_err() {
                std::fs::create_dir_all(path.parent().expect("it has one")).expect("room");
                std::fs::write(&path, &sound).expect("room");
            }
        }
    };
    std::thread::scope(|scope| (0..16).for_each(|at| drop(scope.spawn(move || part(at)))));
    println!("{entries} entries laid out in {:.1?}", start.elapsed());
}

/// One start.
struct Start {
    /// Time to the first answer.
    first: Duration,
    /// Time until the index is complete.
    complete: Duration,
    /// Processor time of the whole process until then.
    processor: Duration,
    index_bytes: u64,
    /// Growth of the process.
    grown_bytes: u64,
}

fn start(folder: &Path, entries: u64) -> Start {
    let (before, processor) = (resident(), processor_time());
    let start = Instant::now();
    let cache = open(folder);
    assert!(cache.get(Kind::Slice, &key(0)).is_some());
    let first = start.elapsed();
    while !cache.stats().scanned {
        std::thread::sleep(Duration::from_millis(1));
    }
    let complete = start.elapsed();
    let processor = processor_time() - processor;
    let stats = cache.stats();
    assert_eq!(stats.kinds[2].entries, entries);
    let grown_bytes = resident().saturating_sub(before);
    Start { first, complete, processor, index_bytes: stats.index_bytes, grown_bytes }
}

fn report(name: &str, entries: u64, runs: Vec<Start>) {
    let all = |time: fn(&Start) -> Duration| runs.iter().map(time).collect::<Vec<_>>();
    let (first, complete) = (all(|run| run.first), all(|run| run.complete));
    let processor = median(all(|run| run.processor));
    let index = runs[0].index_bytes as f64 / entries as f64;
    let grown = runs[0].grown_bytes as f64 / entries as f64;
    println!(
        "{name}: first answer {:.1?} (of {first:.1?}), index complete {:.2?} (of {complete:.2?}; {processor:.2?} of processor time), {index:.1} bytes an entry in the index, process grown by {grown:.1} an entry",
        median(first.clone()),
        median(complete.clone()),
    );
}

/// Processor time of all threads of this process.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
