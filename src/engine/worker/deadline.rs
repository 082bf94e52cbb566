//! When work stops being wanted. Clones share it, and it can be moved later: when another caller
//! joins an encode that is already queued, the job lives as long as the more patient of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A shared deadline that only ever moves later.
#[derive(Clone, Debug)]
pub struct Deadline(Arc<AtomicU64>);

impl Deadline {
    /// Moves it, if `later` is later.
    pub fn extend(&self, later: Instant) {
        self.0.fetch_max(micros(later), Ordering::Relaxed);
    }

    /// When it is.
    #[must_use]
    pub fn instant(&self) -> Instant {
        start() + Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// Is it over?
    #[must_use]
    pub fn passed(&self) -> bool {
        self.instant() <= Instant::now()
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self(Arc::new(AtomicU64::new(micros(instant))))
    }
}

/// `Instant` has no zero; the first deadline's birth serves as one.
fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

fn micros(instant: Instant) -> u64 {
    let since = instant.saturating_duration_since(start());
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_moves_later_for_all_who_share_it_and_never_earlier() {
        let now = Instant::now() + Duration::from_secs(1);
        let one = Deadline::from(now);
        let other = one.clone();
        one.extend(now + Duration::from_secs(5));
        one.extend(now + Duration::from_secs(2));
        let moved = other.instant() - now;
        assert!(moved > Duration::from_millis(4990) && moved < Duration::from_millis(5010));
        assert!(!other.passed());
        assert!(Deadline::from(Instant::now()).passed());
    }
}
