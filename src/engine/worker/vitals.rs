//! What the engine does and how long things take: plain atomics, written by the engine thread, read
//! by anyone without waiting. A hung engine thread can't keep its own vitals from being read.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// How much the latest call counts in the moving average: about the last ten matter, so a change of
/// load shows within seconds and one slow call doesn't refuse a queue.
const WEIGHT: f64 = 0.2;

/// What the engine thread can be busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Loading and self-test.
    Load,
    /// Image encoder.
    Encode,
    /// Mask decoder.
    Decode,
    /// Embedding between device and host.
    Transfer,
    /// Mask decoder on the golden embedding.
    Probe,
}

impl Stage {
    /// As in logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Encode => "encoder",
            Self::Decode => "decoder",
            Self::Transfer => "transfer",
            Self::Probe => "probe",
        }
    }

    /// In the order of their discriminants.
    const ALL: [Self; 5] = [Self::Load, Self::Encode, Self::Decode, Self::Transfer, Self::Probe];
}

/// A look at the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct Vitals {
    /// Finished encoder calls, failed ones too.
    pub encodes: u64,
    /// Finished decoder calls, failed ones too; probes not.
    pub decodes: u64,
    /// Prompts in them.
    pub prompts: u64,
    /// Finished health probes.
    pub probes: u64,
    /// Times a package was loaded or tried to.
    pub loads: u64,
    /// Failed inferences, probes too.
    pub failures: u64,
    /// Failed inferences since the last that worked.
    pub failures_in_a_row: u32,
    /// Jobs refused because they could not be done in time.
    pub refused: u64,
    /// Jobs whose turn came too late.
    pub expired: u64,
    /// Jobs whose caller left before their turn.
    pub abandoned: u64,
    /// READY → MANUAL_ONLY.
    pub breakdowns: u64,
    /// Waiting jobs: warm, cold, promptless.
    pub queued: [usize; 3],
    /// What runs now, and for how long.
    pub busy: Option<(Stage, Duration)>,
    /// Time spent in calls.
    pub busy_total: Duration,
    /// Since an inference last worked.
    pub since_success: Option<Duration>,
    /// Since an inference last failed.
    pub since_failure: Option<Duration>,
    /// Moving average of an encoder call; zero before the first.
    pub encode_average: Duration,
    /// Moving average of a decoder call with one prompt.
    pub decode_average: Duration,
}

pub(super) struct Counters {
    start: Instant,
    calls: [AtomicU64; 5],
    prompts: AtomicU64,
    failures: AtomicU64,
    failures_in_a_row: AtomicU32,
    refused: AtomicU64,
    expired: AtomicU64,
    abandoned: AtomicU64,
    breakdowns: AtomicU64,
    /// Microseconds since `start`, plus one; 0 is idle.
    busy_since: AtomicU64,
    busy_stage: AtomicU8,
    busy_total: AtomicU64,
    /// Microseconds since `start`, plus one; 0 is never.
    success: AtomicU64,
    failure: AtomicU64,
    encode: Average,
    decode_one: Average,
    decode_each: Average,
    transfer: Average,
}

/// Microseconds; written by one thread.
#[derive(Default)]
struct Average(AtomicU64);

