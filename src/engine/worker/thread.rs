//! The engine thread's life: load, serve, break, wait, load again. And the watch that notices when
//! it no longer comes back.
//!
//! Invariants:
//! 1. The queue's gate and the published state change together: open exactly in READY.
//! 2. A backend is dropped before the next is made: two don't fit on a small device.
//! 3. A change to MANUAL_ONLY is warned about once; further failures to get out of it are not.

use super::queue::{Job, Next, Queue};
use super::vitals::{Counters, Stage};
use super::{EngineError, Fatal, Hooks, LoadError, Loaded, LoadedInfo, Options, State};
use crate::domain::tensor::{Embedding, MaskLogits, PromptBatch};
use crate::engine::{Backend, BackendError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

const LOADING: &str = "the engine is loading";
const BROKEN: &str = "the engine failed several times in a row";
const LOST: &str = "the engine's device is lost; the service restarts";
const HANGING: &str = "the engine hangs; the service restarts";
pub(super) const STOPPING: &str = "the service is stopping";

/// How much a probe's marked area may differ from the one after loading: nothing on the CPU, and
/// less than this where a device sums in changing order.
const PROBE_TOLERANCE: f64 = 0.02;

/// What handle, engine thread and watch share.
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) counters: Counters,
    pub(super) state: watch::Sender<State>,
    options: Options,
    /// Only a new process helps: the engine thread doesn't come back to life.
    dead: AtomicBool,
}

impl Shared {
    pub(super) fn new(options: Options) -> Self {
        Self {
            queue: Queue::new(options.max_queue, LOADING),
            counters: Counters::new(),
            state: watch::Sender::new(State::Loading),
            options,
            dead: AtomicBool::new(false),
        }
    }

    fn loading(&self) {
        self.queue.pause(LOADING);
        self.state.send_replace(State::Loading);
    }

    fn ready(&self, info: LoadedInfo) -> Arc<LoadedInfo> {
        let info = Arc::new(info);
        // The gate first: who waits for READY and then asks must not find it closed.
        self.queue.open();
        self.state.send_replace(State::Ready(Arc::clone(&info)));
        info
    }

    fn manual_only(&self, reason: &'static str, detail: &str) {
        self.queue.close(reason);
        self.state.send_replace(State::ManualOnly { reason, detail: detail.into() });
    }

