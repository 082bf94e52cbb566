//! The thread `cache-write` and the queue before it: an answer goes out first, and to the disk after.
//!
//! Invariants:
//! 1. What waits is bounded in bytes; past that a new entry isn't written (it is in memory still).
//! 2. What waits is found by a lookup, also of kinds that aren't held in memory.
//! 3. Stopping writes out what waits, then ends.

use super::entry::Checked;
use super::shared::Shared;
use super::{Kind, locked};
use crate::domain::key::Sum;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// An entry on its way to the disk.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) kind: Kind,
    pub(super) key: Sum,
    pub(super) checked: Arc<Checked>,
    /// See [`Shared::generation`].
    pub(super) generation: u64,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    limit_bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Job>,
    writing: Option<Job>,
    bytes: u64,
    stopped: bool,
}

impl Queue {
    pub(super) fn new(limit_bytes: u64) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), limit_bytes }
    }

    /// Lets an entry wait; hands back the bytes that wait when there is no room.
    pub(super) fn push(&self, job: Job) -> Result<(), u64> {
        let bytes = job.checked.image.len() as u64;
        let mut state = locked(&self.state);
        if state.stopped || state.bytes.saturating_add(bytes) > self.limit_bytes {
            return Err(state.bytes);
        }
        state.bytes += bytes;
        state.waiting.push_back(job);
        self.changed.notify_all();
        Ok(())
    }

    /// An entry that waits or is being written.
    pub(super) fn find(&self, kind: Kind, key: &Sum) -> Option<Job> {
        let state = locked(&self.state);
        let mut jobs = state.waiting.iter().chain(&state.writing);
        jobs.find(|job| job.kind == kind && job.key == *key).cloned()
    }

    pub(super) fn bytes(&self) -> u64 {
        locked(&self.state).bytes
    }

    /// Forgets what waits.
    pub(super) fn clear(&self) {
        let mut state = locked(&self.state);
        state.waiting.clear();
        state.bytes = state.writing.iter().map(|job| job.checked.image.len() as u64).sum();
        self.changed.notify_all();
    }

    /// Returns once all that waited is written.
    pub(super) fn flush(&self) {
        let mut state = locked(&self.state);
        while !state.waiting.is_empty() || state.writing.is_some() {
            state = self.wait(state);
        }
    }

    /// No more entries; the thread ends once it has written those there are.
    pub(super) fn stop(&self) {
        locked(&self.state).stopped = true;
        self.changed.notify_all();
    }

    /// The next entry to write; waits for one. `None` once it is stopped and empty.
    pub(super) fn next(&self) -> Option<Job> {
        let mut state = locked(&self.state);
        loop {
            if let Some(job) = state.waiting.pop_front() {
                state.writing = Some(job.clone());
                return Some(job);
            }
            if state.stopped {
                return None;
            }
            state = self.wait(state);
        }
    }

    /// The entry that [`Queue::next`] gave is on the disk, or never will be.
    pub(super) fn done(&self) {
        let mut state = locked(&self.state);
        if let Some(job) = state.writing.take() {
            state.bytes = state.bytes.saturating_sub(job.checked.image.len() as u64);
        }
        self.changed.notify_all();
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's life.
pub(super) fn run(shared: &Shared) {
    while let Some(job) = shared.queue.next() {
        // Counted and logged where it fails; the answer has gone out already.
        let _ = shared.write(&job);
        shared.queue.done();
    }
}
