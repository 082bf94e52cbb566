//! How entries go: pushed out for others, too old, damaged, purged.
//!
//! Invariants:
//! 1. Only what was meant goes. Whoever decides looks first and then waits for the key's turn, in
//!    which the entry may have been written anew: what made it the one to go is asked again. (But
//!    what is no file of ours under an entry's name goes with whatever has that name then.)
//! 2. What the disk won't remove stays in the index, and ends the search for room.

use super::Kind;
use super::clock::Now;
use super::entry::Bad;
use super::shared::Shared;
use super::stats::Cause;
use super::store::{FileId, Store};
use crate::domain::key::Sum;
use std::io;

impl Shared {
    /// Gives entries up rather than take the last of the disk.
    pub(super) fn leave_free(&self, store: &Store, kind: Kind, bytes: u64) -> io::Result<()> {
        let wanted = self.options.min_free_bytes.saturating_add(bytes);
        let free = store.free_bytes()?;
        if free >= wanted {
            return Ok(());
        }
        self.evict(kind, wanted - free);
        if store.free_bytes()? >= wanted { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    /// Pushes the longest unused out until `bytes` more fit the budget.
    pub(super) fn make_room(&self, kind: Kind, bytes: u64) {
        let budget = self.options.budget_bytes(kind);
        let over = {
            let wanted = self.index(kind).bytes().saturating_add(bytes.next_multiple_of(4096));
            wanted.saturating_sub(budget)
        };
        self.evict(kind, over);
    }

    /// Pushes the longest unused out until `bytes` are free.
    pub(super) fn evict(&self, kind: Kind, bytes: u64) {
        let mut freed = 0;
        while freed < bytes {
            let Some(oldest) = self.index(kind).oldest() else { return };
            let _one_at_a_time = self.stripe(&oldest.key);
            // Waiting for its turn, it may have been written anew: then it isn't the oldest.
            if self.index(kind).oldest() != Some(oldest) {
                continue;
            }
            if !self.discard_in_turn(kind, &oldest.key, None, Cause::Evicted) {
                return;
            }
            freed += oldest.bytes;
        }
    }

    /// Removes what was too old, unless it has been written anew since that was seen.
    pub(super) fn expire(&self, kind: Kind, key: &Sum, now: Now) {
        let _one_at_a_time = self.stripe(key);
        let known = self.index(kind).known(key);
        if known.is_none_or(|known| self.is_past(known.created_s, now)) {
            self.discard_in_turn(kind, key, None, Cause::Expired);
        }
    }

    /// Removes an entry from disk, memory and index; with `only`, only if it is still that file.
    /// False when the disk refuses.
    pub(super) fn discard(
        &self,
        kind: Kind,
        key: &Sum,
        only: Option<FileId>,
        cause: Cause,
    ) -> bool {
        let _one_at_a_time = self.stripe(key);
        self.discard_in_turn(kind, key, only, cause)
    }

    /// As [`Shared::discard`], by whoever holds the key's stripe.
    fn discard_in_turn(&self, kind: Kind, key: &Sum, only: Option<FileId>, cause: Cause) -> bool {
        let Some(store) = self.store() else { return false };
        match store.remove(kind, key, only) {
            Ok(removed) => {
                if removed || only.is_none() {
                    self.index(kind).remove(key);
                    self.forget(kind, key);
                }
                if removed {
                    self.counters(kind).removed(cause);
                }
                true
            }
            Err(error) => {
                self.trouble.fault(&format!("an entry can't be removed: {error}"));
                false
            }
        }
    }

    /// The disk said there is no such file; the index may think otherwise.
    pub(super) fn forget_if_gone(&self, kind: Kind, key: &Sum) {
        if self.index(kind).known(key).is_none() {
            return;
        }
        let _one_at_a_time = self.stripe(key);
        if self.store().is_some_and(|store| !store.exists(kind, key)) {
            self.index(kind).remove(key);
        }
    }

    /// What was read is not the entry.
    pub(super) fn bad(&self, kind: Kind, key: &Sum, id: Option<FileId>, bad: Bad) {
        tracing::warn!(kind = kind.name(), ?key, "a cache entry {bad}; deleted");
        self.discard(kind, key, id, Cause::Bad);
    }
}
