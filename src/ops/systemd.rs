//! What systemd is told: READY, a line of status, RELOADING, STOPPING, and that loading takes longer.
//!
//! READY=1 goes out on first entering READY *or* MANUAL_ONLY: a box without its engine is up and
//! says so; it is not a unit that failed to start. Outside systemd nothing is told.
//!
//! It does not feed the watchdog: [`super::watchdog`] does, and only while that is earned.

use crate::engine::worker::{State, Vitals};
use crate::service::serving::Watching;
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

/// Follows the engine's state until there is none.
pub async fn follow(mut watching: Watching, notifier: impl Notifier) {
    let (mut ready, mut said) = (false, String::new());
    let mut minute = Minute::default();
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            changed = watching.changed() => if !changed { return },
            _ = ticks.tick() => {}
        }
        let state = watching.state();
        let vitals = watching.engine().vitals();
        let status = status(&state, &minute.passed(Instant::now(), &vitals));
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
        // Another engine counts from zero again.
        if self.0.back().is_some_and(|(_, last)| total.prompts < last.prompts) {
            self.0.clear();
            self.0.push_back((now, Rates::default()));
        }
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
pub(super) mod tests {
    use super::*;
    use crate::engine::worker::{Engine, Hooks, LoadError, Options};
    use std::sync::{Arc, Mutex};

    /// Keeps what was said.
    #[derive(Clone, Default)]
    pub(in crate::ops) struct Recorder(Arc<Mutex<Vec<String>>>);

    impl Recorder {
        pub(in crate::ops) fn said(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

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
        let engines = tokio::sync::watch::Sender::new(engine.clone());
        let recorder = Recorder::default();
        let task = tokio::spawn(follow(Watching::new(engines.subscribe()), recorder.clone()));
        engine.settled().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let said = recorder.said();
        let ready: Vec<_> = said.iter().filter(|words| words.contains("READY=1")).collect();
        assert_eq!(ready.len(), 1, "{said:?}");
        assert!(ready[0].contains("STATUS=manual-only:"), "{said:?}");
        assert!(ready[0].ends_with("no such card MAINPID=1)"), "{said:?}");
        task.abort();
    }

    #[tokio::test]
    async fn while_it_loads_systemd_is_asked_for_time_and_ready_is_said_once() {
        let options = Options::from(&crate::engine::Options::default());
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let load = move || {
            let _ = wait.recv();
            Err(LoadError::GoldenFiles("no".to_owned()))
        };
        let engine = Engine::start(options, Hooks::new(load)).unwrap();
        let engines = tokio::sync::watch::Sender::new(engine.clone());
        let recorder = Recorder::default();
        let watching = Watching::new(engines.subscribe());
        let task = tokio::spawn(follow(watching, recorder.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
        let loading = "EXTEND_TIMEOUT_USEC=30000000|STATUS=loading the engine";
        let said = recorder.said();
        assert!(!said.is_empty() && said.iter().all(|words| words == loading), "{said:?}");
        let after = || {
            let said = recorder.said();
            said.into_iter().filter(|words| words != loading).collect::<Vec<_>>()
        };
        release.send(()).unwrap();
        engine.settled().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let said = after();
        assert!(said[0].starts_with("READY=1|STATUS=manual-only: "), "{said:?}");
        // Another one takes over: systemd hears how it is, and READY no second time.
        let load = || Err(LoadError::GoldenFiles("nor that".to_owned()));
        let options = Options::from(&crate::engine::Options::default());
        let other = Engine::start(options, Hooks::new(load)).unwrap();
        other.settled().await;
        engines.send_replace(other);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let said = after();
        assert!(said[1].starts_with("STATUS=manual-only: ") && said[1].contains("nor that"));
        assert_eq!(said.len(), 2, "{said:?}");
        task.abort();
    }

    #[test]
    fn a_reload_and_a_stop_are_told_in_systemd_s_words() {
        let recorder = Recorder::default();
        reloading(&recorder);
        reloaded(&recorder);
        stopping(&recorder);
        let said = recorder.said();
        assert!(said[0].starts_with("RELOADING=1|MONOTONIC_USEC="), "{said:?}");
        assert_eq!(said[1..], ["READY=1", "STOPPING=1|STATUS=finishing what was accepted"]);
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
        // Another engine took over, and did three already.
        vitals.prompts = 3;
        assert_eq!(minute.passed(at(210), &vitals).prompts, 3);
    }
}
