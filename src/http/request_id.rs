//! Ids of requests: ours alone. What a client sends as an id may be a patient's, so it is neither
//! used nor logged.

use crate::domain::key::hex;
use std::sync::atomic::{AtomicU64, Ordering};

/// 16 hex digits, different for every request of this box for all practical purposes.
#[must_use]
pub fn new() -> String {
    let mut bytes = [0; 8];
    if getrandom::fill(&mut bytes).is_err() {
        // Without randomness ids still tell the requests of this process apart.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        bytes = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    }
    hex(&bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ids_are_short_hex_and_differ() {
        let (a, b) = (super::new(), super::new());
        assert_eq!(a.len(), 16);
        assert!(a.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_ne!(a, b);
    }
}
