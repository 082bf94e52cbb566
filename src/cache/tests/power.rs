//! Power cuts. kill −9 doesn't show them, since the page cache survives it; so the store's own
//! sequence of operations is recorded and replayed on a model of a disk that keeps only what was
//! synced. At every point of the sequence the power is cut, and what was not synced is lost in every
//! way: each subset of the changes to folders, and file contents that are whole, empty, zeros, torn
//! at any block, or with a page missing. Each such disk is laid out, opened, and asked.
//!
//! The model is weaker than any file system in use: changes of folders reach it in any order, a
//! rename's two halves apart, and a length before its data.

use super::*;
use crate::cache::store::Op;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// What happened, in order.
#[derive(Clone, Debug)]
enum Event {
    Create {
        tmp: String,
    },
    Write {
        tmp: String,
        bytes: Vec<u8>,
    },
    SyncFile {
        tmp: String,
    },
    MakeShard {
        shard: String,
    },
    SyncFolder {
        folder: String,
    },
    Rename {
        tmp: String,
        to: String,
    },
    Unlink {
        name: String,
    },
    UnlinkTmp {
        tmp: String,
    },
    /// `put` is about to be called, and has returned.
    Begins {
        entry: Version,
    },
    Kept {
        entry: Version,
    },
}

/// A key's content in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Version {
    kind: Kind,
    n: u8,
    round: u8,
}

impl Version {
    fn payload(self) -> Vec<u8> {
        let seed = Sum::of(&[self.n, self.round]);
        seed.0.iter().copied().cycle().take(9000 + usize::from(self.round)).collect()
    }

    fn put(self, cache: &Cache) {
        let content = self.payload();
        let metadata = [self.round];
        let content = Content { metadata: &metadata, sections: &[&content] };
        cache.put(self.kind, &key(self.n), content).unwrap();
    }
}

fn record(op: Op<'_>) -> Option<Event> {
    let own = str::to_owned;
    Some(match op {
        Op::Create { tmp } => Event::Create { tmp: own(tmp) },
        Op::Write { tmp, bytes } => Event::Write { tmp: own(tmp), bytes: bytes.to_vec() },
        Op::SyncFile { tmp } => Event::SyncFile { tmp: own(tmp) },
        Op::MakeShard { kind, shard } => {
            Event::MakeShard { shard: format!("{}/{shard}", kind.name()) }
        }
        Op::SyncKind { kind } => Event::SyncFolder { folder: kind.name().to_owned() },
        Op::SyncShard { kind, shard } => {
            Event::SyncFolder { folder: format!("{}/{shard}", kind.name()) }
        }
        Op::Rename { tmp, kind, name } => {
            Event::Rename { tmp: own(tmp), to: format!("{}/{name}", kind.name()) }
        }
        Op::Unlink { kind, name } => Event::Unlink { name: format!("{}/{name}", kind.name()) },
        Op::UnlinkTmp { tmp } => Event::UnlinkTmp { tmp: own(tmp) },
        _ => return None,
    })
}

/// Puts, replaces, pushes out and removes entries of all kinds, and writes down each step.
fn recorded(bench: &Bench) -> Vec<Event> {
    let cache = bench.open();
    let events = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&events);
    let off = faults::on(move |op| {
        // A rename fails first where its shard is still to be made: that changes nothing.
        locked(&log).extend(record(op));
        Ok(())
    });
    let entries = [
        (Kind::Answer, 1, 0),
        (Kind::Slice, 1, 0),
        (Kind::Answer, 2, 0),
        (Kind::Answer, 1, 1), // replaces
        (Kind::Embedding, 1, 0),
        (Kind::Embedding, 2, 0),
        (Kind::Embedding, 1, 1), // replaces
        (Kind::Answer, 3, 0),    // pushes out
        (Kind::Answer, 4, 0),    // pushes out
        (Kind::Embedding, 3, 0), // pushes out
    ];
    for (kind, n, round) in entries {
        let entry = Version { kind, n, round };
        locked(&events).push(Event::Begins { entry });
        entry.put(&cache);
        locked(&events).push(Event::Kept { entry });
    }
    drop(off);
    drop(cache);
    std::mem::take(&mut *locked(&events))
}

/// A change to a folder that was not synced yet.
#[derive(Clone, Debug)]
enum Change {
    Folder(String),
    Add(String, usize),
    Remove(String),
}

impl Change {
    fn path(&self) -> &str {
        match self {
            Self::Folder(path) | Self::Add(path, _) | Self::Remove(path) => path,
        }
    }
}

/// The disk: what is durable, and what is on its way.
#[derive(Clone, Debug, Default)]
struct Disk {
    files: Vec<File>,
    tmp: BTreeMap<String, usize>,
    folders: BTreeSet<String>,
    names: BTreeMap<String, usize>,
    pending: Vec<Change>,
    began: Vec<Version>,
    must: BTreeMap<(Kind, u8), u8>,
}

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    synced: bool,
}

