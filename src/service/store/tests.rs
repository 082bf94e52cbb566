//! What is kept in memory ends with its day, whatever the wall clock does.

use super::*;
use crate::cache::Reading;
use crate::domain::key::ContentKey;
use crate::domain::slice::{Format, SliceInfo};
use crate::service::oneclick::BodyGrid;
use crate::service::request::WindowSource;

const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);
/// 2026-06-01.
const START: Duration = Duration::from_secs(1_780_272_000);

/// A store on a machine that has been up for a day, whose clocks are turned by hand.
struct Bench {
    store: Store,
    hands: Arc<Mutex<Reading>>,
}

impl Bench {
    fn new(disk: Option<&std::path::Path>) -> Self {
        let wall = SystemTime::UNIX_EPOCH + START;
        let hands = Arc::new(Mutex::new(Reading { wall, uptime: DAY }));
        let shown = Arc::clone(&hands);
        let clock = Clock::new(move || *lock(&shown));
        let disk = disk.map(|dir| {
            let dir = Some(dir.to_owned());
            let options = crate::cache::Options { dir, ..Default::default() };
            Cache::open(options, clock.clone()).unwrap()
        });
        let on_disk = disk.is_some();
        let mut store = Store::new(&Options::default(), disk, DAY);
        if !on_disk {
            store.clock = GuardedClock::new(clock);
        }
        Self { store, hands }
    }

    fn pass(&self, time: Duration) {
        let mut hands = lock(&self.hands);
        hands.wall += time;
        hands.uptime += time;
    }

    fn set(&self, change: impl FnOnce(SystemTime) -> SystemTime) {
        let mut hands = lock(&self.hands);
        hands.wall = change(hands.wall);
    }

    /// One of each, now.
    fn fill(&self) {
        let era = self.store.era();
        let info = SliceInfo::picture(Size { width: 3, height: 2 }, Format::Png);
        let content = ContentKey(Sum::of(b"content"));
        self.store.put_slice(era, AliasKey(key()), SliceRecord { content, info });
        let image = ImageRecord {
            format: Format::Png,
            size: Size { width: 3, height: 2 },
            frame: 0,
            frames: 1,
            window: None,
            window_source: WindowSource::None,
            spacing_mm: None,
            body: BodyGrid::nothing(),
        };
        self.store.put_image(era, ImageKey(Sum::of(b"image")), image);
        self.store.put_embedding(era, EmbeddingKey(key()), &Embedding::new((), 9), None);
        self.store.put_answer(era, &self.answer());
    }

    fn answer(&self) -> Arc<StoredAnswer> {
        Arc::new(StoredAnswer {
            size: Size { width: 3, height: 2 },
            logits: vec![0.5; 4].into(),
            answer: Answer {
                key: AnswerKey(key()),
                png: b"png".as_slice().into(),
                png_base64: b"cG5n".as_slice().into(),
                confidence: 0.5,
                bounding_box: None,
                annotation: None,
                warnings: vec![],
                expires: self.store.expiry(),
            },
        })
    }

    /// Which of answer, embedding, image, slice are there.
    fn there(&self) -> [bool; 4] {
        let store = &self.store;
        [
            store.answer(AnswerKey(key()), Reach::Disk).is_some(),
            store.embedding(EmbeddingKey(key())).is_some(),
            store.image(ImageKey(Sum::of(b"image")), Reach::Disk).is_some(),
            store.slice(AliasKey(key()), Reach::Disk).is_some(),
        ]
    }
}

fn key() -> Sum {
    Sum::of(b"key")
}

#[test]
fn memory_ends_with_the_day_and_a_hit_does_not_renew_it() {
    let bench = Bench::new(None);
    bench.fill();
    for _ in 0..23 {
        bench.pass(HOUR);
        assert_eq!(bench.there(), [true; 4]);
    }
    bench.pass(HOUR);
    assert_eq!(bench.there(), [false; 4]);
}

#[test]
fn what_came_from_disk_is_as_old_in_memory_as_there() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(Some(folder.path()));
    bench.fill();
    bench.store.finish();
    bench.pass(20 * HOUR);
    lock(&bench.store.slices).clear();
    lock(&bench.store.images).clear();
    lock(&bench.store.answers).clear();
    assert_eq!(bench.there(), [true; 4]);
    assert_eq!((lock(&bench.store.slices).len(), lock(&bench.store.images).len()), (1, 1));
    assert_eq!(lock(&bench.store.answers).len(), 1);
    bench.pass(4 * HOUR);
    assert_eq!(bench.there(), [false; 4]);
}

#[test]
fn a_clock_that_is_set_back_prolongs_nothing() {
    let bench = Bench::new(None);
    bench.fill();
    bench.pass(24 * HOUR - 5 * MINUTE);
    assert_eq!(bench.there(), [true; 4]);
    bench.set(|wall| wall - 20 * HOUR);
    bench.pass(10 * MINUTE);
    assert_eq!(bench.there(), [false; 4]);
}

