//! The one thread that owns the engine, and the handle that everyone else holds.
//!
//! The thread loads the package, runs its self-test, and then does one job after the other: warm
//! clicks before cold ones before promptless grids, first come first served within each. It is also
//! the state machine of the engine's health:
//!
//! ```text
//!            self-test passed              max_failures in a row
//! LOADING ───────────────────▶ READY ───────────────────────────▶ MANUAL_ONLY
//!   ▲  │                         │ reload                            │   ▲
//!   │  └── failed ───────────────┼───────────────────────────────────┼───┘
//!   └────────────────────────────┴─── reload, timer, folder change ──┘
//! a lost device or a hanging call: on_fatal, the process ends
//! ```
//!
//! Invariants:
//! 1. Only this thread touches the [`Backend`]: it makes, runs and drops it.
//! 2. A job is admitted only if it can be done before its deadline, by what jobs took lately; it is
//!    skipped if its deadline passed or its caller left before it began.
//! 3. Every job is answered, whatever happens to the engine; a panic counts as a failed call.
//! 4. A failed inference is logged here, once, in the caller's span; nobody else logs it.
//!
//! It does not join callers that want the same thing (the service does), knows no image and no
//! answer, and can't interrupt a running call.

mod deadline;
mod queue;
mod state;
mod thread;
mod vitals;

pub use deadline::Deadline;
pub use state::{Fatal, Hooks, LoadError, Loaded, LoadedInfo, State};
pub use vitals::{Stage, Vitals};

use super::{Backend, BackendError};
use crate::domain::tensor::{Embedding, HostEmbedding, ImageTensor, MaskLogits, PromptBatch};
use queue::{Lane, Order, Refusal};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thread::Shared;
use tokio::sync::{oneshot, watch};

/// When the engine counts as broken; [`super::Options`] gives the configured ones.
#[derive(Clone, Debug)]
pub struct Options {
    /// A call past this is a hang.
    pub hang: Duration,
    /// Loading past this is a hang.
    pub load_hang: Duration,
    /// Failed inferences in a row that end READY.
    pub max_failures: u32,
    /// First wait before the package is tried again.
    pub retry_first: Duration,
    /// Longest wait.
    pub retry_max: Duration,
    /// How often the package's folder is looked at in manual-only mode.
    pub watch_every: Duration,
    /// Jobs that may wait.
    pub max_queue: usize,
}

impl From<&super::Options> for Options {
    fn from(options: &super::Options) -> Self {
        Self {
            hang: Duration::from_secs(options.hang_s),
            load_hang: Duration::from_secs(options.load_hang_s),
            max_failures: options.max_failures,
            retry_first: Duration::from_secs(options.retry_first_s),
            retry_max: Duration::from_secs(options.retry_max_s),
            watch_every: Duration::from_secs(2),
            max_queue: options.max_queue,
        }
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The embedding is there: a person is clicking.
    Warm,
    /// A person opens an image.
    Cold,
    /// The daemon looks for the object itself, in batches.
    Promptless,
}

/// Why the engine did not do it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EngineError {
    /// It could not be done before the deadline; nothing was done.
    #[error("work ahead and this take {} ms", estimate.as_millis())]
    Overloaded {
        /// How long it would have taken.
        estimate: Duration,
    },
    /// There is no engine now.
    #[error("{reason}")]
    Unavailable {
        /// What anyone may read.
        reason: &'static str,
    },
    /// It was accepted, but its turn came too late.
    #[error("the deadline passed before its turn came")]
    Expired,
    /// It failed; logged already.
    #[error(transparent)]
    Failed(BackendError),
}

/// What the image encoder made, and when.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// The handle to decode on.
    pub embedding: Embedding,
    /// Time spent waiting.
    pub queue: Duration,
    /// Time spent computing.
    pub took: Duration,
}

