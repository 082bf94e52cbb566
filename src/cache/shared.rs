//! What all handles and threads of one cache share, and the way of an entry in and back; how it
//! goes: [`super::removal`].

use super::clock::{Clock, Guard, Now};
use super::entry::{self, Bad, Checked, Entry};
use super::index::{Index, Known};
use super::memory::ByteLru;
use super::stats::{Cause, Counters, Stats, Trouble};
use super::store::{Access, FileId, Store};
use super::writer::{Job, Queue};
use super::{Kind, OpenError, Options, PutError, locked};
use crate::domain::key::Sum;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

/// Keys whose writes and removals wait for each other: enough that different keys rarely do.
const STRIPES: usize = 64;
/// Uses remembered between two notes to the disk; past that, the rest of them is lost at a restart.
pub(super) const MAX_USED: usize = 65_536;

/// One kind's index and counters.
#[derive(Debug, Default)]
struct Shelf {
    index: Mutex<Index>,
    counters: Counters,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) clock: Guard,
    pub(super) trouble: Trouble,
    pub(super) queue: Queue,
    /// The start-up scan is over.
    pub(super) scanned: AtomicBool,
    store: RwLock<Option<Arc<Store>>>,
    shelves: [Shelf; 3],
    stripes: [Mutex<()>; STRIPES],
    /// Entries in memory.
    open: Mutex<ByteLru<(Kind, Sum), Arc<Checked>>>,
    /// When entries were last used, to be noted on the disk.
    used: Mutex<HashMap<(Kind, Sum), u64>>,
    /// Raised by a purge: whatever was under way then must not come back.
    generation: AtomicU64,
}

impl Shared {
    pub(super) fn new(options: Options, clock: Clock) -> Self {
        let open_bytes = usize::try_from(options.open_bytes).unwrap_or(usize::MAX);
        Self {
            clock: Guard::new(clock),
            trouble: Trouble::default(),
            queue: Queue::new(options.queue_bytes),
            scanned: AtomicBool::new(false),
            store: RwLock::new(None),
            shelves: Default::default(),
            stripes: std::array::from_fn(|_| Mutex::new(())),
            open: Mutex::new(ByteLru::new(open_bytes)),
            used: Mutex::default(),
            generation: AtomicU64::new(0),
            options,
        }
    }

    /// Opens the folder, if it can be. Failures of the disk are trouble, not errors.
    pub(super) fn attach(&self) -> Result<(), OpenError> {
        if !self.options.enabled {
            return Ok(());
        }
        let path = self.options.folder().ok_or(OpenError::Nowhere)?;
        match Store::open(&path) {
            Ok(store) => {
                self.clock.at_least(store.noted_time_ms());
                *self.store.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(store));
                self.scanned.store(false, Ordering::Release);
                Ok(())
            }
            Err(OpenError::Io { path, source }) => {
                self.trouble.fault(&format!("{}: {source}", path.display()));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The folder, or a part of it, was deleted or replaced under us: makes it anew, forgets what was
    /// in it, and has it scanned.
    fn attach_again(&self, store: &Store) -> Option<Arc<Store>> {
        let renewed = if store.is_in_place() {
            let renewed = store.renewed().ok().map(Arc::new);
            renewed.clone_into(&mut self.store.write().unwrap_or_else(PoisonError::into_inner));
            renewed
        } else {
            *self.store.write().unwrap_or_else(PoisonError::into_inner) = None;
            if let Err(error) = self.attach() {
                self.trouble.fault(&error.to_string());
            }
            self.store()
        };
        for kind in Kind::ALL {
            *self.index(kind) = Index::default();
        }
        self.scanned.store(false, Ordering::Release);
        renewed
    }

    pub(super) fn store(&self) -> Option<Arc<Store>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Is this the folder in use (or, `None`, is there none)?
    pub(super) fn is_current(&self, store: Option<&Arc<Store>>) -> bool {
        self.store().as_ref().map(Arc::as_ptr) == store.map(Arc::as_ptr)
    }

    pub(super) fn index(&self, kind: Kind) -> MutexGuard<'_, Index> {
        locked(&self.shelf(kind).index)
    }

    pub(super) fn counters(&self, kind: Kind) -> &Counters {
        &self.shelf(kind).counters
    }

    fn shelf(&self, kind: Kind) -> &Shelf {
        let [answer, embedding, slice] = &self.shelves;
        match kind {
            Kind::Answer => answer,
            Kind::Embedding => embedding,
            Kind::Slice => slice,
        }
    }

    /// Held while an entry is written or removed.
    pub(super) fn stripe(&self, key: &Sum) -> Option<MutexGuard<'_, ()>> {
        let [.., last] = key.0;
        self.stripes.get(usize::from(last) % STRIPES).map(locked)
    }

