//! The jobs that wait for the engine thread: lanes by priority, admission by estimated time.
//!
//! Invariants:
//! 1. What is in a lane was admitted: at that moment it could be done before its deadline.
//! 2. At most `max_queue` jobs wait, so what they hold in memory is bounded.
//! 3. While the gate is closed nothing enters; closing it for good answers all who wait.

use super::vitals::{Counters, Stage};
use super::{Answer, Deadline, EngineError, LoadedInfo, Receiver};
use crate::engine::{Backend, BackendError};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tracing::Span;

/// Lanes, first served first. Who asks whether the engine is well doesn't wait behind its work, and
/// who writes to the disk waits behind all who wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Probe,
    Warm,
    Cold,
    Promptless,
    Background,
}

const LANES: usize = 5;

/// A job is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// So many wait already; the estimate of their work.
    Full(Duration),
    /// The estimate goes beyond the deadline.
    TooLate(Duration),
    /// There is no engine, for this reason.
    Closed(&'static str),
    /// The deadline had passed.
    Expired,
}

/// What is asked for, without the call itself.
pub(super) struct Order {
    pub(super) stage: Stage,
    /// Prompts of a decode; 1 otherwise.
    pub(super) count: u32,
    pub(super) lane: Lane,
    pub(super) deadline: Deadline,
}

/// One call for the engine thread.
pub(super) struct Job {
    pub(super) stage: Stage,
    /// Prompts of a decode; 1 otherwise.
    pub(super) count: u32,
    /// The caller's span: what goes wrong is logged in it.
    pub(super) span: Span,
    pub(super) enqueued: Instant,
    deadline: Deadline,
    call: Box<dyn Call>,
}

/// A backend call and the caller who waits for its value, whatever type that is.
trait Call: Send {
    fn abandoned(&self) -> bool;
    fn refuse(self: Box<Self>, error: EngineError);
    fn run(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError>;
    fn reply(self: Box<Self>, failed: Option<BackendError>, queue: Duration, took: Duration);
}

struct Pending<T, F> {
    call: Option<F>,
    value: Option<T>,
    reply: oneshot::Sender<Answer<T>>,
}

impl<T, F> Call for Pending<T, F>
where
    T: Send,
    F: FnOnce(&mut dyn Backend) -> Result<T, BackendError> + Send,
{
    fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    fn refuse(self: Box<Self>, error: EngineError) {
        // The caller may have left: then nobody is there to be told.
        let _ = self.reply.send(Err(error));
    }

    fn run(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        if let Some(call) = self.call.take() {
            self.value = Some(call(backend)?);
        }
        Ok(())
    }

    fn reply(self: Box<Self>, failed: Option<BackendError>, queue: Duration, took: Duration) {
        let answer = match (failed, self.value) {
            (None, Some(value)) => Ok((value, queue, took)),
            (Some(error), _) => Err(EngineError::Failed(error)),
            (None, None) => Err(EngineError::Unavailable { reason: super::thread::STOPPING }),
        };
        let _ = self.reply.send(answer);
    }
}

impl Job {
    pub(super) fn run(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        self.call.run(backend)
    }

    pub(super) fn reply(self, failed: Option<BackendError>, queue: Duration, took: Duration) {
        self.call.reply(failed, queue, took);
    }

    fn refuse(self, error: EngineError) {
        self.call.refuse(error);
    }
}

/// What the engine thread does next.
pub(super) enum Next {
    Job(Job),
    Reload,
    Stop,
    /// Nothing came in the time given.
    Nothing,
}

type Reloaded = Result<Arc<LoadedInfo>, EngineError>;

pub(super) struct Queue {
    inner: Mutex<Inner>,
    wake: Condvar,
    max: usize,
}

struct Inner {
    lanes: [VecDeque<Job>; LANES],
    /// Why nothing is taken; `None` is open.
    closed: Option<&'static str>,
    /// The running job: since when, and how long it should take.
    running: Option<(Instant, Duration)>,
    reloads: Vec<oneshot::Sender<Reloaded>>,
    stop: bool,
    /// The thread is gone: nobody will answer.
    ended: bool,
}

impl Queue {
    pub(super) fn new(max: usize, closed: &'static str) -> Self {
        let inner = Inner {
            lanes: Default::default(),
            closed: Some(closed),
            running: None,
            reloads: Vec::new(),
            stop: false,
            ended: false,
        };
        Self { inner: Mutex::new(inner), wake: Condvar::new(), max }
    }

    /// Takes a job, or says why not.
    pub(super) fn push<T: Send + 'static>(
        &self,
        counters: &Counters,
        order: Order,
        call: impl FnOnce(&mut dyn Backend) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<Receiver<T>, Refusal> {
        let own = counters.estimate(order.stage, order.count);
        let mut inner = self.lock();
        inner.sweep(counters);
        inner.admit(counters, order.lane, own, order.deadline.instant(), self.max)?;
        let done = inner.enqueue(order, call);
        self.wake.notify_one();
        Ok(done)
    }

    /// Takes a health probe: whatever the queue looks like, it is one decoder call and goes first.
    /// The thread knows what to decode.
    pub(super) fn push_probe(&self, deadline: Deadline) -> Result<Receiver<()>, Refusal> {
        let mut inner = self.lock();
        if let Some(reason) = inner.closed {
            return Err(Refusal::Closed(reason));
        }
        let order = Order { stage: Stage::Probe, count: 1, lane: Lane::Probe, deadline };
        let done = inner.enqueue(order, |_| Ok(()));
        self.wake.notify_one();
        Ok(done)
    }