    fn fatal(&self, reason: &'static str, fatal: Fatal, end: &dyn Fn(Fatal)) {
        if self.dead.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!("the engine can't go on in this process: {fatal}");
        self.manual_only(reason, &fatal.to_string());
        end(fatal);
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
}

/// What ended serving.
enum End {
    Stop,
    Reload,
    Broken(BackendError),
    Lost(String),
}

/// The golden prompt, and how much it marks when all is well.
struct Probe {
    embedding: Embedding,
    prompts: PromptBatch,
    marked: usize,
}

/// The engine thread.
pub(super) fn run(shared: &Shared, mut hooks: Hooks) {
    let mut pause = Backoff::new(&shared.options);
    let mut warned = false;
    while !shared.queue.stopping() {
        shared.loading();
        let revision = (hooks.revision)();
        let reloads = shared.queue.take_reloads();
        let loaded = load(shared, &mut *hooks.load);
        if shared.is_dead() {
            break;
        }
        let mut retry = true;
        let end = match loaded {
            Ok((mut backend, probe, info)) => {
                tracing::info!(
                    engine = %info.engine.name,
                    backend = info.engine.backend,
                    took_ms = millis(info.took),
                    "engine ready"
                );
                warned = false;
                let info = shared.ready(info);
                for waiting in reloads {
                    let _ = waiting.send(Ok(Arc::clone(&info)));
                }
                serve(shared, &mut *backend, &probe, &mut pause)
            }
            Err(error) => {
                retry = !matches!(error, LoadError::NotConfigured(_));
                let detail = error.to_string();
                warn_once(&mut warned, error.public(), &detail);
                shared.manual_only(error.public(), &detail);
                for waiting in reloads {
                    let reason = error.public();
                    let _ = waiting.send(Err(EngineError::Unavailable { reason }));
                }
                error.device_lost().map(End::Lost)
            }
        };
        match end {
            Some(End::Stop) => break,
            Some(End::Reload) => continue,
            Some(End::Lost(what)) => {
                shared.fatal(LOST, Fatal::DeviceLost(what), &*hooks.on_fatal);
                break;
            }
            Some(End::Broken(error)) => {
                shared.counters.broke_down();
                let detail = error.to_string();
                warn_once(&mut warned, BROKEN, &detail);
                shared.manual_only(BROKEN, &detail);
            }
            None => {}
        }
        let until = retry.then(|| Instant::now() + pause.next());
        if !wait_for_reason(shared, until, revision, &*hooks.revision) {
            break;
        }
    }
    shared.queue.end(STOPPING);
}

/// Ends the process's hope when a call doesn't come back.
pub(super) fn watch_for_hangs(shared: &Shared, end: &dyn Fn(Fatal)) {
    let Options { hang, load_hang, .. } = shared.options;
    // Fine enough to be on time, coarse enough to cost nothing.
    let tick = (hang.min(load_hang) / 8).clamp(Duration::from_millis(5), Duration::from_secs(1));
    while !shared.queue.stopping() && !shared.is_dead() {
        std::thread::park_timeout(tick);
        let Some((stage, after)) = shared.counters.busy() else { continue };
        if after > if stage == Stage::Load { load_hang } else { hang } {
            shared.fatal(HANGING, Fatal::Hang { stage, after }, end);
        }
    }
}

type Ready = (Box<dyn Backend>, Probe, LoadedInfo);

fn load(
    shared: &Shared,
    load: &mut dyn FnMut() -> Result<Loaded, LoadError>,
) -> Result<Ready, LoadError> {
    let counters = &shared.counters;
    counters.begin(Stage::Load);
    let began = Instant::now();
    let made = guarded("loading", || load().map(probed)).unwrap_or_else(|panic| Err(panic.into()));
    let made = made.and_then(|probed| probed.map_err(LoadError::from));
    counters.end(Stage::Load, 1, made.is_ok());
    let (loaded, marked, decode) = made?;
    counters.seed(loaded.self_test.observed.encode, decode);
    counters.forget_failures();
    let Loaded { backend, package, self_test, probe_embedding, probe_prompts } = loaded;
    let engine = Arc::new(backend.info().clone());
    let info = LoadedInfo { engine, package, self_test, took: began.elapsed() };
    let probe = Probe { embedding: probe_embedding, prompts: probe_prompts, marked };
    Ok((backend, probe, info))
}

/// Runs the probe once: it gives the measure for later ones, and the time of a decoder call that is
/// not the first.
fn probed(mut loaded: Loaded) -> Result<(Loaded, usize, Duration), BackendError> {
    let began = Instant::now();
    let logits = loaded.backend.decode(&loaded.probe_embedding, &loaded.probe_prompts)?;
    Ok((loaded, marked(&logits), began.elapsed()))
}

fn serve(
    shared: &Shared,
    backend: &mut dyn Backend,
    probe: &Probe,
    pause: &mut Backoff,
) -> Option<End> {
    loop {
        let mut job = match shared.queue.next(&shared.counters, None) {
            Next::Stop => return Some(End::Stop),
            Next::Reload => return Some(End::Reload),
            Next::Nothing => continue,
            Next::Job(job) => job,
        };
        let (stage, span) = (job.stage, job.span.clone());
        let (failed, queue, took) = run_job(shared, backend, probe, &mut job);
        let end = match &failed {
            None => {
                if matches!(stage, Stage::Encode | Stage::Decode) {
                    shared.counters.worked();
                    pause.reset();
                }
                None
            }
            Some(error) => span.in_scope(|| judge(shared, stage, error)),
        };
        // A hang was called fatal while this ran: too late, whatever came out.
        if shared.is_dead() {
            job.reply(failed, queue, took);
            return Some(End::Stop);
        }
        // Who broke the engine should find the gate closed when the answer arrives.
        match &end {
            Some(End::Broken(_)) => shared.queue.close(BROKEN),
            Some(End::Lost(_)) => shared.queue.close(LOST),
            _ => {}
        }
        job.reply(failed, queue, took);
        if end.is_some() {
            return end;
        }
    }
}

fn run_job(
    shared: &Shared,
    backend: &mut dyn Backend,
    probe: &Probe,
    job: &mut Job,
) -> (Option<BackendError>, Duration, Duration) {
    let queue = job.enqueued.elapsed();
    let stage = job.stage;
    let span = tracing::debug_span!(
        parent: &job.span,
        "engine.call",
        stage = stage.name(),
        prompts = job.count,
        queue_ms = millis(queue),
    );
    shared.counters.begin(stage);
    let outcome = span.in_scope(|| {
        guarded(stage.name(), || {
            if stage == Stage::Probe {
                well(backend, probe)?;
            }
            job.run(backend)
        })
    });
    let failed = outcome.unwrap_or_else(Err).err();
    let took = shared.counters.end(stage, job.count, failed.is_none());
    shared.queue.idle();
    (failed, queue, took)
}

/// Logs a failed inference, once, in its caller's span, and says whether it is the end of serving.
fn judge(shared: &Shared, stage: Stage, error: &BackendError) -> Option<End> {
    let stage = stage.name();
    match error {
        BackendError::BadInput(_) => {
            tracing::error!(stage, %error, "the engine was asked for what it can't do; this is a bug");
            None
        }
        BackendError::DeviceLost(what) => {
            shared.counters.failed();
            tracing::error!(stage, "inference failed: {error}");
            Some(End::Lost(what.clone()))
        }
        _ => {
            let failures_in_a_row = shared.counters.failed();
            tracing::error!(stage, failures_in_a_row, "inference failed: {error}");
            let broken = failures_in_a_row >= shared.options.max_failures;
            broken.then(|| End::Broken(error.clone()))
        }
    }
}

fn well(backend: &mut dyn Backend, probe: &Probe) -> Result<(), BackendError> {
    let found = marked(&backend.decode(&probe.embedding, &probe.prompts)?);
    if found.abs_diff(probe.marked) as f64 <= PROBE_TOLERANCE * probe.marked as f64 {
        return Ok(());
    }
    let what = format!("the golden prompt marks {found} instead of {}", probe.marked);
    Err(BackendError::BadOutput { stage: "decoder", what })
}

fn marked(logits: &MaskLogits) -> usize {
    logits.logits.iter().filter(|logit| **logit > 0.0).count()
}

/// A panic in a backend is a failed call: the thread lives on.
fn guarded<T>(stage: &'static str, call: impl FnOnce() -> T) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let what = format!("panicked: {}", text.unwrap_or_else(|| "without words".into()));
        BackendError::Failed { stage, what }
    })
}

