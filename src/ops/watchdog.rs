//! systemd's watchdog, earned: `WATCHDOG=1` goes out only while the daemon could do its work.
//!
//! Invariants:
//! 1. It is sent from the same runtime that serves requests: a runtime that stands still sends none.
//! 2. It is not sent while a call of the engine takes longer than `engine.hang_s` (loading:
//!    `engine.load_hang_s`). The engine's own watch ends the process then; this is the second line.
//! 3. In READY, after a failure and after a quiet minute, it is sent only if a decoder call on the
//!    golden picture's embedding works. Probes that fail count as failed inferences, so an engine
//!    that stays broken becomes manual-only before the watchdog's patience ends.
//!
//! Manual-only mode earns it: a restart would not bring the engine back.

use super::systemd::Notifier;
use crate::engine::worker::{Engine, EngineError, Stage, State, Vitals};
use sd_notify::NotifyState;
use std::time::{Duration, Instant};

/// After so long without an inference, and after a failure, the engine is probed.
const QUIET: Duration = Duration::from_secs(60);
/// How often in its patience systemd is told: three probes may fail before it ends.
const OFTEN: u32 = 5;
/// When there is no watchdog the engine is probed all the same, so that a broken one is known
/// before somebody clicks.
const UNWATCHED: Duration = Duration::from_secs(30);

/// When a call counts as hanging.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `engine.hang_s`.
    pub call: Duration,
    /// `engine.load_hang_s`.
    pub load: Duration,
}

/// How often it is to be earned, by systemd's patience.
#[must_use]
pub fn pace() -> Duration {
    sd_notify::watchdog_enabled().map_or(UNWATCHED, |patience| patience / OFTEN)
}

/// Earns it for ever, for whichever engine serves.
pub async fn earn(
    engine: impl Fn() -> Engine,
    limits: Limits,
    every: Duration,
    notifier: impl Notifier,
) {
    let (mut probed, mut warned) = (Instant::now(), false);
    loop {
        tokio::time::sleep(every).await;
        let why = unwell(&engine(), limits, &mut probed, every).await;
        match &why {
            None => {
                notifier.tell(&[NotifyState::Watchdog]);
                warned = false;
            }
            Some(why) if !std::mem::replace(&mut warned, true) => {
                tracing::warn!("the watchdog is not fed: {why}");
            }
            Some(_) => {}
        }
    }
}

/// Why the daemon could not do its work now; none when it could.
async fn unwell(
    engine: &Engine,
    limits: Limits,
    probed: &mut Instant,
    patience: Duration,
) -> Option<String> {
    let vitals = engine.vitals();
    if let Some((stage, age)) = vitals.busy {
        let limit = if stage == Stage::Load { limits.load } else { limits.call };
        let seconds = age.as_secs();
        return (age > limit).then(|| format!("the engine's {} takes {seconds} s", stage.name()));
    }
    if !matches!(engine.state(), State::Ready(_)) || !due(&vitals, probed.elapsed()) {
        return None;
    }
    match engine.probe(Instant::now() + patience).await {
        Ok(took) => {
            *probed = Instant::now();
            tracing::debug!(ms = took.as_millis(), "the engine was probed");
            None
        }
        // Others were served instead, or it became manual-only meanwhile: known by other means.
        Err(EngineError::Overloaded { .. } | EngineError::Expired) => None,
        Err(EngineError::Unavailable { .. }) => None,
        Err(EngineError::Failed(error)) => Some(format!("the engine's probe failed: {error}")),
    }
}

/// Is it time to find out whether the engine works?
fn due(vitals: &Vitals, since_probe: Duration) -> bool {
    let failed = vitals.failures_in_a_row > 0
        && vitals.since_failure.is_some_and(|failure| failure < since_probe);
    let quiet = vitals.since_success.is_none_or(|success| success > QUIET);
    failed || (quiet && since_probe > QUIET)
}

#[cfg(test)]
mod tests {
    use super::super::systemd::tests::Recorder;
    use super::*;
    use crate::engine::worker::{Hooks, LoadError, Options};
    use crate::service::loader::{self, Reach};

    fn vitals() -> (Engine, Vitals) {
        let options = Options::from(&crate::engine::Options::default());
        let load = || Err(LoadError::GoldenFiles(String::new()));
        let engine = Engine::start(options, Hooks::new(load)).unwrap();
        let vitals = engine.vitals();
        (engine, Vitals { busy: None, ..vitals })
    }

