//! The on-disk cache: content-addressed, hashed, mapped.
//!
//! The same image is not segmented twice within its day, across restarts, at the cost of reading a
//! file. Keys are made elsewhere ([`crate::domain::key`]); what an entry means, only who put it
//! knows.
//!
//! Invariants:
//! 1. What [`Cache::get`] returns is byte for byte what was put under that key, or nothing. A bad
//!    file is deleted and counted.
//! 2. Nothing the disk does is fatal: no folder, no space, no permission mean no cache (or only the
//!    part in memory), never no answer. It is counted, and logged once until it heals.
//! 3. An entry lives for [`Options::lifetime_hours`] from its creation; a hit doesn't renew it.
//! 4. Each kind keeps to its own bytes; the longest unused goes first.
//! 5. No lock is held while the disk works, except one of [`STRIPES`] that serialises writing and
//!    removing the *same* key, so that the index says what the disk holds.
//!
//! All of it blocks: call it from a blocking thread ([`Cache::peek`] alone never touches the disk).

mod clock;
mod entry;
mod index;
mod keeper;
pub mod memory;
mod store;
#[cfg(test)]
mod tests;

pub use clock::Clock;
pub use entry::{ALIGN, Bad, Content, Entry, MAX_METADATA, MAX_SECTIONS};
pub use store::Access;

use crate::domain::key::Sum;
use entry::Checked;
use index::{Index, Known};
use memory::ByteLru;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use store::{FileId, Store};

/// Keys whose writes and removals wait for each other: enough that different keys rarely do.
const STRIPES: usize = 64;

/// What an entry is; each kind has its own folder and budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A mask: PNG, its base64, low-resolution logits. Read, synced.
    Answer,
    /// What the encoder made of an image, 8 to 16 MB at S = 1024. Mapped, not synced: the checksum
    /// guards it, and losing one costs an encode.
    Embedding,
    /// What repeated bytes need not be parsed for. Read, synced.
    Slice,
}

impl Kind {
    /// All kinds, in the order of their codes.
    pub const ALL: [Self; 3] = [Self::Answer, Self::Embedding, Self::Slice];

    /// Folder name, metric label, and what the command line says.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Embedding => "embedding",
            Self::Slice => "slice",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Answer => 1,
            Self::Embedding => 2,
            Self::Slice => 3,
        }
    }

    fn access(self) -> Access {
        match self {
            Self::Answer | Self::Slice => Access::Read,
            Self::Embedding => Access::Map,
        }
    }

    /// Synced before and after the rename, so that it outlives a power cut.
    fn is_synced(self) -> bool {
        !matches!(self, Self::Embedding)
    }
}

/// `[cache]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Off: nothing is kept on disk.
    pub enabled: bool,
    /// The folder. Unset: `$CACHE_DIRECTORY` (systemd sets it), else `~/.cache/sam2d`.
    pub dir: Option<PathBuf>,
    /// How long an answer is one. The requirement says a day.
    pub lifetime_hours: u32,
    /// Disk for masks: about 20 kB each, so 2 GiB hold 100,000.
    pub answers_bytes: u64,
    /// Keep embeddings on disk: the first click after a restart then doesn't wait for the encoder.
    /// They are made of the patient's pixels; turn it off where the disk isn't encrypted and that
    /// matters more.
    pub embeddings: bool,
    /// Disk for embeddings: 8 to 16 MB each, so 16 GiB hold a working day of 1,000 to 2,000 slices.
    pub embeddings_bytes: u64,
    /// Disk for slice records: 4 kB each, so 256 MiB hold 65,000.
    pub slices_bytes: u64,
    /// Memory for answers and slice records that are in use: a hit on them opens no file.
    pub open_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            dir: None,
            lifetime_hours: 24,
            answers_bytes: 2 << 30,
            embeddings: true,
            embeddings_bytes: 16 << 30,
            slices_bytes: 256 << 20,
            open_bytes: 64 << 20,
        }
    }
}