/// In MANUAL_ONLY: returns true when it is time to load again, false to stop.
fn wait_for_reason(
    shared: &Shared,
    until: Option<Instant>,
    seen: u64,
    revision: &dyn Fn() -> u64,
) -> bool {
    loop {
        let look = Instant::now() + shared.options.watch_every;
        match shared.queue.next(&shared.counters, Some(until.map_or(look, |end| end.min(look)))) {
            Next::Stop => return false,
            Next::Reload => return true,
            // The gate is closed: no job comes.
            Next::Job(_) | Next::Nothing => {}
        }
        if until.is_some_and(|end| Instant::now() >= end) || revision() != seen {
            return true;
        }
    }
}

fn warn_once(warned: &mut bool, reason: &str, detail: &str) {
    if std::mem::replace(warned, true) {
        tracing::debug!(reason, detail, "still manual-only");
    } else {
        tracing::warn!("manual-only mode: no automatic segmentation: {reason} ({detail})");
    }
}

/// Waits between attempts, doubling. Only an inference that worked resets it: an engine that loads
/// and then fails every request would else flap every few seconds.
struct Backoff {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    fn new(options: &Options) -> Self {
        Self { first: options.retry_first, max: options.retry_max, next: options.retry_first }
    }

    fn next(&mut self) -> Duration {
        let now = self.next.min(self.max);
        self.next = now.saturating_mul(2);
        now
    }

    fn reset(&mut self) {
        self.next = self.first;
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let options = crate::engine::Options { retry_max_s: 12, ..Default::default() };
        let mut pause = Backoff::new(&Options::from(&options));
        let seconds: Vec<_> = (0..4).map(|_| pause.next().as_secs()).collect();
        assert_eq!(seconds, [5, 10, 12, 12]);
        pause.reset();
        assert_eq!(pause.next().as_secs(), 5);
    }
}