impl Disk {
    fn run(&mut self, event: &Event) {
        match event {
            Event::Create { tmp } => {
                self.tmp.insert(tmp.clone(), self.files.len());
                self.files.push(File::default());
            }
            Event::Write { tmp, bytes } => self.files[self.tmp[tmp]].bytes = bytes.clone(),
            Event::SyncFile { tmp } => self.files[self.tmp[tmp]].synced = true,
            Event::MakeShard { shard } => self.pending.push(Change::Folder(shard.clone())),
            Event::Rename { tmp, to } => {
                let folder = to.rsplit_once('/').unwrap().0;
                let made =
                    |change: &Change| matches!(change, Change::Folder(path) if path == folder);
                if self.folders.contains(folder) || self.pending.iter().any(made) {
                    let file = self.tmp.remove(tmp).unwrap();
                    self.pending.push(Change::Add(to.clone(), file));
                }
            }
            Event::Unlink { name } => {
                self.pending.push(Change::Remove(name.clone()));
                // From here on it may be gone.
                let hex = name.rsplit_once('/').unwrap().1;
                self.must.retain(|(kind, n), _| {
                    !(name.starts_with(kind.name()) && key(*n).to_hex() == hex)
                });
            }
            Event::UnlinkTmp { tmp } => {
                self.tmp.remove(tmp);
            }
            Event::SyncFolder { folder } => {
                let (now, later) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|change| change.path().rsplit_once('/').unwrap().0 == folder);
                self.pending = later;
                self.apply(&now);
            }
            Event::Begins { entry } => self.began.push(*entry),
            Event::Kept { entry } => {
                if entry.kind.is_synced() {
                    self.must.insert((entry.kind, entry.n), entry.round);
                }
            }
        }
    }

    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Folder(path) => {
                    self.folders.insert(path.clone());
                }
                Change::Add(path, file) => {
                    self.names.insert(path.clone(), *file);
                }
                Change::Remove(path) => {
                    self.names.remove(path);
                }
            }
        }
    }

    /// Every disk that a power cut now may leave.
    fn after_a_cut(&self, visit: &mut dyn FnMut(&Disk)) {
        assert!(self.pending.len() <= 10, "too many changes to try all subsets");
        for subset in 0..1_u32 << self.pending.len() {
            let kept: Vec<_> = self
                .pending
                .iter()
                .enumerate()
                .filter(|(at, _)| subset >> at & 1 == 1)
                .map(|(_, change)| change.clone())
                .collect();
            let mut disk = self.clone();
            disk.pending.clear();
            disk.apply(&kept);
            let folders = disk.folders.clone();
            disk.names.retain(|path, _| folders.contains(path.rsplit_once('/').unwrap().0));
            let unsynced =
                disk.names.values().chain(disk.tmp.values()).any(|at| !disk.files[*at].synced);
            for damage in 0..if unsynced { DAMAGES } else { 1 } {
                let mut torn = disk.clone();
                for file in torn.files.iter_mut().filter(|file| !file.synced) {
                    damaged(&mut file.bytes, damage);
                }
                visit(&torn);
            }
        }
    }

    fn lay_out(&self, root: &Path, tag: &[u8]) {
        let tree = root.join("v1");
        for folder in ["tmp", "answer", "embedding", "slice"] {
            fs::create_dir_all(tree.join(folder)).unwrap();
        }
        fs::write(root.join("CACHEDIR.TAG"), tag).unwrap();
        fs::write(root.join("lock"), "").unwrap();
        for folder in &self.folders {
            fs::create_dir(tree.join(folder)).unwrap();
        }
        let tmp = self.tmp.iter().map(|(name, at)| (format!("tmp/{name}"), at));
        for (name, at) in self.names.iter().map(|(name, at)| (name.clone(), at)).chain(tmp) {
            let path = tree.join(name);
            fs::write(&path, &self.files[*at].bytes).unwrap();
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS);
            let times = fs::FileTimes::new().set_accessed(now).set_modified(now);
            fs::File::options().write(true).open(&path).unwrap().set_times(times).unwrap();
        }
    }

    /// What tells two laid-out disks, and what is expected of them, apart.
    fn fingerprint(&self) -> Sum {
        let mut text = format!("{:?} {:?} {:?}", self.folders, self.began, self.must).into_bytes();
        for (name, at) in self.names.iter().chain(&self.tmp) {
            text.extend_from_slice(name.as_bytes());
            text.extend_from_slice(&Sum::of(&self.files[*at].bytes).0);
        }
        Sum::of(&text)
    }
}

const DAMAGES: usize = 18;

