//! The on-disk cache: content-addressed, hashed, mapped.
//!
//! The same image is not segmented twice within its day, across restarts, at the cost of reading a
//! file. Keys are made elsewhere ([`crate::domain::key`]); what an entry means, only who put it
//! knows. `docs/cache-format.md` has the files byte by byte.
//!
//! Invariants:
//! 1. What [`Cache::get`] returns is byte for byte what was put under that key, or nothing. A bad
//!    file is deleted and counted.
//! 2. Nothing the disk does is fatal: no folder, no space, no permission mean no cache (or only the
//!    part in memory), never no answer. It is counted, and logged once until it heals.
//! 3. An entry lives for [`Options::lifetime_hours`] from its creation; a hit doesn't renew it.
//! 4. Each kind keeps to its own bytes; the longest unused goes first.
//! 5. No lock is held while the disk works, except one of 64 that serialises writing and removing
//!    the *same* key, so that the index says what the disk holds.
//!
//! All of it blocks, except [`Cache::peek`], [`Cache::touch`] and [`Cache::put_soon`], which never touch the disk.

mod clock;
mod entry;
mod folder;
mod index;
mod keeper;
pub mod memory;
mod options;
mod removal;
mod scan;
mod shared;
mod stats;
mod store;
#[cfg(test)]
mod tests;
pub mod tools;
pub mod wall_clock;
mod writer;

pub use clock::{Clock, Guard as GuardedClock, Now, Reading};
pub use entry::{ALIGN, Bad, Content, Entry, MAX_METADATA, MAX_SECTIONS};
pub use options::{OpenError, Options, PutError};
pub use stats::{KindStats, Stats};

use crate::domain::key::Sum;
use shared::Shared;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::Access;
use writer::Job;

/// What an entry is; each kind has its own folder and budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A mask: PNG, its base64, low-resolution logits.
    Answer,
    /// What the encoder made of an image, 8 to 16 MB at S = 1024.
    Embedding,
    /// What repeated bytes need not be parsed for.
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

    /// Synced before and after the rename, so that it outlives a power cut. Not embeddings: the
    /// checksum guards them, and losing one costs an encode.
    fn is_synced(self) -> bool {
        !matches!(self, Self::Embedding)
    }
}

/// The cache. Cheap to clone; the last clone to go writes out what waits and stops the threads.
#[derive(Clone, Debug)]
pub struct Cache {
    shared: Arc<Shared>,
    _threads: Arc<keeper::Threads>,
}

impl Cache {
    /// Opens the folder and starts the scan of what is in it; hits are served from the first moment
    /// on. A folder that can't be made or written leaves a cache in memory only, and says so.
    ///
    /// # Errors
    /// What an operator must settle: the folder is another daemon's, another user's, or not a
    /// cache; or there is none to use.
    pub fn open(options: Options, clock: Clock) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::new(options, clock));
        shared.attach()?;
        let threads = keeper::Threads::start(&shared);
        Ok(Self { shared, _threads: Arc::new(threads) })
    }

    /// The entry, if there is a sound one younger than its lifetime.
    #[must_use]
    pub fn get(&self, kind: Kind, key: &Sum) -> Option<Entry> {
        let found = self.shared.lookup(kind, key);
        self.shared.counters(kind).looked_up(found.is_some());
        found
    }

    /// As [`Cache::get`], but only from memory: never blocks on the disk, and a miss isn't counted.
    #[must_use]
    pub fn peek(&self, kind: Kind, key: &Sum) -> Option<Entry> {
        let found = self.shared.lookup_open(kind, key, self.shared.clock.now())?;
        self.shared.counters(kind).looked_up(true);
        Some(found)
    }

    /// An entry was used without being asked for here: its user had it in memory. Never blocks.
    pub fn touch(&self, kind: Kind, key: &Sum) {
        self.shared.touch(kind, key, self.shared.clock.now());
    }

    /// Keeps `content` under `key` in memory, and on disk before it returns: in full or not at all.
    ///
    /// # Errors
    /// [`PutError::TooLarge`] for the caller; the others are counted and logged here already.
    pub fn put(&self, kind: Kind, key: &Sum, content: Content<'_>) -> Result<(), PutError> {
        if !self.keeps(kind) {
            return Ok(());
        }
        let job = self.job(kind, key, content)?;
        self.shared.write(&job)
    }

    /// As [`Cache::put`], but the disk comes later, on a thread of the cache's own; until then the
    /// entry is found in memory.
    ///
    /// # Errors
    /// [`PutError::TooLarge`] for the caller; [`PutError::Behind`] is counted already.
    pub fn put_soon(&self, kind: Kind, key: &Sum, content: Content<'_>) -> Result<(), PutError> {
        if !self.keeps(kind) {
            return Ok(());
        }
        let job = self.job(kind, key, content)?;
        self.shared.queue.push(job).map_err(|waiting_bytes| {
            self.shared.counters(kind).written(false);
            PutError::Behind { waiting_bytes }
        })
    }

    /// Returns once all that waited to be written is.
    pub fn flush(&self) {
        self.shared.queue.flush();
    }

    /// False when entries of this kind are switched off: making one would be for nothing.
    #[must_use]
    pub fn keeps(&self, kind: Kind) -> bool {
        self.shared.keeps(kind)
    }

    /// The clock by which entries age, for what its user keeps in memory.
    #[must_use]
    pub fn clock(&self) -> GuardedClock {
        self.shared.clock.clone()
    }

    /// The folder in use; `None` when there is none (any more).
    #[must_use]
    pub fn folder(&self) -> Option<std::path::PathBuf> {
        self.shared.store().map(|store| store.path().to_owned())
    }

    /// Numbers for health, metrics and `cache stat`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Forgets everything, in memory, on its way and on disk; returns the number of files removed.
    pub fn purge(&self) -> u64 {
        self.shared.forget_all();
        let mut purged = 0;
        let listed = self.list(&mut |listed| {
            let cause = stats::Cause::Purged;
            purged += u64::from(self.shared.discard(listed.kind, &listed.key, None, cause));
            ControlFlow::Continue(())
        });
        if let Err(error) = listed {
            self.shared.trouble.fault(&format!("the folder can't be listed: {error}"));
        }
        purged
    }

    /// Builds the entry and remembers it.
    fn job(&self, kind: Kind, key: &Sum, content: Content<'_>) -> Result<Job, PutError> {
        let generation = self.shared.generation();
        let bytes = content.sections.iter().map(|section| section.len() as u64).sum();
        let too_large = PutError::TooLarge { kind, bytes };
        let created_ms = self.shared.clock.now().ms;
        let Some(checked) = entry::build(kind, key, created_ms, content) else {
            return Err(too_large);
        };
        if checked.image.len() as u64 > self.shared.options.budget_bytes(kind) {
            return Err(too_large);
        }
        let checked = Arc::new(checked);
        self.shared.remember(kind, key, &checked, generation);
        Ok(Job { kind, key: *key, checked, generation })
    }
}

/// A panic elsewhere leaves what these locks guard usable: each change is a single step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
