//! An LRU bounded by bytes, in memory: embeddings on the device, entries that are open.
//!
//! Invariants:
//! 1. The bytes of all values together never exceed the budget.
//! 2. A value larger than the whole budget is not kept (and pushes nothing out).
//! 3. What is pushed out is handed back, so that the owner can free it outside of any lock.
//!
//! It measures nothing: whoever puts a value says how many bytes it is.

use lru::LruCache;
use std::borrow::Borrow;
use std::hash::Hash;

/// Values by key, the longest unused pushed out first. Not synchronised.
#[derive(Debug)]
pub struct ByteLru<K: Hash + Eq, V> {
    values: LruCache<K, (V, usize)>,
    bytes: usize,
    budget_bytes: usize,
}

impl<K: Hash + Eq, V> ByteLru<K, V> {
    /// Empty.
    #[must_use]
    pub fn new(budget_bytes: usize) -> Self {
        Self { values: LruCache::unbounded(), bytes: 0, budget_bytes }
    }

    /// Keeps `value`, which occupies `bytes`, and returns what had to go for it: an older value of
    /// the same key, the longest unused, or `value` itself when it alone is over the budget.
    pub fn put(&mut self, key: K, value: V, bytes: usize) -> Vec<V> {
        let mut out: Vec<V> = self.remove(&key).into_iter().collect();
        if bytes > self.budget_bytes {
            out.push(value);
            return out;
        }
        while self.bytes > self.budget_bytes - bytes {
            let Some((_, (old, size))) = self.values.pop_lru() else { break };
            self.bytes -= size;
            out.push(old);
        }
        self.values.put(key, (value, bytes));
        self.bytes += bytes;
        out
    }

    /// The value, which is now the most recently used.
    pub fn get<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.values.get(key).map(|(value, _)| value)
    }

    /// Takes a value out.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (value, bytes) = self.values.pop(key)?;
        self.bytes -= bytes;
        Some(value)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.values.clear();
        self.bytes = 0;
    }

    /// Bytes of all values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Most bytes it will ever hold.
    #[must_use]
    pub fn budget_bytes(&self) -> usize {
        self.budget_bytes
    }

    /// Number of values.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_unused_goes_first_and_a_get_counts_as_use() {
        let mut lru = ByteLru::new(10);
        assert!(lru.put("a", 1, 4).is_empty());
        assert!(lru.put("b", 2, 4).is_empty());
        assert_eq!(lru.get("a"), Some(&1));
        assert_eq!(lru.put("c", 3, 4), [2]);
        assert_eq!(lru.get("a"), Some(&1));
        assert_eq!(lru.get("b"), None);
        assert_eq!(lru.bytes(), 8);
    }

    #[test]
    fn a_value_over_the_whole_budget_is_handed_back_and_pushes_nothing_out() {
        let mut lru = ByteLru::new(10);
        lru.put("a", 1, 10);
        assert_eq!(lru.put("b", 2, 11), [2]);
        assert_eq!(lru.get("a"), Some(&1));
    }

    #[test]
    fn a_key_put_again_counts_once() {
        let mut lru = ByteLru::new(10);
        lru.put("a", 1, 6);
        assert_eq!(lru.put("a", 2, 7), [1]);
        assert_eq!((lru.len(), lru.bytes()), (1, 7));
    }

    proptest! {
        #[test]
        fn the_budget_holds_and_the_sum_is_right(
            budget in 0_usize..50,
            steps in proptest::collection::vec((0_u8..12, 0_usize..20, any::<bool>()), 0..200),
        ) {
            let mut lru = ByteLru::new(budget);
            let mut sizes = std::collections::HashMap::new();
            for (key, bytes, remove) in steps {
                if remove {
                    lru.remove(&key);
                } else {
                    lru.put(key, (), bytes);
                    sizes.insert(key, bytes);
                }
                let held: usize = (0..12).filter(|key| lru.values.contains(key)).map(|key| sizes[&key]).sum();
                prop_assert_eq!(lru.bytes(), held);
                prop_assert!(held <= budget);
            }
        }
    }
}
