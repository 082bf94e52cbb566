//! Children ready ahead of time: taken from one end, replaced at the other by a thread of their own.
//!
//! Invariants:
//! 1. A child in the pool has said that its sandbox stands.
//! 2. `workers` children exist at most: ready, decoding or being replaced.
//! 3. When none can be started, callers learn it at once; the thread goes on trying.

use super::wire::Setup;
use super::worker::Worker;
use super::{Program, io};
use crate::imaging::decode::DecodeError;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between attempts to start a child, after one failed.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    spent: Option<Sender<Worker>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    ready: Vec<Worker>,
    /// Why no child can be started, while that is so.
    trouble: Option<String>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; and a list of children stays a list of children.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pool {
    /// Starts the first child here, so that failing to is an error at start, and the rest behind.
    pub(super) fn start(program: Program, setup: Setup, workers: usize) -> io::Result<Self> {
        let first = Worker::start(&program, setup)?;
        let state = Mutex::new(State { ready: vec![first], trouble: None });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let (spent, inbox) = channel();
        let replacer = Replacer { shared: Arc::clone(&shared), program, setup, inbox };
        let thread = std::thread::Builder::new()
            .name("decoder-pool".to_owned())
            .spawn(move || replacer.run(workers - 1))?;
        Ok(Self { shared, spent: Some(spent), thread: Some(thread) })
    }

    /// A ready child, waiting for one until the deadline.
    ///
    /// # Errors
    /// [`DecodeError::Unavailable`] when none can be started, or none came free in time.
    pub(super) fn take(&self, deadline: Instant) -> Result<Worker, DecodeError> {
        let mut state = self.shared.lock();
        loop {
            if let Some(worker) = state.ready.pop() {
                return Ok(worker);
            }
            if let Some(trouble) = &state.trouble {
                return Err(DecodeError::Unavailable(trouble.clone()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let reason = "no decoder came free in time".to_owned();
                return Err(DecodeError::Unavailable(reason));
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Hands back a child that has seen its image.
    pub(super) fn spent(&self, worker: Worker) {
        if let Some(spent) = &self.spent {
            // The thread lives as long as we do; else dropping the child is all there is to do.
            let _ = spent.send(worker);
        }
    }

    pub(super) fn ready(&self) -> usize {
        self.shared.lock().ready.len()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.spent.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Replacer {
    shared: Arc<Shared>,
    program: Program,
    setup: Setup,
    inbox: Receiver<Worker>,
}

impl Replacer {
    /// Replaces spent children until the pool is dropped.
    fn run(self, mut missing: usize) {
        loop {
            while missing > 0 && self.add() {
                missing -= 1;
            }
            let spent = if missing == 0 {
                self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.inbox.recv_timeout(RETRY)
            };
            match spent {
                Ok(worker) => {
                    drop(worker);
                    missing += 1;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Starts one child; false when it can't.
    fn add(&self) -> bool {
        let started = Worker::start(&self.program, self.setup);
        let mut state = self.shared.lock();
        let done = match started {
            Ok(worker) => {
                state.ready.push(worker);
                state.trouble = None;
                true
            }
            Err(error) => {
                if state.trouble.is_none() {
                    tracing::error!(%error, "no decoder child can be started");
                }
                state.trouble = Some(error.to_string());
                false
            }
        };
        drop(state);
        self.shared.changed.notify_all();
        done
    }
}
