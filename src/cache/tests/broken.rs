//! Files that are not what they should be: each is a miss, is deleted, is counted, and the next put
//! works. The kept ones lie in `tests/fixtures/cache`; `remake_the_fixtures` wrote them.

use super::*;
use crate::cache::entry::{build, check};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/cache");
const CREATED_MS: u64 = NOW_MS;

fn fixture_key() -> Sum {
    Sum::of(b"fixture")
}

fn fixture_content() -> Content<'static> {
    Content { metadata: b"{\"fixture\":1}", sections: &[b"first section", &[], b"third"] }
}

/// Kept files and what is wrong with each.
const BROKEN: [(&str, Bad); 17] = [
    ("v0-old", Bad::Version(0)),
    ("v2-newer", Bad::Version(2)),
    ("empty", Bad::Length),
    ("cut-in-head", Bad::Length),
    ("cut-after-head", Bad::Length),
    ("cut-in-payload", Bad::Length),
    ("bytes-to-spare", Bad::Length),
    ("flipped-magic", Bad::Foreign),
    ("flipped-created", Bad::Head),
    ("flipped-head-padding", Bad::Head),
    ("flipped-section", Bad::Section),
    ("flipped-section-padding", Bad::Section),
    ("payload-lost", Bad::Section),
    ("all-zeros", Bad::Foreign),
    ("foreign-png", Bad::Foreign),
    ("other-key", Bad::Swapped),
    ("claims-16-exabytes", Bad::Head),
];

fn fixture(name: &str) -> Vec<u8> {
    fs::read(format!("{FIXTURES}/{name}.entry")).unwrap()
}

/// Puts a file under an entry's name, as old as an entry would be.
fn plant(bench: &Bench, kind: Kind, key: &Sum, bytes: &[u8]) -> PathBuf {
    let file = bench.file(kind, key);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, bytes).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(NOW_MS);
    let times = fs::FileTimes::new().set_accessed(now).set_modified(now);
    fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
    file
}

#[test]
fn the_kept_entry_of_this_version_is_still_read_and_still_written_the_same() {
    let checked = check(fixture("v1").into(), Kind::Answer, &fixture_key()).unwrap();
    assert_eq!(checked.created_ms, CREATED_MS);
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    plant(&bench, Kind::Answer, &fixture_key(), &fixture("v1"));
    let entry = cache.get(Kind::Answer, &fixture_key()).unwrap();
    assert_eq!(entry.metadata(), fixture_content().metadata);
    for (index, section) in fixture_content().sections.iter().enumerate() {
        assert_eq!(entry.section(index).unwrap(), section);
    }
    let built = build(Kind::Answer, &fixture_key(), CREATED_MS, fixture_content()).unwrap();
    assert!(built.image == fixture("v1"), "the format changed: raise its version, keep this file");
}

#[test]
fn every_kept_broken_entry_is_a_miss_deleted_and_counted() {
    for (name, bad) in BROKEN {
        let bytes = fixture(name);
        assert_eq!(check(bytes.clone().into(), Kind::Answer, &fixture_key()).unwrap_err(), bad);
        let bench = Bench::on_disk_only();
        let cache = bench.open();
        let file = plant(&bench, Kind::Answer, &fixture_key(), &bytes);
        assert!(cache.get(Kind::Answer, &fixture_key()).is_none(), "{name}");
        assert!(!file.exists(), "{name}");
        let stats = &cache.stats().kinds[0];
        assert_eq!((stats.bad, stats.misses, stats.entries), (1, 1, 0), "{name}");
        cache.put(Kind::Answer, &fixture_key(), fixture_content()).unwrap();
        assert!(cache.get(Kind::Answer, &fixture_key()).is_some(), "{name}");
    }
}

#[test]
fn every_byte_of_a_small_entry_is_guarded_also_on_the_disk() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    let sound = fixture("v1");
    for (kind, at) in
        Kind::ALL.into_iter().flat_map(|kind| (0..sound.len()).map(move |at| (kind, at)))
    {
        let mut bytes =
            build(kind, &fixture_key(), CREATED_MS, fixture_content()).unwrap().image.to_vec();
        bytes[at] ^= 1 << (at % 8);
        plant(&bench, kind, &fixture_key(), &bytes);
        assert!(cache.get(kind, &fixture_key()).is_none(), "{kind:?}, byte {at}");
    }
    let bad: Vec<_> = cache.stats().kinds.iter().map(|kind| kind.bad).collect();
    assert_eq!(bad, [sound.len() as u64; 3]);
}

#[test]
fn every_truncation_of_a_small_entry_is_found_also_on_the_disk() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    let sound =
        build(Kind::Embedding, &fixture_key(), CREATED_MS, fixture_content()).unwrap().image;
    for length in 0..sound.len() {
        plant(&bench, Kind::Embedding, &fixture_key(), &sound[..length]);
        assert!(cache.get(Kind::Embedding, &fixture_key()).is_none(), "cut at {length}");
    }
    assert_eq!(cache.stats().kinds[1].bad, sound.len() as u64);
}