/// What the mask decoder made, and when.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// One row of masks a prompt.
    pub logits: MaskLogits,
    /// Time spent waiting.
    pub queue: Duration,
    /// Time spent computing.
    pub took: Duration,
}

/// What a request will want, to ask before its image is even decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Encoder calls.
    pub encodes: u32,
    /// Prompts, one decoder call each when it is one, batched when there are more.
    pub prompts: u32,
}

/// The handle: cheap to clone. The thread ends when the last one is dropped.
#[derive(Clone)]
pub struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts the engine thread and its watch; returns at once, in LOADING.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(options: Options, hooks: Hooks) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(options));
        let watch = {
            let (shared, end) = (Arc::clone(&shared), Arc::clone(&hooks.on_fatal));
            spawn("engine-watch", move || thread::watch_for_hangs(&shared, &*end))?
        };
        // From here on, an error drops the handle, which ends the watch.
        let handle = Self(Arc::new(Handle { shared, threads: Mutex::new(vec![watch]) }));
        let shared = Arc::clone(&handle.0.shared);
        let engine = spawn("engine", move || thread::run(&shared, hooks))?;
        handle.0.threads().push(engine);
        Ok(handle)
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.0.shared.state.borrow().clone()
    }

    /// The state, and every change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<State> {
        self.0.shared.state.subscribe()
    }

    /// Waits for LOADING to end: READY or MANUAL_ONLY.
    pub async fn settled(&self) -> State {
        let mut states = self.watch();
        let settled = states.wait_for(|state| !matches!(state, State::Loading)).await;
        settled.map_or(State::Loading, |state| state.clone())
    }

    /// Would this be done before the deadline, if it were asked for now? Reserves nothing.
    ///
    /// # Errors
    /// `Overloaded`, `Unavailable`, `Expired`.
    pub fn admit(&self, class: Class, cost: Cost, deadline: Instant) -> Result<(), EngineError> {
        let Shared { queue, counters, .. } = &*self.0.shared;
        let encodes = counters.estimate(Stage::Encode, 1).saturating_mul(cost.encodes);
        let own = encodes.saturating_add(counters.estimate(Stage::Decode, cost.prompts));
        Ok(queue.check(counters, class.into(), own, deadline)?)
    }

    /// Runs the image encoder. Dropping the future before its turn takes the job out of the queue.
    /// It does not give up by itself once the encoder runs: wrap it in a timeout.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub async fn encode(
        &self,
        image: ImageTensor,
        class: Class,
        deadline: impl Into<Deadline>,
    ) -> Result<Encoded, EngineError> {
        let call = move |backend: &mut dyn Backend| backend.encode(&image);
        let done = self.submit(order(Stage::Encode, 1, class.into(), deadline), call)?;
        let (embedding, queue, took) = received(done).await?;
        Ok(Encoded { embedding, queue, took })
    }

    /// Runs the mask decoder on a batch of prompts. See [`Engine::encode`] for leaving early.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub async fn decode(
        &self,
        embedding: Embedding,
        prompts: PromptBatch,
        class: Class,
        deadline: impl Into<Deadline>,
    ) -> Result<Decoded, EngineError> {
        let count = u32::try_from(prompts.batch()).unwrap_or(u32::MAX);
        let call = move |backend: &mut dyn Backend| backend.decode(&embedding, &prompts);
        let done = self.submit(order(Stage::Decode, count, class.into(), deadline), call)?;
        let (logits, queue, took) = received(done).await?;
        Ok(Decoded { logits, queue, took })
    }

    /// Copies an embedding to host memory, for the disk: after everything that someone waits for.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub async fn download(
        &self,
        embedding: Embedding,
        deadline: impl Into<Deadline>,
    ) -> Result<HostEmbedding, EngineError> {
        let call = move |backend: &mut dyn Backend| backend.download(&embedding);
        let done = self.submit(order(Stage::Transfer, 1, Lane::Background, deadline), call)?;
        received(done).await.map(|(embedding, _, _)| embedding)
    }

    /// Brings an embedding from the disk back to the device.
    ///
    /// # Errors
    /// Any [`EngineError`].
    pub async fn upload(
        &self,
        embedding: HostEmbedding,
        class: Class,
        deadline: impl Into<Deadline>,
    ) -> Result<Embedding, EngineError> {
        let call = move |backend: &mut dyn Backend| backend.upload(&embedding);
        let done = self.submit(order(Stage::Transfer, 1, class.into(), deadline), call)?;
        received(done).await.map(|(embedding, _, _)| embedding)
    }

    /// Is the engine well? One decoder call on the golden embedding, before everything else; the
    /// result must mark as much as it did after loading. Returns what it took.
    ///
    /// # Errors
    /// Any [`EngineError`]. A failure counts as a failed inference; a success does not make earlier
    /// failures forgotten, because it says nothing of the encoder.
    pub async fn probe(&self, deadline: impl Into<Deadline>) -> Result<Duration, EngineError> {
        let done = self.0.shared.queue.push_probe(deadline.into())?;
        received(done).await.map(|((), _, took)| took)
    }

    /// Drops the engine and loads it anew; jobs in the queue wait for it. Returns how it went.
    ///
    /// # Errors
    /// `Unavailable` when loading failed or the daemon stops.
    pub async fn reload(&self) -> Result<Arc<LoadedInfo>, EngineError> {
        let done = self.0.shared.queue.request_reload();
        done.await.unwrap_or(Err(EngineError::Unavailable { reason: thread::STOPPING }))
    }

    /// Counters, averages and what the engine does now.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        let shared = &self.0.shared;
        shared.counters.snapshot(shared.queue.lengths())
    }

    /// Ends the thread: queued jobs are refused, the running one is finished. Returns false when it
    /// did not end in time. Blocking.
    #[must_use]
    pub fn stop(&self, patience: Duration) -> bool {
        self.0.stop();
        let until = Instant::now() + patience;
        let mut threads = self.0.threads();
        while threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        threads.drain(..).all(|thread| thread.join().is_ok())
    }

    fn submit<T: Send + 'static>(
        &self,
        order: Order,
        call: impl FnOnce(&mut dyn Backend) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<Receiver<T>, EngineError> {
        let Shared { queue, counters, .. } = &*self.0.shared;
        Ok(queue.push(counters, order, call)?)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Engine").field(&self.state()).finish()
    }
}

