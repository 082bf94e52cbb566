//! What lies on the disk, in the order of use, for one kind: 48 bytes an entry and a table of 32-bit
//! positions (5 to 10 bytes more), so that a million entries cost about 60 MB.
//!
//! It only serves eviction, expiry and statistics. Whether an entry exists is asked of the disk: an
//! index that is incomplete (the start-up scan is still running) or wrong (somebody removed files)
//! costs nothing but accuracy.
//!
//! Invariants:
//! 1. `bytes` is the sum over all entries; sizes are rounded up to what the disk spends.
//! 2. Every live node is in the list exactly once and in the table exactly once; a freed one in
//!    neither.

use crate::domain::key::Sum;
use hashbrown::HashTable;
use std::collections::HashSet;

/// What a file system spends in, nearly everywhere.
const DISK_BLOCK: u64 = 4096;
/// No node.
const NONE: u32 = u32::MAX;

/// Entries of one kind, most recently used first. Not synchronised.
#[derive(Debug)]
pub(super) struct Index {
    table: HashTable<u32>,
    nodes: Vec<Node>,
    free: u32,
    newest: u32,
    oldest: u32,
    blocks: u64,
    /// While a scan lists the folder: what was removed meanwhile, so that the list doesn't bring it
    /// back.
    removed: Option<HashSet<Sum>>,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    key: [u8; 32],
    /// Creation, seconds since 1970, rounded down (good until 2106).
    created_s: u32,
    blocks: u32,
    newer: u32,
    older: u32,
}

/// What the index knows of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) key: Sum,
    pub(super) created_s: u32,
    pub(super) bytes: u64,
}

impl Default for Index {
    fn default() -> Self {
        let table = HashTable::new();
        let (free, newest, oldest) = (NONE, NONE, NONE);
        Self { table, nodes: vec![], free, newest, oldest, blocks: 0, removed: None }
    }
}

impl Index {
    /// Entries.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks * DISK_BLOCK
    }

    /// Bytes of memory this index occupies.
    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.table.allocation_size()
    }

    /// An entry was written or found to exist; it becomes the most recently used.
    pub(super) fn insert(&mut self, known: Known) {
        self.remove(&known.key);
        if let Some(at) = self.store(&known) {
            self.link_newest(at);
        }
    }

    /// The start-up scan found an entry: it becomes the *least* recently used, unless it is known
    /// already or was removed since. So a scan that goes from recent to old keeps the order and
    /// disturbs no use meanwhile.
    pub(super) fn insert_oldest(&mut self, known: &Known) {
        let removed = self.removed.as_ref().is_some_and(|removed| removed.contains(&known.key));
        if removed || self.find(&known.key).is_some() {
            return;
        }
        if let Some(at) = self.store(known) {
            self.link_oldest(at);
        }
    }

    /// An entry was used. False when it isn't known.
    pub(super) fn touch(&mut self, key: &Sum) -> bool {
        let Some(at) = self.find(key) else { return false };
        if self.newest != at {
            self.unlink(at);
            self.link_newest(at);
        }
        true
    }

    /// What is known of an entry.
    pub(super) fn known(&self, key: &Sum) -> Option<Known> {
        self.node(self.find(key)?).map(Node::known)
    }

    /// A scan is about to list the folder, or has told all that it found.
    pub(super) fn scanning(&mut self, scanning: bool) {
        self.removed = scanning.then(HashSet::new);
    }

    /// An entry is gone.
    pub(super) fn remove(&mut self, key: &Sum) -> bool {
        if let Some(removed) = &mut self.removed {
            removed.insert(*key);
        }
        let Ok(found) =
            self.table.find_entry(hash(&key.0), |at| key_at(&self.nodes, *at) == Some(&key.0))
        else {
            return false;
        };
        let (at, _) = found.remove();
        self.unlink(at);
        if let Some(node) = self.nodes.get_mut(at as usize) {
            self.blocks -= u64::from(node.blocks);
            node.newer = self.free;
            self.free = at;
        }
        true
    }

    /// The longest unused.
    pub(super) fn oldest(&self) -> Option<Known> {
        self.node(self.oldest).map(Node::known)
    }

    /// Keys of entries whose creation (seconds since 1970) is as asked, most recently used first.
    pub(super) fn created(&self, wanted: impl Fn(u32) -> bool) -> Vec<Sum> {
        let mut found = vec![];
        let mut at = self.newest;
        while let Some(node) = self.node(at) {
            if wanted(node.created_s) {
                found.push(Sum(node.key));
            }
            at = node.older;
        }
        found
    }

    fn find(&self, key: &Sum) -> Option<u32> {
        self.table.find(hash(&key.0), |at| key_at(&self.nodes, *at) == Some(&key.0)).copied()
    }

    fn node(&self, at: u32) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    /// Into a free place of the slab and into the table, not yet into the list. `None` past 2³² − 1
    /// entries.
    fn store(&mut self, known: &Known) -> Option<u32> {
        let blocks = u32::try_from(known.bytes.div_ceil(DISK_BLOCK)).unwrap_or(u32::MAX);
        let node =
            Node { key: known.key.0, created_s: known.created_s, blocks, newer: NONE, older: NONE };
        let at = if let Some(free) = self.nodes.get_mut(self.free as usize) {
            let at = self.free;
            self.free = free.newer;
            *free = node;
            at
        } else {
            let at = u32::try_from(self.nodes.len()).ok().filter(|at| *at != NONE)?;
            self.nodes.push(node);
            at
        };
        self.blocks += u64::from(blocks);
        let nodes = &self.nodes;
        self.table.insert_unique(hash(&known.key.0), at, |at| key_at(nodes, *at).map_or(0, hash));
        Some(at)
    }

    fn link_newest(&mut self, at: u32) {
        let older = self.newest;
        self.set(at, |node| (node.newer, node.older) = (NONE, older));
        self.set(older, |node| node.newer = at);
        self.newest = at;
        if self.oldest == NONE {
            self.oldest = at;
        }
    }

    fn link_oldest(&mut self, at: u32) {
        let newer = self.oldest;
        self.set(at, |node| (node.newer, node.older) = (newer, NONE));
        self.set(newer, |node| node.older = at);
        self.oldest = at;
        if self.newest == NONE {
            self.newest = at;
        }
    }

    fn unlink(&mut self, at: u32) {
        let Some(&Node { newer, older, .. }) = self.node(at) else { return };
        self.set(newer, |node| node.older = older);
        self.set(older, |node| node.newer = newer);
        if self.newest == at {
            self.newest = older;
        }
        if self.oldest == at {
            self.oldest = newer;
        }
    }

    fn set(&mut self, at: u32, change: impl FnOnce(&mut Node)) {
        if let Some(node) = self.nodes.get_mut(at as usize) {
            change(node);
        }
    }
}