    pub(super) fn keeps(&self, kind: Kind) -> bool {
        self.options.enabled && self.options.budget_bytes(kind) > 0
    }

    /// The count of purges so far.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    fn lifetime(&self) -> Duration {
        Duration::from_secs(u64::from(self.options.lifetime_hours) * 3600)
    }

    /// Creation times that are too old, or that no right clock can have given.
    pub(super) fn is_dead(&self, created_ms: u64, now: Now) -> bool {
        now.is_over(created_ms, self.lifetime())
    }

    /// As [`Shared::is_dead`], for a time that is known in seconds, rounded down: none too early.
    pub(super) fn is_past(&self, created_s: u32, now: Now) -> bool {
        self.is_dead(u64::from(created_s) * 1000 + 999, now)
    }

    /// The entry that these bytes are, unless they are too old.
    fn live(&self, checked: &Arc<Checked>, now: Now) -> Option<Entry> {
        if self.is_dead(checked.created_ms, now) {
            return None;
        }
        let created = now.wall.checked_sub(now.age(checked.created_ms))?;
        let expires = now.expiry(checked.created_ms, self.lifetime());
        Some(Entry::new(Arc::clone(checked), created, expires))
    }

    /// From memory, the queue or the disk.
    pub(super) fn lookup(&self, kind: Kind, key: &Sum) -> Option<Entry> {
        if !self.keeps(kind) {
            return None;
        }
        let now = self.clock.now();
        if let Some(entry) = self.lookup_open(kind, key, now) {
            return Some(entry);
        }
        let generation = self.generation();
        if let Some(job) = self.queue.find(kind, key).filter(|job| job.generation == generation) {
            return self.live(&job.checked, now);
        }
        let (checked, id) = self.read(kind, key)?;
        let checked = Arc::new(checked);
        self.clock.at_least(checked.created_ms);
        let Some(entry) = self.live(&checked, now) else {
            if now.settled {
                self.discard(kind, key, Some(id), Cause::Expired);
            }
            return None;
        };
        if !self.index(kind).touch(key) {
            self.learn(kind, key, &checked);
        }
        self.note_use(kind, key, now);
        self.remember(kind, key, &checked, generation);
        Some(entry)
    }

    /// The scan has not come to this entry yet; or it was removed while we read it, and then it must
    /// not be counted.
    fn learn(&self, kind: Kind, key: &Sum, checked: &Checked) {
        let _one_at_a_time = self.stripe(key);
        if self.store().is_some_and(|store| store.exists(kind, key)) {
            self.index(kind).insert(known(key, checked));
        }
    }

    /// From memory alone.
    pub(super) fn lookup_open(&self, kind: Kind, key: &Sum, now: Now) -> Option<Entry> {
        let checked = Arc::clone(locked(&self.open).get(&(kind, *key))?);
        let entry = self.live(&checked, now);
        if entry.is_some() {
            self.touch(kind, key, now);
        } else {
            self.forget(kind, key);
        }
        entry
    }

    /// Notes a use of what the index knows.
    pub(super) fn touch(&self, kind: Kind, key: &Sum, now: Now) {
        if self.index(kind).touch(key) {
            self.note_use(kind, key, now);
        }
    }

    /// From the disk, checked. What is bad is removed, what fails is trouble; either is a miss.
    fn read(&self, kind: Kind, key: &Sum) -> Option<(Checked, FileId)> {
        let store = self.store()?;
        let limit = self.options.budget_bytes(kind);
        let found = match store.read(kind, key, kind.access(), limit) {
            Ok(Some(found)) => found,
            Ok(None) => {
                self.forget_if_gone(kind, key);
                return None;
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.bad(kind, key, None, Bad::Foreign);
                return None;
            }
            Err(error) => {
                self.trouble.fault(&format!("an entry can't be read: {error}"));
                return None;
            }
        };
        match entry::check(found.image, kind, key) {
            Ok(checked) => Some((checked, found.id)),
            Err(bad) => {
                self.bad(kind, key, Some(found.id), bad);
                None
            }
        }
    }

    /// Into memory, where the kind is one that is read rather than mapped.
    pub(super) fn remember(&self, kind: Kind, key: &Sum, checked: &Arc<Checked>, generation: u64) {
        if kind.access() != Access::Read {
            return;
        }
        let bytes = checked.image.len();
        let mut open = locked(&self.open);
        let out = if self.generation() == generation {
            open.put((kind, *key), Arc::clone(checked), bytes)
        } else {
            vec![]
        };
        drop(open);
        drop(out);
    }

    /// Out of memory.
    pub(super) fn forget(&self, kind: Kind, key: &Sum) {
        locked(&self.open).remove(&(kind, *key));
    }

    fn note_use(&self, kind: Kind, key: &Sum, now: Now) {
        let mut used = locked(&self.used);
        if used.len() < MAX_USED || used.contains_key(&(kind, *key)) {
            used.insert((kind, *key), now.ms);
        }
    }

    /// What was used since the last call.
    pub(super) fn take_used(&self) -> HashMap<(Kind, Sum), u64> {
        std::mem::take(&mut *locked(&self.used))
    }

    /// To the disk, making room for it.
    pub(super) fn write(&self, job: &Job) -> Result<(), PutError> {
        let written = self.write_somehow(job);
        match &written {
            Ok(()) => {
                self.counters(job.kind).written(true);
                self.trouble.healed();
            }
            Err(PutError::Purged) => {}
            Err(error) => {
                self.counters(job.kind).written(false);
                self.trouble.fault(&error.to_string());
            }
        }
        written
    }

    fn write_somehow(&self, job: &Job) -> Result<(), PutError> {
        if self.generation() != job.generation {
            return Err(PutError::Purged);
        }
        let bytes = job.checked.image.len() as u64;
        self.make_room(job.kind, bytes);
        let store = self.store().ok_or(PutError::NoFolder)?;
        self.leave_free(&store, job.kind, bytes).map_err(PutError::Io)?;
        match self.write_once(&store, job) {
            Err(error) if is_full(&error) => {
                self.evict(job.kind, bytes);
                self.write_once(&store, job).map_err(PutError::Io)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let store = self.attach_again(&store).ok_or(PutError::NoFolder)?;
                self.write_once(&store, job).map_err(PutError::Io)?;
            }
            written => written.map_err(PutError::Io)?,
        }
        if self.generation() != job.generation {
            self.discard(job.kind, &job.key, None, Cause::Purged);
            return Err(PutError::Purged);
        }
        Ok(())
    }

    fn write_once(&self, store: &Store, job: &Job) -> io::Result<()> {
        let _one_at_a_time = self.stripe(&job.key);
        store.write(job.kind, &job.key, &job.checked.image, job.checked.created_ms)?;
        self.index(job.kind).insert(known(&job.key, &job.checked));
        Ok(())
    }

    /// Forgets what is in memory and on its way; whatever is under way won't come back.
    pub(super) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        locked(&self.open).clear();
        self.queue.clear();
        locked(&self.used).clear();
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = Stats {
            scanned: self.scanned.load(Ordering::Acquire),
            trouble: self.trouble.now(),
            faults: self.trouble.faults(),
            clock_settled: self.clock.now().settled,
            open_bytes: locked(&self.open).bytes() as u64,
            queue_bytes: self.queue.bytes(),
            ..Stats::default()
        };
        for (kind, numbers) in Kind::ALL.into_iter().zip(&mut stats.kinds) {
            self.counters(kind).fill(numbers);
            numbers.budget_bytes = self.options.budget_bytes(kind);
            let index = self.index(kind);
            numbers.entries = index.len() as u64;
            numbers.bytes = index.bytes();
            stats.index_bytes += index.memory_bytes() as u64;
        }
        stats
    }
}

fn known(key: &Sum, checked: &Checked) -> Known {
    let created_s = u32::try_from(checked.created_ms / 1000).unwrap_or(u32::MAX);
    Known { key: *key, created_s, bytes: checked.image.len() as u64 }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
