//! kill −9 at every step of a write. A child (this test binary again) writes rounds of entries, says
//! after each that it is kept, and is killed: by a failpoint before a step of a write (in the writing
//! itself: with half of the bytes written), or by us at any moment. Then the folder is opened and
//! asked: every entry is whole or absent, the last one kept is there, nothing half-made lies about,
//! and the index counts what the disk holds.
//!
//! 50 runs, 1,000 with `SAM2D_SOAK` set.

use super::*;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};

/// Where the failpoints are.
const STEPS: [&str; 9] = [
    "make shard",
    "sync kind",
    "create",
    "write",
    "set times",
    "sync file",
    "rename",
    "sync shard",
    "unlink",
];
const KEYS: u8 = 10;
/// Room for some of the keys only, so that writes push others out.
const BUDGET: u64 = 6 * 16_384;

/// What a key holds in a round: whole or recognisably not.
fn payload(n: u8, round: u32) -> Vec<u8> {
    let seed = Sum::of(&[&[n][..], &round.to_le_bytes()].concat());
    seed.0.iter().copied().cycle().take(9000 + usize::from(n) * 100).collect()
}

fn options(root: &Path) -> Options {
    Options {
        dir: Some(root.into()),
        min_free_bytes: 0,
        open_bytes: 0,
        answers_bytes: BUDGET,
        embeddings_bytes: BUDGET,
        slices_bytes: BUDGET,
        ..Options::default()
    }
}

#[test]
#[ignore = "the child of the others; alone it does nothing"]
fn child() {
    let Some(root) = std::env::var_os("SAM2D_KILL_ROOT") else { return };
    let seed: u32 = std::env::var("SAM2D_KILL_SEED").unwrap().parse().unwrap();
    let step = std::env::var("SAM2D_KILL_STEP").unwrap();
    let root = PathBuf::from(root);
    let cache = Cache::open(options(&root), Clock::system()).unwrap();
    let tmp = root.join("v1/tmp");
    let (mut times, mut all) = (0, 0);
    let _off = faults::on(move |op| {
        all += 1;
        times += u32::from(faults::name(op) == step);
        if times <= seed % 4 && (all < 1000 || step.is_empty()) {
            return Ok(());
        }
        if let store::Op::Write { tmp: name, bytes } = op {
            let mut file = fs::File::options().append(true).open(tmp.join(name)).unwrap();
            file.write_all(&bytes[..bytes.len() / 2]).unwrap();
        }
        println!("\nkilled {}", faults::name(op));
        let me = rustix::process::getpid();
        rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
        Ok(())
    });
    for round in 0..u32::MAX {
        let kind = Kind::ALL[(seed + round) as usize % 3];
        let n = u8::try_from((seed * 7 + round * 3) % u32::from(KEYS)).unwrap();
        let content = payload(n, round);
        let metadata = round.to_le_bytes();
        cache.put(kind, &key(n), Content { metadata: &metadata, sections: &[&content] }).unwrap();
        println!("\nkept {} {n} {round}", kind.name());
    }
}