impl Node {
    fn known(&self) -> Known {
        let bytes = u64::from(self.blocks) * DISK_BLOCK;
        Known { key: Sum(self.key), created_s: self.created_s, bytes }
    }
}

fn key_at(nodes: &[Node], at: u32) -> Option<&[u8; 32]> {
    nodes.get(at as usize).map(|node| &node.key)
}

/// Keys are SHA-256 sums: their first bytes are as good as any hash of them.
fn hash(key: &[u8; 32]) -> u64 {
    key.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn known(n: u32) -> Known {
        Known { key: key(n), created_s: n, bytes: u64::from(n % 5 + 1) * DISK_BLOCK }
    }

    /// Equal first bytes on purpose: the table must compare whole keys.
    fn key(n: u32) -> Sum {
        let mut key = [1; 32];
        key[28..].copy_from_slice(&n.to_be_bytes());
        Sum(key)
    }

    #[test]
    fn eviction_takes_the_longest_unused() {
        let mut index = Index::default();
        (0..3).for_each(|n| index.insert(known(n)));
        assert!(index.touch(&key(0)));
        assert_eq!(index.oldest().unwrap().key, key(1));
        assert!(index.remove(&key(1)));
        assert_eq!(index.oldest().unwrap().key, key(2));
        assert!(!index.touch(&key(1)));
    }

    #[test]
    fn what_the_scan_finds_is_older_than_what_was_used_meanwhile() {
        let mut index = Index::default();
        index.insert(known(0));
        [1, 0, 2].iter().for_each(|n| index.insert_oldest(&known(*n)));
        assert_eq!(index.len(), 3);
        assert_eq!(index.oldest().unwrap().key, key(2));
        index.remove(&key(2));
        assert_eq!(index.oldest().unwrap().key, key(1));
    }

    #[test]
    fn sizes_are_what_the_disk_spends() {
        let mut index = Index::default();
        index.insert(Known { key: key(1), created_s: 0, bytes: 1 });
        assert_eq!(index.bytes(), 4096);
        index.insert(Known { key: key(1), created_s: 0, bytes: 4097 });
        assert_eq!((index.bytes(), index.len()), (8192, 1));
    }

    #[test]
    fn a_million_entries_take_less_than_120_bytes_each() {
        let mut index = Index::default();
        for n in 0..1_000_000_u32 {
            let sum = Sum::of(&n.to_le_bytes());
            index.insert_oldest(&Known { key: sum, created_s: n, bytes: 1 });
        }
        let each = index.memory_bytes() as f64 / 1e6;
        assert!(each < 120.0, "{each} bytes an entry");
    }

    proptest! {
        /// Against a plain list.
        #[test]
        fn it_behaves_like_a_list(steps in proptest::collection::vec((0_u8..4, 0_u32..9), 0..300)) {
            let mut index = Index::default();
            let mut list: VecDeque<u32> = VecDeque::new(); // newest first
            for (step, n) in steps {
                let there = list.iter().position(|m| *m == n);
                match step {
                    0 => {
                        index.insert(known(n));
                        there.map(|at| list.remove(at));
                        list.push_front(n);
                    }
                    1 => {
                        index.insert_oldest(&known(n));
                        if there.is_none() { list.push_back(n); }
                    }
                    2 => {
                        prop_assert_eq!(index.touch(&key(n)), there.is_some());
                        if let Some(at) = there { list.remove(at); list.push_front(n); }
                    }
                    _ => {
                        prop_assert_eq!(index.remove(&key(n)), there.is_some());
                        there.map(|at| list.remove(at));
                    }
                }
                prop_assert_eq!(index.oldest().map(|known| known.key), list.back().map(|n| key(*n)));
                prop_assert_eq!(index.len(), list.len());
                prop_assert_eq!(index.bytes(), list.iter().map(|n| known(*n).bytes).sum::<u64>());
                let order: Vec<_> = list.iter().map(|n| key(*n)).collect();
                prop_assert_eq!(index.created(|_| true), order);
            }
        }
    }
}