#[test]
fn a_clock_that_jumps_ahead_and_is_put_right_ends_nothing() {
    let bench = Bench::new(None);
    bench.fill();
    assert_eq!(bench.there(), [true; 4]);
    bench.set(|wall| wall + 300 * DAY);
    assert_eq!(bench.there(), [false; 4], "as old as the clock says, as long as it says so");
    bench.set(|wall| wall - 300 * DAY);
    assert_eq!(bench.there(), [true; 4]);
}

/// Clients are told when a mask expires by the clock that they are told the date by.
#[test]
fn the_expiry_that_is_told_follows_the_wall_clock() {
    let bench = Bench::new(None);
    bench.fill();
    let told = || bench.store.answer(AnswerKey(key()), Reach::Disk).unwrap().answer.expires;
    let right = SystemTime::UNIX_EPOCH + START + DAY;
    assert_eq!(told(), right);
    bench.pass(HOUR);
    assert_eq!(told(), right);
    bench.set(|wall| wall - 2 * HOUR);
    assert_eq!(told(), right - 2 * HOUR);
}

#[test]
fn what_was_under_way_at_a_purge_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    for disk in [None, Some(folder.path())] {
        let bench = Bench::new(disk);
        let era = bench.store.era();
        bench.fill();
        bench.store.finish();
        let _ = bench.store.purge();
        assert_eq!(bench.there(), [false; 4]);
        bench.store.put_answer(era, &bench.answer());
        bench.store.put_embedding(era, EmbeddingKey(key()), &Embedding::new((), 9), None);
        let host = HostEmbedding {
            high_res_feats_0: vec![1.0; 8],
            high_res_feats_1: vec![2.0; 4],
            image_embed: vec![3.0; 2],
        };
        bench.store.write_embedding(era, EmbeddingKey(key()), &host);
        assert_eq!(bench.there(), [false; 4]);
        assert!(bench.store.embedding_on_disk(EmbeddingKey(key())).is_none());
        bench.fill();
        assert_eq!(bench.there(), [true; 4], "what begins after it is");
    }
}

#[test]
fn embeddings_rest_in_half_precision_and_those_beyond_it_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(Some(folder.path()));
    let era = bench.store.era();
    let mut host = HostEmbedding {
        high_res_feats_0: vec![0.1; 8],
        high_res_feats_1: vec![-2.0; 4],
        image_embed: vec![65_504.0; 2],
    };
    bench.store.write_embedding(era, EmbeddingKey(key()), &host);
    let (back, created_ms) = bench.store.embedding_on_disk(EmbeddingKey(key())).unwrap();
    assert_eq!(u128::from(created_ms), START.as_millis());
    host.high_res_feats_0 = vec![f16::from_f32(0.1).to_f32(); 8];
    assert_eq!(back, host);
    let disk = bench.store.disk().unwrap();
    disk.flush();
    let entry = disk.get(Kind::Embedding, &key()).unwrap();
    assert_eq!((entry.metadata(), entry.section(0).unwrap().len()), (b"f16"[..].into(), 16));
    for beyond in [65_520.0, f32::INFINITY, f32::NAN] {
        let other = EmbeddingKey(Sum::of(&beyond.to_le_bytes()));
        host.image_embed = vec![0.0, beyond];
        bench.store.write_embedding(era, other, &host);
        assert!(bench.store.embedding_on_disk(other).is_none(), "{beyond}");
    }
    let old = EmbeddingKey(Sum::of(b"f32, as it once was"));
    let sections: [&[u8]; 3] = [&[0; 32], &[0; 16], &[0; 8]];
    disk.put(Kind::Embedding, &old.0, Content { metadata: b"", sections: &sections }).unwrap();
    assert!(bench.store.embedding_on_disk(old).is_none());
}

/// There is room for two of them on the disk, and for all of them in memory.
#[test]
fn what_memory_serves_is_not_what_the_disk_gives_up_first() {
    let folder = tempfile::tempdir().unwrap();
    let dir = Some(folder.path().to_owned());
    let options = crate::cache::Options {
        dir,
        answers_bytes: 2 * 8192,
        min_free_bytes: 0,
        ..Default::default()
    };
    let disk = Cache::open(options, Clock::system()).unwrap();
    let store = Store::new(&Options::default(), Some(disk.clone()), DAY);
    let put = |n: u8| {
        let answer = Answer {
            key: AnswerKey(Sum([n; 32])),
            png: b"png".as_slice().into(),
            png_base64: b"cG5n".as_slice().into(),
            confidence: 0.5,
            bounding_box: None,
            annotation: None,
            warnings: vec![],
            expires: store.expiry(),
        };
        let size = Size { width: 3, height: 2 };
        let stored = StoredAnswer { size, logits: vec![0.5; 4].into(), answer };
        store.put_answer(store.era(), &Arc::new(stored));
        store.finish();
    };
    put(1);
    put(2);
    assert!(store.answer(AnswerKey(Sum([1; 32])), Reach::Memory).is_some());
    put(3);
    let there = [1, 2, 3].map(|n| disk.get(Kind::Answer, &Sum([n; 32])).is_some());
    assert_eq!(there, [true, false, true]);
}