/// The ways in which data that was not synced may be found.
fn damaged(bytes: &mut Vec<u8>, damage: usize) {
    let length = bytes.len();
    let zero = |bytes: &mut Vec<u8>, from: usize, to: usize| {
        bytes[from.min(length)..to.min(length)].fill(0);
    };
    match damage {
        0 => {}
        1 => bytes.clear(),
        2 => bytes.fill(0),
        3 => bytes.truncate(1),
        4 => bytes.truncate(512),
        5 => bytes.truncate(4095),
        6 => bytes.truncate(4096),
        7 => bytes.truncate(8192),
        8 => bytes.truncate(length.saturating_sub(1)),
        9 => zero(bytes, 512, length),
        10 => zero(bytes, 4096, length),
        11 => zero(bytes, 8192, length),
        12 => zero(bytes, 0, 512),
        13 => zero(bytes, 0, 4096),
        14 => zero(bytes, 4096, 8192),
        15 => zero(bytes, 8192, 12_288),
        16 => bytes.resize(length.next_multiple_of(4096), 0),
        _ => zero(bytes, length.saturating_sub(10), length),
    }
}

fn check(cache: &Cache, disk: &Disk) {
    for kind in Kind::ALL {
        for n in 1..=4 {
            let must = disk.must.get(&(kind, n));
            let Some(entry) = cache.get(kind, &key(n)) else {
                assert_eq!(must, None, "{kind:?} {n} was kept and is lost");
                continue;
            };
            let found = Version { kind, n, round: entry.metadata()[0] };
            assert!(disk.began.contains(&found), "{found:?} was never put");
            assert!(entry.section(0).unwrap() == found.payload(), "{found:?} is not what was put");
            assert!(must.is_none_or(|round| found.round >= *round), "{found:?} is too old");
        }
    }
}

#[test]
fn after_a_power_cut_at_any_moment_every_entry_is_right_or_absent() {
    let mut bench = Bench::on_disk_only();
    bench.options.answers_bytes = 3 * 16_384;
    bench.options.embeddings_bytes = 2 * 16_384;
    let events = recorded(&bench);
    let tag = fs::read(bench.root().join("CACHEDIR.TAG")).unwrap();
    // Entries whose removal was lost must not push out others at the next start.
    bench.options = Options { dir: None, ..Bench::on_disk_only().options };
    assert!(events.iter().filter(|event| matches!(event, Event::Unlink { .. })).count() >= 3);
    let memory = Path::new("/dev/shm");
    let base = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let base = base.unwrap();
    let (mut disk, mut seen, mut damaged) = (Disk::default(), BTreeSet::new(), 0);
    for event in &events {
        disk.run(event);
        disk.after_a_cut(&mut |disk| {
            if !seen.insert(disk.fingerprint()) {
                return;
            }
            let root = base.path().join("cache");
            disk.lay_out(&root, &tag);
            bench.options.dir = Some(root.clone());
            let cache = bench.open();
            check(&cache, disk);
            let stats = cache.stats();
            assert_eq!(stats.trouble, None);
            damaged += stats.kinds.iter().map(|kind| kind.bad).sum::<u64>();
            assert!(files_under(&root.join("v1/tmp")).is_empty(), "half-made files are gone");
            Version { kind: Kind::Answer, n: 9, round: 0 }.put(&cache);
            assert!(cache.get(Kind::Answer, &key(9)).is_some(), "it goes on");
            drop(cache);
            fs::remove_dir_all(&root).unwrap();
        });
    }
    let states = seen.len();
    eprintln!("{} events, {states} crash states, {damaged} damaged entries found", events.len());
    assert!(states > 500 && damaged > 500, "{states} states, {damaged} damaged");
}

/// The model believes the recorder, so a recorded sync must be one: a pipe can't be synced.
#[test]
fn a_recorded_sync_asks_the_disk() {
    let (reader, _writer) = io::pipe().unwrap();
    let error = store::synced(Op::SyncTag, &reader).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_folder_says_that_it_is_ours_before_it_holds_anything() {
    let bench = Bench::new();
    let steps = Arc::new(Mutex::new(vec![]));
    let log = Arc::clone(&steps);
    let off = faults::on(move |op| {
        locked(&log).push(faults::name(op));
        Ok(())
    });
    let cache = bench.open();
    drop(off);
    assert_eq!(locked(&steps)[..4], ["write tag", "sync tag", "sync root", "make folder"]);
    drop(cache);
    // Whatever a power cut leaves of that, the folder is not refused.
    let tag = fs::read(bench.root().join("CACHEDIR.TAG")).unwrap();
    for length in [None, Some(0), Some(10), Some(tag.len())] {
        for made in 0..=5 {
            let bench = Bench::new();
            fs::create_dir(bench.root()).unwrap();
            fs::write(bench.root().join("lock"), "").unwrap();
            if let Some(length) = length {
                fs::write(bench.root().join("CACHEDIR.TAG"), &tag[..length]).unwrap();
            }
            let folders = ["v1", "v1/tmp", "v1/answer", "v1/embedding", "v1/slice"];
            let made = if length == Some(tag.len()) { made } else { 0 };
            folders[..made]
                .iter()
                .for_each(|name| fs::create_dir(bench.root().join(name)).unwrap());
            let cache = bench.open();
            put(&cache, Kind::Answer, 1, 10);
            assert!(holds(&bench.reopened(cache), Kind::Answer, 1));
        }
    }
}