impl Options {
    /// The folder to use: as set, or `$CACHE_DIRECTORY` (its first, systemd allows several), or
    /// below the home folder. `None` when none of these is known.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        let from_systemd = || {
            let list = std::env::var_os("CACHE_DIRECTORY")?;
            std::env::split_paths(&list).next().filter(|path| path.is_absolute())
        };
        let from_home = || Some(std::env::home_dir()?.join(".cache/sam2d"));
        self.dir.clone().or_else(from_systemd).or_else(from_home)
    }

    fn budget_bytes(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Answer => self.answers_bytes,
            Kind::Embedding if self.embeddings => self.embeddings_bytes,
            Kind::Embedding => 0,
            Kind::Slice => self.slices_bytes,
        }
    }
}

/// Why a folder can't be used. All but `Io` are for the operator to settle; [`Cache::open`] returns
/// only those.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon uses it.
    #[error(
        "the cache folder {} is in use by {}; stop it or choose another folder (cache.dir)",
        path.display(),
        pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// Who holds it, if it said so.
        pid: Option<u32>,
    },
    /// It holds something else.
    #[error(
        "the folder {} holds {found:?} and is not a sam2d cache; files in a cache are deleted, so choose an empty folder (cache.dir)",
        path.display()
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        found: String,
    },
    /// It belongs to another user.
    #[error(
        "the cache folder {} belongs to user {owner}, not to the one sam2d runs as; entries are made of patients' pixels and are kept where no one else reads",
        path.display()
    )]
    NotOwned {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// No folder is set and there is no home.
    #[error("no cache folder: set cache.dir, $CACHE_DIRECTORY or $HOME")]
    Nowhere,
    /// The disk said no.
    #[error("the cache folder can't be used: {}: {source}", path.display())]
    Io {
        /// What was tried.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// Why nothing was kept. The answer is none the worse.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// Larger than the budget of its kind or than the format holds.
    #[error("{bytes} bytes don't fit the cache of {kind:?}s")]
    TooLarge {
        /// The kind.
        kind: Kind,
        /// Its size.
        bytes: u64,
    },
    /// There is no folder to write to.
    #[error("the cache has no folder")]
    NoFolder,
    /// The disk said no.
    #[error("the cache can't write: {0}")]
    Io(#[source] io::Error),
}

/// The cache. Cheap to clone; the last clone to go stops its thread.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
    _keeper: Arc<keeper::Handle>,
}

/// What the cache has done since it was opened, and holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// In the order of [`Kind::ALL`].
    pub kinds: [KindStats; 3],
    /// The start-up scan is over: entries and bytes are complete.
    pub scanned: bool,
    /// What is wrong with the disk at the moment.
    pub trouble: Option<String>,
    /// Times that something went wrong with the disk.
    pub faults: u64,
    /// Bytes of entries held in memory.
    pub open_bytes: u64,
    /// Memory of the index.
    pub index_bytes: u64,
}

/// One kind's share.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KindStats {
    /// Entries on disk.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Most bytes it may take.
    pub budget_bytes: u64,
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
    /// Written.
    pub puts: u64,
    /// Could not be written.
    pub put_failures: u64,
    /// Pushed out for others.
    pub evicted: u64,
    /// Gone by age.
    pub expired: u64,
    /// Found damaged and deleted.
    pub bad: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    puts: AtomicU64,
    put_failures: AtomicU64,
    evicted: AtomicU64,
    expired: AtomicU64,
    bad: AtomicU64,
}

#[derive(Debug)]
struct Shelf {
    index: Mutex<Index>,
    counters: Counters,
}

#[derive(Debug)]
struct Inner {
    options: Options,
    clock: Clock,
    store: RwLock<Option<Arc<Store>>>,
    shelves: [Shelf; 3],
    stripes: [Mutex<()>; STRIPES],
    open: Mutex<ByteLru<(Kind, Sum), Arc<Checked>>>,
    trouble: Mutex<Option<String>>,
    faults: AtomicU64,
    scanned: AtomicBool,
}

#[derive(Clone, Copy, Debug)]
enum Cause {
    Evicted,
    Expired,
    Bad,
}