#[test]
fn an_entry_under_another_key_or_kind_is_a_miss() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    put(&cache, Kind::Answer, 1, 10);
    put(&cache, Kind::Answer, 2, 10);
    let (one, two) = (bench.file(Kind::Answer, &key(1)), bench.file(Kind::Answer, &key(2)));
    let swap = bench.root().join("swap");
    fs::rename(&one, &swap).unwrap();
    fs::rename(&two, &one).unwrap();
    fs::rename(&swap, &two).unwrap();
    let slice = bench.file(Kind::Slice, &key(1));
    fs::create_dir_all(slice.parent().unwrap()).unwrap();
    fs::copy(&two, &slice).unwrap();
    assert!(!holds(&cache, Kind::Answer, 1));
    assert!(!holds(&cache, Kind::Answer, 2));
    assert!(!holds(&cache, Kind::Slice, 1));
    assert_eq!(cache.stats().kinds.each_ref().map(|kind| kind.bad), [2, 0, 1]);
}

#[test]
fn a_link_a_folder_or_a_pipe_under_an_entrys_name_is_a_miss_and_harms_nothing() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    put(&cache, Kind::Answer, 9, 10);
    let outside = bench.folder.path().join("outside");
    fs::write(&outside, fixture("v1")).unwrap();
    for what in ["link", "folder", "pipe"] {
        let file = bench.file(Kind::Answer, &fixture_key());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        match what {
            "link" => std::os::unix::fs::symlink(&outside, &file).unwrap(),
            "folder" => fs::create_dir(&file).unwrap(),
            _ => rustix::fs::mknodat(
                rustix::fs::CWD,
                &file,
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RWXU,
                0,
            )
            .unwrap(),
        }
        assert!(cache.get(Kind::Answer, &fixture_key()).is_none(), "{what}");
        assert!(fs::symlink_metadata(&file).is_err(), "{what} is gone");
        assert_eq!(fs::read(&outside).unwrap(), fixture("v1"));
    }
    assert!(holds(&cache, Kind::Answer, 9));
}

#[test]
fn a_file_larger_than_the_budget_of_its_kind_is_not_even_read() {
    let mut bench = Bench::on_disk_only();
    bench.options.answers_bytes = 100_000;
    let cache = bench.open();
    let file = plant(&bench, Kind::Answer, &fixture_key(), b"");
    fs::File::options().write(true).open(&file).unwrap().set_len(1 << 40).unwrap();
    assert!(cache.get(Kind::Answer, &fixture_key()).is_none());
    assert!(!file.exists());
}

/// A file that was replaced by a sound one between reading and removing must stay.
#[test]
fn only_the_bad_file_itself_is_removed_not_what_has_replaced_it() {
    let bench = Bench::on_disk_only();
    let cache = bench.open();
    plant(&bench, Kind::Answer, &key(1), &fixture("flipped-section"));
    let store = cache.shared.store().unwrap();
    let found = store.read(Kind::Answer, &key(1), Access::Read, 1 << 20).unwrap().unwrap();
    put(&cache, Kind::Answer, 1, 10);
    assert!(!store.remove(Kind::Answer, &key(1), Some(found.id)).unwrap());
    assert!(holds(&cache, Kind::Answer, 1));
}

#[test]
#[ignore = "writes tests/fixtures/cache anew: after raising the version, not to please a test"]
fn remake_the_fixtures() {
    let key = fixture_key();
    let sound = build(Kind::Answer, &key, CREATED_MS, fixture_content()).unwrap().image.to_vec();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        bytes
    };
    let flipped = |at: usize| changed(&|bytes| bytes[at] ^= 0x10);
    let resummed = |change: &dyn Fn(&mut Vec<u8>)| {
        changed(&|bytes| {
            change(bytes);
            let sum = twox_hash::xxhash3_128::Hasher::oneshot(&bytes[24..4096]).to_le_bytes();
            bytes[8..24].copy_from_slice(&sum);
        })
    };
    let other = build(Kind::Answer, &self::key(1), CREATED_MS, fixture_content()).unwrap();
    let files: [(&str, Vec<u8>); 18] = [
        ("v1", sound.clone()),
        ("v0-old", resummed(&|bytes| bytes[24] = 0)),
        ("v2-newer", resummed(&|bytes| bytes[24] = 2)),
        ("empty", vec![]),
        ("cut-in-head", sound[..50].to_vec()),
        ("cut-after-head", sound[..4096].to_vec()),
        ("cut-in-payload", sound[..4100].to_vec()),
        ("bytes-to-spare", changed(&|bytes| bytes.push(0))),
        ("flipped-magic", flipped(3)),
        ("flipped-created", flipped(64)),
        ("flipped-head-padding", flipped(4000)),
        ("flipped-section", flipped(4096)),
        ("flipped-section-padding", flipped(4096 + 20)),
        ("payload-lost", changed(&|bytes| bytes[4096..].fill(0))),
        ("all-zeros", vec![0; sound.len()]),
        ("foreign-png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".repeat(20)),
        ("other-key", other.image.to_vec()),
        ("claims-16-exabytes", resummed(&|bytes| bytes[80..88].fill(0xff))),
    ];
    fs::create_dir_all(FIXTURES).unwrap();
    for (name, bytes) in files {
        fs::write(format!("{FIXTURES}/{name}.entry"), bytes).unwrap();
    }
}
