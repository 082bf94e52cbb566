//! What the cache counts, and how it says once that the disk fails it.

use serde::{Deserialize, Serialize};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::locked;

/// What the cache has done since it was opened, and holds now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stats {
    /// In the order of [`super::Kind::ALL`].
    pub kinds: [KindStats; 3],
    /// The start-up scan is over: entries and bytes are complete.
    pub scanned: bool,
    /// What is wrong with the disk at the moment.
    pub trouble: Option<String>,
    /// Times that something went wrong with the disk.
    pub faults: u64,
    /// The wall clock has run steadily for a while; before that nothing is removed for its age.
    pub clock_settled: bool,
    /// Bytes of entries held in memory.
    pub open_bytes: u64,
    /// Bytes waiting to be written.
    pub queue_bytes: u64,
    /// Memory of the index.
    pub index_bytes: u64,
}

/// One kind's share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
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
    /// Not written: the disk refused, or too much was waiting.
    pub put_failures: u64,
    /// Pushed out for others.
    pub evicted: u64,
    /// Gone by age.
    pub expired: u64,
    /// Found damaged and deleted.
    pub bad: u64,
}

/// Why an entry went, or what became of a request: one counter each.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
    pub(super) puts: AtomicU64,
    pub(super) put_failures: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) bad: AtomicU64,
}

/// Why an entry is removed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cause {
    Evicted,
    Expired,
    Bad,
    Purged,
}

impl Counters {
    pub(super) fn looked_up(&self, hit: bool) {
        let counter = if hit { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn written(&self, well: bool) {
        let counter = if well { &self.puts } else { &self.put_failures };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn removed(&self, cause: Cause) {
        let counter = match cause {
            Cause::Evicted => &self.evicted,
            Cause::Expired => &self.expired,
            Cause::Bad => &self.bad,
            Cause::Purged => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn fill(&self, stats: &mut KindStats) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.hits = read(&self.hits);
        stats.misses = read(&self.misses);
        stats.puts = read(&self.puts);
        stats.put_failures = read(&self.put_failures);
        stats.evicted = read(&self.evicted);
        stats.expired = read(&self.expired);
        stats.bad = read(&self.bad);
    }
}

/// Trouble with the disk: counted each time, logged when it begins and when it is over.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    now: Mutex<Option<String>>,
    faults: AtomicU64,
}

impl Trouble {
    pub(super) fn fault(&self, what: &str) {
        self.faults.fetch_add(1, Ordering::Relaxed);
        let mut now = locked(&self.now);
        if now.is_none() {
            tracing::warn!("the cache is in trouble and goes on without the disk: {what}");
        }
        *now = Some(what.to_owned());
    }

    /// A write went well.
    pub(super) fn healed(&self) {
        if locked(&self.now).take().is_some() {
            tracing::info!("the cache writes to the disk again");
        }
    }

    pub(super) fn now(&self) -> Option<String> {
        locked(&self.now).clone()
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }
}