/// Starts the child, lets it be killed at a step (or kills it after so many microseconds of work),
/// and returns what it said: the entries it kept, in order, and where its failpoint struck.
fn run_child(root: &Path, seed: u32, step: Result<&str, u64>) -> (Vec<(Kind, u8, u32)>, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cache::tests::kill::child", "--ignored", "--nocapture"])
        .env("SAM2D_KILL_ROOT", root)
        .env("SAM2D_KILL_SEED", seed.to_string())
        .env("SAM2D_KILL_STEP", step.unwrap_or(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = vec![];
    if let Err(us) = step {
        // The first entry is kept: it is at work.
        said.extend(lines.by_ref().map(Result::unwrap).find(|line| line.starts_with("kept")));
        std::thread::sleep(Duration::from_micros(us));
        child.kill().unwrap();
    }
    said.extend(lines.map_while(Result::ok));
    let status = child.wait().unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(status.signal(), Some(9), "the child ended by itself: {errors}");
    let kind_of = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let kept = said.iter().filter_map(|line| {
        let mut words = line.strip_prefix("kept ")?.split(' ');
        // The very last line may be cut off.
        Some((kind_of(words.next()?)?, words.next()?.parse().ok()?, words.next()?.parse().ok()?))
    });
    let struck = said.iter().find_map(|line| line.strip_prefix("killed "));
    (kept.collect(), struck.unwrap_or("any moment").to_owned())
}

/// For a failure to explain itself: what was kept, what lies there, what the cache did.
fn found(root: &Path, cache: &Cache, kept: &[(Kind, u8, u32)]) -> String {
    use std::fmt::Write as _;
    let mut text = format!("kept {kept:?}\n{:?}\n", cache.stats());
    for file in files_under(&root.join("v1")) {
        let (times, name) = (fs::metadata(&file), file.file_name().unwrap().to_owned());
        let n = (0..KEYS).find(|n| name.to_str() == Some(&key(*n).to_hex()));
        let times = times.map(|times| (times.len(), times.modified(), times.accessed()));
        writeln!(text, "{} is {n:?}: {times:?}", file.display()).unwrap();
    }
    text
}

fn asked_after_a_kill(root: &Path, kept: &[(Kind, u8, u32)]) {
    let cache = Cache::open(options(root), Clock::system()).unwrap();
    wait_for_scan(&cache);
    assert!(files_under(&root.join("v1/tmp")).is_empty());
    for kind in Kind::ALL {
        for n in 0..KEYS {
            let Some(entry) = cache.get(kind, &key(n)) else { continue };
            let round = u32::from_le_bytes(entry.metadata()[..].try_into().unwrap());
            let whole = entry.section(0).unwrap() == payload(n, round);
            assert!(whole, "{kind:?} {n} {round}");
        }
        let last = kept.iter().rev().find(|(of, ..)| *of == kind);
        if let Some((_, n, round)) = last {
            let Some(entry) = cache.get(kind, &key(*n)) else {
                panic!("{kind:?} {n} of round {round} was kept last: {}", found(root, &cache, kept))
            };
            let found = u32::from_le_bytes(entry.metadata()[..].try_into().unwrap());
            assert!(found >= *round, "{found} is older than {round}, which was kept");
        }
    }
    let stats = cache.stats();
    for (kind, numbers) in Kind::ALL.iter().zip(&stats.kinds) {
        assert_eq!(numbers.bad, 0, "kill −9 loses no written page: nothing may be damaged");
        assert!(numbers.bytes <= BUDGET);
        let files = files_under(&root.join("v1").join(kind.name()));
        assert_eq!(numbers.entries, files.len() as u64);
    }
    for kind in Kind::ALL {
        let content = payload(0, u32::MAX);
        cache.put(kind, &key(0), Content { metadata: &[0xff; 4], sections: &[&content] }).unwrap();
        assert!(cache.get(kind, &key(0)).unwrap().section(0).unwrap() == content, "it goes on");
    }
}

#[test]
fn killed_at_any_step_of_a_write_every_entry_is_whole_or_absent() {
    let runs = if std::env::var_os("SAM2D_SOAK").is_some() { 1000 } else { 50 };
    let mut killed: BTreeMap<String, u32> = BTreeMap::new();
    let folder = tempfile::tempdir().unwrap();
    for run in 0..runs {
        // Every tenth run starts from an empty folder, the others from what the last kill left.
        let root = folder.path().join(format!("cache-{}", run / 10));
        let moment = (u64::from(run) * 7919) % 20_000;
        let step = STEPS.get(run as usize % (STEPS.len() + 1)).copied().ok_or(moment);
        let (kept, step) = run_child(&root, run, step);
        asked_after_a_kill(&root, &kept);
        *killed.entry(step).or_default() += 1;
    }
    eprintln!("{runs} kills: {killed:?}");
    for step in STEPS.iter().chain(&["any moment"]) {
        assert!(killed.contains_key(*step), "no kill at {step}: {killed:?}");
    }
}