impl Cache {
    /// Opens the folder and starts the scan of what is in it; hits are served from the first moment
    /// on. A folder that can't be made or written leaves a cache in memory only, and says so.
    ///
    /// # Errors
    /// What an operator must settle: the folder is another daemon's, another user's, or not a cache.
    pub fn open(options: Options, clock: Clock) -> Result<Self, OpenError> {
        let open_bytes = usize::try_from(options.open_bytes).unwrap_or(usize::MAX);
        let inner = Arc::new(Inner {
            clock,
            store: RwLock::new(None),
            shelves: std::array::from_fn(|_| Shelf {
                index: Mutex::new(Index::new()),
                counters: Counters::default(),
            }),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            open: Mutex::new(ByteLru::new(open_bytes)),
            trouble: Mutex::new(None),
            faults: AtomicU64::new(0),
            scanned: AtomicBool::new(false),
            options,
        });
        inner.attach()?;
        let keeper = keeper::Handle::start(Arc::clone(&inner));
        Ok(Self { inner, _keeper: Arc::new(keeper) })
    }

    /// The entry, if there is a sound one younger than its lifetime.
    #[must_use]
    pub fn get(&self, kind: Kind, key: &Sum) -> Option<Entry> {
        let found = self.inner.lookup(kind, key);
        self.inner.count(kind, found.is_some());
        found
    }

    /// As [`Cache::get`], but only from memory: never blocks on the disk, and a miss isn't counted.
    #[must_use]
    pub fn peek(&self, kind: Kind, key: &Sum) -> Option<Entry> {
        let found = self.inner.lookup_open(kind, key, self.inner.clock.now_ms())?;
        self.inner.count(kind, true);
        Some(found)
    }

    /// Keeps `content` under `key`, in full or not at all, in memory and on disk.
    ///
    /// # Errors
    /// [`PutError::TooLarge`] for the caller; the others are counted and logged here already.
    pub fn put(&self, kind: Kind, key: &Sum, content: Content<'_>) -> Result<(), PutError> {
        if !self.keeps(kind) {
            return Ok(());
        }
        let created_ms = self.inner.clock.now_ms();
        let bytes = content.sections.iter().map(|section| section.len() as u64).sum();
        let image = entry::build(kind, key, created_ms, content)
            .ok_or(PutError::TooLarge { kind, bytes })?;
        self.inner.keep(kind, key, created_ms, &image)
    }

    /// False when entries of this kind are switched off: making one would be for nothing.
    #[must_use]
    pub fn keeps(&self, kind: Kind) -> bool {
        self.inner.options.enabled && self.inner.options.budget_bytes(kind) > 0
    }

    /// Numbers for health, metrics and `cache stat`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Forgets everything, in memory and on disk; returns the number of files removed.
    pub fn purge(&self) -> u64 {
        self.inner.purge()
    }
}