    /// Would a job be taken?
    pub(super) fn check(
        &self,
        counters: &Counters,
        lane: Lane,
        own: Duration,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let mut inner = self.lock();
        inner.sweep(counters);
        inner.admit(counters, lane, own, deadline, self.max)
    }

    /// The next job whose deadline lies ahead and whose caller is still there; waits for one until
    /// `until`, or for ever.
    pub(super) fn next(&self, counters: &Counters, until: Option<Instant>) -> Next {
        let mut inner = self.lock();
        loop {
            if inner.stop {
                return Next::Stop;
            }
            if !inner.reloads.is_empty() {
                return Next::Reload;
            }
            inner.sweep(counters);
            if inner.closed.is_none()
                && let Some(job) = inner.lanes.iter_mut().find_map(VecDeque::pop_front)
            {
                let expected = counters.estimate(job.stage, job.count);
                inner.running = Some((Instant::now(), expected));
                return Next::Job(job);
            }
            inner = match until {
                None => self.wake.wait(inner).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Next::Nothing;
                    }
                    let waited = self.wake.wait_timeout(inner, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// The running job ended.
    pub(super) fn idle(&self) {
        self.lock().running = None;
    }

    pub(super) fn open(&self) {
        self.lock().closed = None;
        self.wake.notify_one();
    }

    /// Takes nothing more; who waits keeps waiting.
    pub(super) fn pause(&self, reason: &'static str) {
        self.lock().closed = Some(reason);
    }

    /// Takes nothing more and answers all who wait.
    pub(super) fn close(&self, reason: &'static str) {
        let mut inner = self.lock();
        inner.closed = Some(reason);
        let lanes = std::mem::take(&mut inner.lanes);
        drop(inner);
        lanes.into_iter().flatten().for_each(|job| job.refuse(EngineError::Unavailable { reason }));
    }

    pub(super) fn request_reload(&self) -> oneshot::Receiver<Reloaded> {
        let (reply, done) = oneshot::channel();
        let mut inner = self.lock();
        if !inner.ended {
            inner.reloads.push(reply);
            self.wake.notify_one();
        }
        done
    }

    /// Those who wait for a load that has not begun yet.
    pub(super) fn take_reloads(&self) -> Vec<oneshot::Sender<Reloaded>> {
        std::mem::take(&mut self.lock().reloads)
    }

    /// The thread's last word: answers all who wait, and all who will come.
    pub(super) fn end(&self, reason: &'static str) {
        self.close(reason);
        let mut inner = self.lock();
        inner.ended = true;
        inner.reloads.clear();
    }

    pub(super) fn stop(&self) {
        self.lock().stop = true;
        self.wake.notify_all();
    }

    pub(super) fn stopping(&self) -> bool {
        self.lock().stop
    }

    /// Waiting jobs: warm, cold, promptless.
    pub(super) fn lengths(&self) -> [usize; 3] {
        let inner = self.lock();
        [Lane::Warm, Lane::Cold, Lane::Promptless]
            .map(|lane| inner.lanes.get(lane as usize).map_or(0, VecDeque::len))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here panics half-way through a change.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn admit(
        &self,
        counters: &Counters,
        lane: Lane,
        own: Duration,
        deadline: Instant,
        max: usize,
    ) -> Result<(), Refusal> {
        if let Some(reason) = self.closed {
            return Err(Refusal::Closed(reason));
        }
        let now = Instant::now();
        if deadline <= now {
            return Err(Refusal::Expired);
        }
        let running = self.running.map_or(Duration::ZERO, |(since, expected)| {
            expected.saturating_sub(now.saturating_duration_since(since))
        });
        let ahead = self.lanes.iter().take(lane as usize + 1).flatten();
        let estimate = ahead
            .map(|job| counters.estimate(job.stage, job.count))
            .chain([running, own])
            .fold(Duration::ZERO, Duration::saturating_add);
        let refusal = if self.lanes.iter().map(VecDeque::len).sum::<usize>() >= max {
            Refusal::Full(estimate)
        } else if estimate > deadline.saturating_duration_since(now) {
            Refusal::TooLate(estimate)
        } else {
            return Ok(());
        };
        counters.refused();
        Err(refusal)
    }

    /// Takes out what nobody waits for any more and what comes too late: it neither runs nor counts
    /// as work ahead, and its memory is freed now.
    fn sweep(&mut self, counters: &Counters) {
        for lane in &mut self.lanes {
            for _ in 0..lane.len() {
                let Some(job) = lane.pop_front() else { break };
                if job.call.abandoned() {
                    counters.abandoned();
                } else if job.deadline.passed() {
                    counters.expired();
                    job.refuse(EngineError::Expired);
                } else {
                    lane.push_back(job);
                }
            }
        }
    }

    fn enqueue<T: Send + 'static>(
        &mut self,
        order: Order,
        call: impl FnOnce(&mut dyn Backend) -> Result<T, BackendError> + Send + 'static,
    ) -> Receiver<T> {
        let Order { stage, count, lane, deadline } = order;
        let (reply, done) = oneshot::channel();
        let call = Box::new(Pending { call: Some(call), value: None, reply });
        let (span, enqueued) = (Span::current(), Instant::now());
        self.lane(lane).push_back(Job { stage, count, span, enqueued, deadline, call });
        done
    }

    fn lane(&mut self, lane: Lane) -> &mut VecDeque<Job> {
        let [probe, warm, cold, promptless, background] = &mut self.lanes;
        match lane {
            Lane::Probe => probe,
            Lane::Warm => warm,
            Lane::Cold => cold,
            Lane::Promptless => promptless,
            Lane::Background => background,
        }
    }
}