impl Handle {
    fn threads(&self) -> std::sync::MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(&self) {
        self.shared.queue.stop();
        self.threads().iter().for_each(|thread| thread.thread().unpark());
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

impl From<Class> for Lane {
    fn from(class: Class) -> Self {
        match class {
            Class::Warm => Self::Warm,
            Class::Cold => Self::Cold,
            Class::Promptless => Self::Promptless,
        }
    }
}

impl From<Refusal> for EngineError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(estimate) | Refusal::TooLate(estimate) => Self::Overloaded { estimate },
            Refusal::Closed(reason) => Self::Unavailable { reason },
            Refusal::Expired => Self::Expired,
        }
    }
}

/// A named thread that logs where its starter does.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    let run = move || tracing::dispatcher::with_default(&dispatch, run);
    std::thread::Builder::new().name(name.into()).spawn(run)
}

fn order(stage: Stage, count: u32, lane: Lane, deadline: impl Into<Deadline>) -> Order {
    Order { stage, count, lane, deadline: deadline.into() }
}

/// Value, time waited, time computed.
type Answer<T> = Result<(T, Duration, Duration), EngineError>;
type Receiver<T> = oneshot::Receiver<Answer<T>>;

async fn received<T>(done: Receiver<T>) -> Answer<T> {
    done.await.unwrap_or(Err(EngineError::Unavailable { reason: thread::STOPPING }))
}

#[cfg(test)]
mod tests;
