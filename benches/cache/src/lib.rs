//! The same job for each: keep bytes under a 32-byte key, give them back checked.
//!
//! | store | durability of a put | check at a get |
//! |---|---|---|
//! | ours, answer | fsync of file and folder | XXH3-128, read to the heap |
//! | ours, embedding | none | XXH3-128, mapped |
//! | cacache 13 | none | XXH3-128 (its `Xxh3` integrity), read to the heap |
//! | SQLite, WAL | `synchronous = FULL` | none |
//! | LMDB (heed) | fsync at commit | none |

use sam2d::cache::{Cache, Clock, Content, Kind, Options};
use sam2d::domain::key::Sum;
use std::path::Path;

/// Something that keeps bytes under a key.
pub trait Keeper {
    /// Durable or not as in the table above.
    fn put(&self, key: &Sum, bytes: &[u8]);
    /// The number of bytes found, each of which was looked at by the check or here.
    fn get(&self, key: &Sum) -> usize;
}

/// Ours; which kind decides how it is read and whether it is synced.
pub struct Ours(pub Cache, pub Kind);

impl Ours {
    /// With `open_bytes` of memory before the disk.
    pub fn new(folder: &Path, kind: Kind, open_bytes: u64) -> Self {
        let dir = Some(folder.join("sam2d"));
        let (answers_bytes, slices_bytes) = (1 << 40, 1 << 40);
        let options = Options { dir, open_bytes, answers_bytes, slices_bytes, ..Options::default() };
        Self(Cache::open(options, Clock::system()).expect("the folder is new"), kind)
    }
}

impl Keeper for Ours {
    fn put(&self, key: &Sum, bytes: &[u8]) {
        let content = Content { metadata: b"", sections: &[bytes] };
        self.0.put(self.1, key, content).expect("there is room");
    }

    fn get(&self, key: &Sum) -> usize {
        let entry = self.0.get(self.1, key).expect("it was put");
        entry.section(0).expect("it has one").len()
    }
}

/// cacache, synchronous, with the cheapest checksum it has.
pub struct Cacache(pub std::path::PathBuf);

impl Keeper for Cacache {
    fn put(&self, key: &Sum, bytes: &[u8]) {
        use std::io::Write as _;
        let mut writer = cacache::WriteOpts::new()
            .algorithm(cacache::Algorithm::Xxh3)
            .size(bytes.len())
            .open_sync(&self.0, key.to_hex())
            .expect("the folder is new");
        writer.write_all(bytes).expect("there is room");
        writer.commit().expect("there is room");
    }

    fn get(&self, key: &Sum) -> usize {
        cacache::read_sync(&self.0, key.to_hex()).expect("it was put").len()
    }
}

/// One table of key and blob.
pub struct Sqlite(pub rusqlite::Connection);

impl Sqlite {
    /// Write-ahead log, each commit synced.
    pub fn new(folder: &Path) -> Self {
        let connection = rusqlite::Connection::open(folder.join("cache.sqlite")).expect("new");
        connection.pragma_update(None, "journal_mode", "WAL").expect("WAL");
        connection.pragma_update(None, "synchronous", "FULL").expect("FULL");
        let table = "CREATE TABLE entry (key BLOB PRIMARY KEY, bytes BLOB) WITHOUT ROWID";
        connection.execute(table, []).expect("new");
        Self(connection)
    }
}

impl Keeper for Sqlite {
    fn put(&self, key: &Sum, bytes: &[u8]) {
        let mut insert = self
            .0
            .prepare_cached("INSERT OR REPLACE INTO entry VALUES (?1, ?2)")
            .expect("the statement is right");
        insert.execute((&key.0[..], bytes)).expect("there is room");
    }

    fn get(&self, key: &Sum) -> usize {
        let mut select = self
            .0
            .prepare_cached("SELECT bytes FROM entry WHERE key = ?1")
            .expect("the statement is right");
        let bytes: Vec<u8> =
            select.query_row((&key.0[..],), |row| row.get(0)).expect("it was put");
        bytes.len()
    }
}

/// LMDB.
pub struct Lmdb(heed::Env, heed::Database<heed::types::Bytes, heed::types::Bytes>);

impl Lmdb {
    /// A map of up to 32 GiB.
    pub fn new(folder: &Path) -> Self {
        let path = folder.join("lmdb");
        std::fs::create_dir(&path).expect("new");
        // SAFETY: the folder is ours alone and new; nobody else opens or cuts its files.
        let env = unsafe { heed::EnvOpenOptions::new().map_size(32 << 30).open(&path) };
        let env = env.expect("new");
        let mut write = env.write_txn().expect("new");
        let database = env.create_database(&mut write, None).expect("new");
        write.commit().expect("new");
        Self(env, database)
    }
}

impl Keeper for Lmdb {
    fn put(&self, key: &Sum, bytes: &[u8]) {
        let mut write = self.0.write_txn().expect("one at a time");
        self.1.put(&mut write, &key.0, bytes).expect("there is room");
        write.commit().expect("there is room");
    }

    fn get(&self, key: &Sum) -> usize {
        let read = self.0.read_txn().expect("few readers");
        let bytes = self.1.get(&read, &key.0).expect("readable").expect("it was put");
        // It checks nothing, so at least look at each page, as a reader would.
        let seen = bytes.iter().step_by(4096).fold(0_u8, |sum, byte| sum ^ byte);
        std::hint::black_box(seen);
        bytes.len()
    }
}

/// Bytes that don't compress and differ by key.
pub fn payload(n: u64, bytes: usize) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut words = Vec::with_capacity(bytes + 8);
    while words.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        words.extend_from_slice(&state.to_le_bytes());
    }
    words.truncate(bytes);
    words
}

/// The n-th key.
pub fn key(n: u64) -> Sum {
    Sum::of(&n.to_le_bytes())
}