    #[test]
    fn the_engine_is_probed_after_a_failure_and_after_a_quiet_minute_only() {
        let seconds = Duration::from_secs;
        let (_engine, calm) = vitals();
        struct Case(&'static str, Option<u64>, Option<u64>, u32, u64, bool);
        for Case(what, success, failure, in_a_row, probe, expected) in [
            Case("busy lately", Some(5), None, 0, 500, false),
            Case("quiet, not probed", Some(90), None, 0, 90, true),
            Case("quiet, probed", Some(90), None, 0, 20, false),
            Case("never used", None, None, 0, 70, true),
            Case("failed since the probe", Some(5), Some(1), 1, 10, true),
            Case("probed since the failure", Some(5), Some(10), 1, 1, false),
            Case("failed, then worked", Some(1), Some(5), 0, 10, false),
        ] {
            let vitals = Vitals {
                since_success: success.map(seconds),
                since_failure: failure.map(seconds),
                failures_in_a_row: in_a_row,
                ..calm.clone()
            };
            assert_eq!(due(&vitals, seconds(probe)), expected, "{what}");
        }
    }

    #[tokio::test]
    async fn a_probe_that_worked_is_not_repeated_at_once() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/engines/seeded-m3");
        let engine = crate::engine::Options {
            path: Some(folder.into()),
            cpu_threads: 1,
            ..crate::engine::Options::default()
        };
        let options = Options::from(&engine);
        let load = loader::loader(engine, Reach { loopback_only: true }, Box::new(|_, _| ()));
        let engine = Engine::start(options, Hooks::new(load)).unwrap();
        assert!(matches!(engine.settled().await, State::Ready(_)));
        let limits = Limits { call: QUIET, load: QUIET };
        let began = Instant::now();
        let mut probed = began.checked_sub(2 * QUIET).unwrap();
        assert_eq!(unwell(&engine, limits, &mut probed, QUIET).await, None);
        assert!(probed >= began, "it does not count");
    }

    /// The daemon's ways with one engine: what systemd was told within that time.
    async fn told(engine: &Engine, load_ms: u64, within_ms: u64) -> Vec<String> {
        let recorder = Recorder::default();
        let limits = Limits { call: Duration::from_secs(9), load: Duration::from_millis(load_ms) };
        let (one, every) = (engine.clone(), Duration::from_millis(10));
        let earning = earn(move || one.clone(), limits, every, recorder.clone());
        let _ = tokio::time::timeout(Duration::from_millis(within_ms), earning).await;
        recorder.said()
    }

    /// An engine that loads until it is released, and then has no package.
    async fn loading() -> (Engine, std::sync::mpsc::Sender<()>) {
        let options = Options::from(&crate::engine::Options::default());
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let load = move || {
            let _ = wait.recv();
            Err(LoadError::GoldenFiles(String::new()))
        };
        let engine = Engine::start(options, Hooks::new(load)).unwrap();
        while engine.vitals().busy.is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        (engine, release)
    }

    #[tokio::test]
    async fn systemd_is_fed_while_all_is_well_and_not_while_a_call_hangs() {
        let (engine, release) = loading().await;
        let patient = told(&engine, 60_000, 300).await;
        assert!(patient.len() > 3, "{patient:?}");
        assert!(patient.iter().all(|words| words == "WATCHDOG=1"), "{patient:?}");
        assert_eq!(told(&engine, 1, 300).await, [""; 0], "a hanging call was forgiven");
        release.send(()).unwrap();
        engine.settled().await;
        assert!(told(&engine, 1, 300).await.len() > 3, "manual-only mode earns it");
    }

    #[tokio::test]
    async fn a_call_past_its_limit_earns_nothing_and_manual_only_does() {
        let (engine, release) = loading().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        let tight = Limits { call: Duration::from_secs(9), load: Duration::from_millis(10) };
        let wide = Limits { call: Duration::ZERO, load: Duration::from_secs(60) };
        let mut probed = Instant::now();
        let why = unwell(&engine, tight, &mut probed, QUIET).await;
        assert!(why.is_some_and(|why| why.contains("load")));
        assert_eq!(unwell(&engine, wide, &mut probed, QUIET).await, None);
        release.send(()).unwrap();
        engine.settled().await;
        assert_eq!(unwell(&engine, tight, &mut probed, QUIET).await, None);
    }
}