impl Average {
    fn set(&self, took: Duration) {
        self.0.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    fn add(&self, took: Duration) {
        let before = self.value();
        self.set(if before.is_zero() {
            took
        } else {
            before.mul_f64(1.0 - WEIGHT) + took.mul_f64(WEIGHT)
        });
    }

    fn value(&self) -> Duration {
        Duration::from_micros(self.0.load(Relaxed))
    }
}

impl Counters {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            calls: Default::default(),
            prompts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            failures_in_a_row: AtomicU32::new(0),
            refused: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            breakdowns: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            busy_stage: AtomicU8::new(0),
            busy_total: AtomicU64::new(0),
            success: AtomicU64::new(0),
            failure: AtomicU64::new(0),
            encode: Average::default(),
            decode_one: Average::default(),
            decode_each: Average::default(),
            transfer: Average::default(),
        }
    }

    /// Starts the averages from the self-test.
    pub(super) fn seed(&self, encode: Duration, decode: Duration) {
        self.encode.set(encode);
        self.decode_one.set(decode);
        self.decode_each.set(Duration::ZERO);
        self.transfer.set(Duration::ZERO);
    }

    pub(super) fn begin(&self, stage: Stage) {
        self.busy_stage.store(stage as u8, Relaxed);
        self.busy_since.store(self.now(), Release);
    }

    /// Ends what `begin` began. Returns what it took.
    pub(super) fn end(&self, stage: Stage, count: u32, worked: bool) -> Duration {
        let since = self.busy_since.swap(0, Relaxed);
        let micros = self.now().saturating_sub(since);
        let took = Duration::from_micros(micros);
        self.busy_total.fetch_add(micros, Relaxed);
        if let Some(calls) = self.calls.get(stage as usize) {
            calls.fetch_add(1, Relaxed);
        }
        if stage == Stage::Decode {
            self.prompts.fetch_add(u64::from(count), Relaxed);
        }
        match stage {
            _ if !worked => {}
            Stage::Encode => self.encode.add(took),
            Stage::Decode if count == 1 => self.decode_one.add(took),
            Stage::Decode => self.decode_each.add(took / count.max(1)),
            Stage::Transfer => self.transfer.add(took),
            Stage::Load | Stage::Probe => {}
        }
        took
    }

    /// What is expected of a call with `count` prompts.
    pub(super) fn estimate(&self, stage: Stage, count: u32) -> Duration {
        match stage {
            Stage::Encode => self.encode.value(),
            Stage::Decode if count == 1 => self.decode_one.value(),
            Stage::Decode => {
                // Until a batch was timed, it is taken for a series of single prompts, which errs
                // towards refusing.
                let each = Some(self.decode_each.value()).filter(|each| !each.is_zero());
                each.unwrap_or_else(|| self.decode_one.value()).saturating_mul(count)
            }
            Stage::Transfer => self.transfer.value(),
            Stage::Probe => self.decode_one.value(),
            Stage::Load => Duration::ZERO,
        }
    }

    /// What runs now, and for how long.
    pub(super) fn busy(&self) -> Option<(Stage, Duration)> {
        let since = self.busy_since.load(Acquire);
        let stage = Stage::ALL.get(usize::from(self.busy_stage.load(Relaxed)))?;
        (since != 0).then(|| (*stage, Duration::from_micros(self.now().saturating_sub(since))))
    }

    pub(super) fn worked(&self) {
        self.failures_in_a_row.store(0, Relaxed);
        self.success.store(self.now(), Relaxed);
    }

    /// Returns the failures in a row, this one included.
    pub(super) fn failed(&self) -> u32 {
        self.failures.fetch_add(1, Relaxed);
        self.failure.store(self.now(), Relaxed);
        self.failures_in_a_row.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn forget_failures(&self) {
        self.failures_in_a_row.store(0, Relaxed);
    }

    pub(super) fn broke_down(&self) {
        self.breakdowns.fetch_add(1, Relaxed);
    }

    pub(super) fn refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    pub(super) fn expired(&self) {
        self.expired.fetch_add(1, Relaxed);
    }

    pub(super) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    pub(super) fn snapshot(&self, queued: [usize; 3]) -> Vitals {
        let [loads, encodes, decodes, _, probes] = self.calls.each_ref().map(|c| c.load(Relaxed));
        let since = |stamp: &AtomicU64| {
            let stamp = stamp.load(Relaxed);
            (stamp != 0).then(|| Duration::from_micros(self.now().saturating_sub(stamp)))
        };
        Vitals {
            encodes,
            decodes,
            prompts: self.prompts.load(Relaxed),
            probes,
            loads,
            failures: self.failures.load(Relaxed),
            failures_in_a_row: self.failures_in_a_row.load(Relaxed),
            refused: self.refused.load(Relaxed),
            expired: self.expired.load(Relaxed),
            abandoned: self.abandoned.load(Relaxed),
            breakdowns: self.breakdowns.load(Relaxed),
            queued,
            busy: self.busy(),
            busy_total: Duration::from_micros(self.busy_total.load(Relaxed)),
            since_success: since(&self.success),
            since_failure: since(&self.failure),
            encode_average: self.encode.value(),
            decode_average: self.decode_one.value(),
        }
    }

    /// Microseconds since `start`, plus one.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_follow_what_calls_take_and_failed_calls_teach_nothing() {
        let counters = Counters::new();
        counters.seed(Duration::from_millis(50), Duration::from_millis(7));
        assert_eq!(counters.estimate(Stage::Encode, 1), Duration::from_millis(50));
        // Unknown yet: eight prompts are taken for eight calls.
        assert_eq!(counters.estimate(Stage::Decode, 8), Duration::from_millis(56));
        let call = |stage, count, worked| {
            counters.begin(stage);
            counters.end(stage, count, worked);
        };
        call(Stage::Encode, 1, false);
        assert_eq!(counters.estimate(Stage::Encode, 1), Duration::from_millis(50));
        call(Stage::Encode, 1, true);
        let after = counters.estimate(Stage::Encode, 1);
        assert!(after >= Duration::from_millis(40) && after < Duration::from_millis(50));
        let vitals = counters.snapshot([0; 3]);
        assert_eq!((vitals.encodes, vitals.busy), (2, None));
    }

    #[test]
    fn what_runs_is_named_with_its_age() {
        let counters = Counters::new();
        for stage in Stage::ALL {
            counters.begin(stage);
            std::thread::sleep(Duration::from_millis(2));
            let (found, age) = counters.busy().unwrap();
            assert_eq!(found, stage);
            assert!(age >= Duration::from_millis(2));
            assert!(counters.end(stage, 1, true) >= age);
        }
    }
}
