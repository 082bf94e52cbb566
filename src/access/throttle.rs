//! Slows guessing down: so many failed logins of one address within a minute, then none is looked
//! at until the minute is over.
//!
//! Invariant: memory is bounded however many addresses try. When it is full, the address that
//! failed longest ago is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered; a hospital's LAN segment has fewer.
const MAX_ADDRESSES: usize = 4096;

/// Counts failures.
#[derive(Debug)]
pub struct Throttle {
    max: u32,
    failures: Mutex<HashMap<IpAddr, Window>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Instant,
    failures: u32,
}

impl Throttle {
    /// So many a minute.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { max, failures: Mutex::default() }
    }

    /// How long this address still has to wait; `None` when it may try.
    #[must_use]
    pub fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let window = failures.get(&address).filter(|window| window.failures >= self.max)?;
        (window.began + WINDOW).checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// Counts a failure.
    pub fn failed(&self, address: IpAddr, now: Instant) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MAX_ADDRESSES && !failures.contains_key(&address) {
            let oldest = failures.iter().min_by_key(|(_, window)| window.began);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                failures.remove(&oldest);
            }
        }
        let window = failures.entry(address).or_insert(Window { began: now, failures: 0 });
        if now.duration_since(window.began) >= WINDOW {
            *window = Window { began: now, failures: 0 };
        }
        window.failures = window.failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn an_address_that_failed_too_often_waits_and_others_do_not() {
        let throttle = Throttle::new(2);
        let [guesser, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        let start = Instant::now();
        throttle.failed(guesser, start);
        assert_eq!(throttle.wait(guesser, start), None);
        throttle.failed(guesser, start + Duration::from_secs(20));
        let at = start + Duration::from_secs(30);
        assert_eq!(throttle.wait(guesser, at), Some(Duration::from_secs(30)));
        assert_eq!(throttle.wait(other, at), None);
        let later = start + WINDOW;
        assert_eq!(throttle.wait(guesser, later), None);
        throttle.failed(guesser, later);
        assert_eq!(throttle.wait(guesser, later), None, "a new minute starts at nought");
        throttle.failed(guesser, later);
        assert_eq!(throttle.wait(guesser, later), Some(WINDOW), "and counts like the first");
    }

    #[test]
    fn memory_is_bounded_and_the_oldest_is_forgotten() {
        let throttle = Throttle::new(1);
        let address = |n: usize| IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap()));
        let start = Instant::now();
        for n in 0..=MAX_ADDRESSES {
            throttle.failed(address(n), start + Duration::from_micros(n as u64));
        }
        assert_eq!(throttle.failures.lock().unwrap().len(), MAX_ADDRESSES);
        assert_eq!(throttle.wait(address(0), start), None);
        assert!(throttle.wait(address(1), start).is_some());
    }
}
