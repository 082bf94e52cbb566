//! What systemd is told: READY, a line of status, RELOADING, STOPPING, and that loading takes longer.
//!
//! READY=1 goes out on first entering READY *or* MANUAL_ONLY: a box without its engine is up and
//! says so; it is not a unit that failed to start. Outside systemd nothing is told.
//!
//! It does not feed the watchdog: [`super::watchdog`] does, and only while that is earned.

use crate::engine::worker::{Engine, State, Vitals};
use sd_notify::NotifyState;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// How often the status line is looked at; people read it, programs read `/metrics`.
const EVERY: Duration = Duration::from_secs(5);
/// While it loads, systemd is asked for so much more time, again and again: the unit's own limit can
/// then be short. What never ends is a matter for `engine.load_hang_s`.
const MORE_TIME: Duration = Duration::from_secs(30);
/// What the rates in the status line look back at.
const MINUTE: Duration = Duration::from_secs(60);

/// Where words for the service manager go: its socket, or a test's list.
pub trait Notifier: Send + Sync {
    /// Says these words in one message.
    fn tell(&self, words: &[NotifyState<'_>]);
}

/// `$NOTIFY_SOCKET`; nothing where there is none.
#[derive(Clone, Copy, Debug)]
pub struct Socket;

impl Notifier for Socket {
    fn tell(&self, words: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(words) {
            tracing::debug!(%error, "systemd was not told");
        }
    }
}

/// Follows the engine's state until the engine ends.
pub async fn follow(engine: Engine, notifier: impl Notifier) {
    let mut states = engine.watch();
    let (mut ready, mut said) = (false, String::new());
    let mut minute = Minute::default();
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            changed = states.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
        let state = states.borrow_and_update().clone();
        let status = status(&state, &minute.passed(Instant::now(), &engine.vitals()));
        if matches!(state, State::Loading) {
            notifier.tell(&[
                NotifyState::ExtendTimeoutUsec(
                    u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX),
                ),
                NotifyState::Status(&status),
            ]);
        } else if !std::mem::replace(&mut ready, true) {
            notifier.tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        } else if said != status {
            notifier.tell(&[NotifyState::Status(&status)]);
        }
        said = status;
    }
}

/// SIGHUP was heard. [`reloaded`] must follow.
pub fn reloading(notifier: &impl Notifier) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notifier.tell(&[NotifyState::Reloading, now]),
        Err(_) => notifier.tell(&[NotifyState::Reloading]),
    }
}

/// The new configuration is in force, or the old one stays.
pub fn reloaded(notifier: &impl Notifier) {
    notifier.tell(&[NotifyState::Ready]);
}

/// The daemon finishes what it accepted and ends.
pub fn stopping(notifier: &impl Notifier) {
    notifier.tell(&[NotifyState::Stopping, NotifyState::Status("finishing what was accepted")]);
}

/// What the engine did in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    encodes: u64,
    prompts: u64,
    failures: u64,
    waiting: usize,
}

/// Counters as they were, so that a minute's difference can be told.
#[derive(Debug, Default)]
struct Minute(VecDeque<(Instant, Rates)>);

impl Minute {
    fn passed(&mut self, now: Instant, vitals: &Vitals) -> Rates {
        let total = Rates {
            encodes: vitals.encodes,
            prompts: vitals.prompts,
            failures: vitals.failures,
            waiting: vitals.queued.iter().sum(),
        };
        while self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > MINUTE) {
            self.0.pop_front();
        }
        self.0.push_back((now, total));
        let before = self.0.front().map_or(total, |(_, rates)| *rates);
        Rates {
            encodes: total.encodes.saturating_sub(before.encodes),
            prompts: total.prompts.saturating_sub(before.prompts),
            failures: total.failures.saturating_sub(before.failures),
            waiting: total.waiting,
        }
    }
}

/// One line for `systemctl status`.
fn status(state: &State, rates: &Rates) -> String {
    match state {
        State::Loading => "loading the engine".to_owned(),
        State::Ready(info) => {
            let mut line = format!("ready: {} on {}", info.engine.name, info.engine.device);
            let Rates { encodes, prompts, failures, waiting } = rates;
            // Writing to a String can't fail.
            let _ = write!(
                line,
                "; last minute: {encodes} images, {prompts} prompts, {failures} failed; {waiting} waiting"
            );
            line
        }
        // A line break would end the word in systemd's protocol, and begin another.
        State::ManualOnly { reason, detail } => {
            format!("manual-only: {reason} ({detail})").replace('\n', " ")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::worker::{Hooks, LoadError, Options};
    use std::sync::{Arc, Mutex};

    /// Keeps what was said.
    #[derive(Clone, Default)]
    pub(crate) struct Recorder(Arc<Mutex<Vec<String>>>);

    impl Notifier for Recorder {
        fn tell(&self, words: &[NotifyState<'_>]) {
            let words: Vec<_> = words.iter().map(ToString::to_string).collect();
            self.0.lock().unwrap().push(words.join("|"));
        }
    }

    #[tokio::test]
    async fn a_box_without_its_engine_is_up_and_says_why() {
        let options = Options::from(&crate::engine::Options::default());
        let load = || Err(LoadError::GoldenFiles("no such card\nMAINPID=1".to_owned()));
        let engine = Engine::start(options, Hooks::new(load)).unwrap();
        let recorder = Recorder::default();
        let task = tokio::spawn(follow(engine.clone(), recorder.clone()));
        engine.settled().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let said = recorder.0.lock().unwrap().clone();
        let ready: Vec<_> = said.iter().filter(|words| words.contains("READY=1")).collect();
        assert_eq!(ready.len(), 1, "{said:?}");
        assert!(ready[0].contains("STATUS=manual-only:"), "{said:?}");
        assert!(ready[0].ends_with("no such card MAINPID=1)"), "{said:?}");
        task.abort();
    }

    #[test]
    fn rates_look_back_a_minute_and_no_further() {
        let mut minute = Minute::default();
        let engine = Engine::start(
            Options::from(&crate::engine::Options::default()),
            Hooks::new(|| Err(LoadError::GoldenFiles(String::new()))),
        );
        let mut vitals = engine.unwrap().vitals();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(minute.passed(at(0), &vitals).prompts, 0);
        vitals.prompts = 7;
        assert_eq!(minute.passed(at(50), &vitals).prompts, 7);
        vitals.prompts = 9;
        assert_eq!(minute.passed(at(70), &vitals).prompts, 2);
        assert_eq!(minute.passed(at(200), &vitals).prompts, 0);
    }
}