impl Inner {
    /// Opens the folder, if it can be. Failures of the disk are trouble, not errors.
    fn attach(&self) -> Result<(), OpenError> {
        if !self.options.enabled {
            return Ok(());
        }
        let path = self.options.folder().ok_or(OpenError::Nowhere)?;
        match Store::open(&path) {
            Ok(store) => {
                *self.store.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(store));
                Ok(())
            }
            Err(OpenError::Io { path, source }) => {
                self.fault(&format!("{}: {source}", path.display()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn store(&self) -> Option<Arc<Store>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn shelf(&self, kind: Kind) -> &Shelf {
        let [answer, embedding, slice] = &self.shelves;
        match kind {
            Kind::Answer => answer,
            Kind::Embedding => embedding,
            Kind::Slice => slice,
        }
    }

    fn index(&self, kind: Kind) -> MutexGuard<'_, Index> {
        locked(&self.shelf(kind).index)
    }

    fn stripe(&self, key: &Sum) -> Option<MutexGuard<'_, ()>> {
        let [.., last] = key.0;
        self.stripes.get(usize::from(last) % STRIPES).map(locked)
    }

    fn count(&self, kind: Kind, hit: bool) {
        let counters = &self.shelf(kind).counters;
        let counter = if hit { &counters.hits } else { &counters.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn lifetime_ms(&self) -> u64 {
        u64::from(self.options.lifetime_hours) * 3_600_000
    }

    /// The entry that these bytes are, unless they are too old.
    fn live(&self, checked: &Arc<Checked>, now_ms: u64) -> Option<Entry> {
        let expires_ms = checked.created_ms.saturating_add(self.lifetime_ms());
        if now_ms >= expires_ms {
            return None;
        }
        let created = entry::system_time(checked.created_ms)?;
        let expires = entry::system_time(expires_ms)?;
        Some(Entry::new(Arc::clone(checked), created, expires))
    }

    fn lookup(&self, kind: Kind, key: &Sum) -> Option<Entry> {
        if !self.keeps(kind) {
            return None;
        }
        let now_ms = self.clock.now_ms();
        if let Some(entry) = self.lookup_open(kind, key, now_ms) {
            return Some(entry);
        }
        let store = self.store()?;
        let limit = self.options.budget_bytes(kind);
        let found = match store.read(kind, key, kind.access(), limit) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.forget_if_gone(kind, key);
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.discard(kind, key, None, Cause::Bad);
                return None;
            }
            Err(error) => {
                self.fault(&format!("an entry can't be read: {error}"));
                return None;
            }
        };
        let length = found.image.len() as u64;
        let checked = match entry::check(found.image, kind, key) {
            Ok(checked) => Arc::new(checked),
            Err(bad) => {
                tracing::warn!(kind = kind.name(), ?key, "a cache entry {bad}; deleted");
                self.discard(kind, key, Some(found.id), Cause::Bad);
                return None;
            }
        };
        let Some(entry) = self.live(&checked, now_ms) else {
            self.discard(kind, key, Some(found.id), Cause::Expired);
            return None;
        };
        self.used(kind, key, checked.created_ms, length);
        self.remember(kind, key, checked);
        Some(entry)
    }

    fn lookup_open(&self, kind: Kind, key: &Sum, now_ms: u64) -> Option<Entry> {
        let checked = Arc::clone(locked(&self.open).get(&(kind, *key))?);
        let entry = self.live(&checked, now_ms);
        if entry.is_some() {
            self.index(kind).touch(key);
        } else {
            locked(&self.open).remove(&(kind, *key));
        }
        entry
    }

    fn used(&self, kind: Kind, key: &Sum, created_ms: u64, bytes: u64) {
        let mut index = self.index(kind);
        if !index.touch(key) {
            index.insert(known(key, created_ms, bytes));
        }
    }

    /// Into memory, where the kind is one that is read rather than mapped.
    fn remember(&self, kind: Kind, key: &Sum, checked: Arc<Checked>) {
        if kind.access() == Access::Read {
            let bytes = checked.image.len();
            let old = locked(&self.open).put((kind, *key), checked, bytes);
            drop(old);
        }
    }

    fn keep(
        &self,
        kind: Kind,
        key: &Sum,
        created_ms: u64,
        image: &bytes::Bytes,
    ) -> Result<(), PutError> {
        let bytes = image.len() as u64;
        if bytes > self.options.budget_bytes(kind) {
            return Err(PutError::TooLarge { kind, bytes });
        }
        if let Ok(checked) = entry::check(image.clone(), kind, key) {
            self.remember(kind, key, Arc::new(checked));
        }
        self.make_room(kind, bytes);
        let mut store = self.store().ok_or(PutError::NoFolder)?;
        let mut written = self.write(&store, kind, &known(key, created_ms, bytes), image);
        if written.is_err() && !store.is_in_place() {
            store = self.attach_again().ok_or(PutError::NoFolder)?;
            written = self.write(&store, kind, &known(key, created_ms, bytes), image);
        }
        let counters = &self.shelf(kind).counters;
        match written {
            Ok(()) => {
                counters.puts.fetch_add(1, Ordering::Relaxed);
                self.healed();
                Ok(())
            }
            Err(error) => {
                counters.put_failures.fetch_add(1, Ordering::Relaxed);
                self.fault(&format!("an entry can't be written: {error}"));
                Err(PutError::Io(error))
            }
        }
    }

    fn write(&self, store: &Store, kind: Kind, known: &Known, image: &[u8]) -> io::Result<()> {
        let _one_at_a_time = self.stripe(&known.key);
        store.write(kind, &known.key, image, u64::from(known.created_s) * 1000)?;
        self.index(kind).insert(*known);
        Ok(())
    }

    /// The folder was deleted or replaced under us: makes it anew, and forgets what was in it.
    fn attach_again(&self) -> Option<Arc<Store>> {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = None;
        for kind in Kind::ALL {
            *self.index(kind) = Index::new();
        }
        if let Err(error) = self.attach() {
            self.fault(&error.to_string());
        }
        self.store()
    }

    /// Pushes the longest unused out until `bytes` more fit the budget.
    fn make_room(&self, kind: Kind, bytes: u64) {
        let budget = self.options.budget_bytes(kind);
        loop {
            let oldest = {
                let index = self.index(kind);
                if index.bytes() + bytes.next_multiple_of(4096) <= budget {
                    return;
                }
                index.oldest()
            };
            let Some(oldest) = oldest else { return };
            if !self.discard(kind, &oldest.key, None, Cause::Evicted) {
                return;
            }
        }
    }

    /// Removes an entry from disk, memory and index. False when the disk refuses.
    fn discard(&self, kind: Kind, key: &Sum, only: Option<FileId>, cause: Cause) -> bool {
        let Some(store) = self.store() else { return false };
        let _one_at_a_time = self.stripe(key);
        match store.remove(kind, key, only) {
            Ok(removed) => {
                if removed || only.is_none() {
                    self.index(kind).remove(key);
                    locked(&self.open).remove(&(kind, *key));
                }
                if removed {
                    let counters = &self.shelf(kind).counters;
                    let counter = match cause {
                        Cause::Evicted => &counters.evicted,
                        Cause::Expired => &counters.expired,
                        Cause::Bad => &counters.bad,
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                true
            }
            Err(error) => {
                self.fault(&format!("an entry can't be removed: {error}"));
                false
            }
        }
    }

    /// The disk said there is no such file; the index may think otherwise.
    fn forget_if_gone(&self, kind: Kind, key: &Sum) {
        if !self.index(kind).contains(key) {
            return;
        }
        let _one_at_a_time = self.stripe(key);
        if self.store().is_some_and(|store| !store.exists(kind, key)) {
            self.index(kind).remove(key);
        }
    }

    /// Something went wrong with the disk: counted each time, logged when it begins.
    fn fault(&self, what: &str) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let mut trouble = locked(&self.trouble);
        if trouble.is_none() {
            tracing::warn!("the cache is in trouble and goes on without the disk: {what}");
        }
        *trouble = Some(what.to_owned());
    }

    fn healed(&self) {
        if locked(&self.trouble).take().is_some() {
            tracing::info!("the cache writes to the disk again");
        }
    }

    fn keeps(&self, kind: Kind) -> bool {
        self.options.enabled && self.options.budget_bytes(kind) > 0
    }

    fn purge(&self) -> u64 {
        locked(&self.open).clear();
        let mut removed = 0;
        for kind in Kind::ALL {
            let keys = self.index(kind).created_until(u32::MAX);
            for key in keys {
                removed += u64::from(self.discard(kind, &key, None, Cause::Evicted));
            }
        }
        removed
    }

    fn stats(&self) -> Stats {
        let mut index_bytes = 0;
        let kinds = Kind::ALL.map(|kind| {
            let shelf = self.shelf(kind);
            let (entries, bytes) = {
                let index = locked(&shelf.index);
                index_bytes += index.memory_bytes() as u64;
                (index.len() as u64, index.bytes())
            };
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            KindStats {
                entries,
                bytes,
                budget_bytes: self.options.budget_bytes(kind),
                hits: read(&shelf.counters.hits),
                misses: read(&shelf.counters.misses),
                puts: read(&shelf.counters.puts),
                put_failures: read(&shelf.counters.put_failures),
                evicted: read(&shelf.counters.evicted),
                expired: read(&shelf.counters.expired),
                bad: read(&shelf.counters.bad),
            }
        });
        Stats {
            kinds,
            scanned: self.scanned.load(Ordering::Acquire),
            trouble: locked(&self.trouble).clone(),
            faults: self.faults.load(Ordering::Relaxed),
            open_bytes: locked(&self.open).bytes() as u64,
            index_bytes,
        }
    }
}

fn known(key: &Sum, created_ms: u64, bytes: u64) -> Known {
    Known { key: *key, created_s: u32::try_from(created_ms / 1000).unwrap_or(u32::MAX), bytes }
}

/// A panic elsewhere leaves what these locks guard usable: each change is a single step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
