//! One piece of work per key, however many ask for it at once.
//!
//! The work owns itself: it runs in a task of its own and finishes (and is cached) even when every
//! caller has left. A caller that joins late waits for the same result, and lends the work its own
//! deadline if that is later.
//!
//! Invariant: a key is in flight from the first `join` until its result is sent, then forgotten;
//! results are not kept here.

use super::error::ServiceError;
use crate::engine::worker::Deadline;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

type Outcome<V> = Option<Result<V, ServiceError>>;

type UnderWay<K, V> = Arc<Mutex<HashMap<K, (watch::Receiver<Outcome<V>>, Deadline)>>>;

/// The work under way.
pub(super) struct Flight<K, V> {
    under_way: UnderWay<K, V>,
}

impl<K, V> Flight<K, V>
where
    K: Copy + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    pub(super) fn new() -> Self {
        Self { under_way: Arc::default() }
    }

    /// Waits for the work of `key`, starting it if nobody has. The second value is true for the
    /// caller that started it.
    ///
    /// # Errors
    /// The work's own error, shared by all who waited; `Internal` if it panicked.
    pub(super) async fn join<F>(
        &self,
        key: K,
        deadline: Instant,
        work: impl FnOnce(Deadline) -> F,
    ) -> (Result<V, ServiceError>, bool)
    where
        F: Future<Output = Result<V, ServiceError>> + Send + 'static,
    {
        let (mut receiver, started) = self.receiver(key, deadline, work);
        let outcome = match receiver.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            Err(_) => None,
        };
        let panicked = || Err(ServiceError::Internal(Arc::new(WorkPanicked)));
        (outcome.unwrap_or_else(panicked), started)
    }

    fn receiver<F>(
        &self,
        key: K,
        deadline: Instant,
        work: impl FnOnce(Deadline) -> F,
    ) -> (watch::Receiver<Outcome<V>>, bool)
    where
        F: Future<Output = Result<V, ServiceError>> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((receiver, shared)) = under_way.get(&key) {
            shared.extend(deadline);
            return (receiver.clone(), false);
        }
        let (sender, receiver) = watch::channel(None);
        let deadline = Deadline::from(deadline);
        under_way.insert(key, (receiver.clone(), deadline.clone()));
        let landing = Landing { key, under_way: Arc::clone(&self.under_way) };
        let work = work(deadline);
        tokio::spawn(tracing::Instrument::in_current_span(async move {
            let outcome = work.await;
            drop(landing);
            let _ = sender.send(Some(outcome));
        }));
        (receiver, true)
    }
}

/// Takes the key out of flight, also when the work panics.
struct Landing<K: Eq + Hash, V> {
    key: K,
    under_way: UnderWay<K, V>,
}

impl<K: Eq + Hash, V> Drop for Landing<K, V> {
    fn drop(&mut self) {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the work that others waited for ended without a result")]
struct WorkPanicked;

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    #[tokio::test]
    async fn many_who_ask_at_once_share_one_piece_of_work() {
        let flight = Arc::new(Flight::<u8, usize>::new());
        let runs = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..16)
            .map(|_| {
                let (flight, runs) = (Arc::clone(&flight), Arc::clone(&runs));
                tokio::spawn(async move {
                    let work = |_| async move {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        Ok(runs.fetch_add(1, Ordering::SeqCst) + 1)
                    };
                    flight.join(7, Instant::now(), work).await
                })
            })
            .collect();
        let mut started = 0;
        for caller in callers {
            let (result, first) = caller.await.unwrap();
            assert_eq!(result.unwrap(), 1);
            started += usize::from(first);
        }
        assert_eq!((started, runs.load(Ordering::SeqCst)), (1, 1));
    }

    #[tokio::test]
    async fn the_work_goes_on_when_the_caller_leaves() {
        let flight = Flight::<u8, ()>::new();
        let done = Arc::new(AtomicUsize::new(0));
        let inner = Arc::clone(&done);
        let work = |_| async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            inner.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let left =
            tokio::time::timeout(Duration::from_millis(5), flight.join(1, Instant::now(), work))
                .await;
        assert!(left.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(done.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn who_joins_late_lends_the_work_a_later_deadline() {
        let flight = Arc::new(Flight::<u8, Instant>::new());
        let (soon, late) =
            (Instant::now() + Duration::from_secs(1), Instant::now() + Duration::from_secs(60));
        let first = {
            let flight = Arc::clone(&flight);
            let work = |deadline: Deadline| async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Ok(deadline.instant())
            };
            tokio::spawn(async move { flight.join(1, soon, work).await.0.unwrap() })
        };
        tokio::task::yield_now().await;
        let (seen, started) = flight.join(1, late, |_| async { Ok(Instant::now()) }).await;
        assert!(!started && seen.unwrap() > soon + Duration::from_secs(30));
        assert!(first.await.unwrap() > soon);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_for_all_and_frees_the_key() {
        let flight = Flight::<u8, u8>::new();
        let (result, _) = flight.join(1, Instant::now(), |_| async { panic!("on purpose") }).await;
        assert!(matches!(result, Err(ServiceError::Internal(_))));
        let (result, started) = flight.join(1, Instant::now(), |_| async { Ok(3) }).await;
        assert_eq!((result.unwrap(), started), (3, true));
    }
}
