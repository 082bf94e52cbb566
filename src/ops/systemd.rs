//! What systemd is told: READY, a line of status, STOPPING. Outside systemd nothing is told.
//!
//! READY=1 goes out on first entering READY *or* MANUAL_ONLY: a box without its engine is up and
//! says so; it is not a unit that failed to start.

use crate::engine::worker::{Engine, State};
use sd_notify::NotifyState;

/// Follows the engine's state until the engine ends.
pub async fn follow(engine: Engine) {
    let mut states = engine.watch();
    drop(engine);
    let mut ready = false;
    loop {
        let state = states.borrow_and_update().clone();
        let status = status(&state);
        if !ready && !matches!(state, State::Loading) {
            ready = true;
            tell(&[NotifyState::Ready, NotifyState::Status(&status)]);
        } else {
            tell(&[NotifyState::Status(&status)]);
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// The daemon finishes what it accepted and ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// One line for `systemctl status`.
fn status(state: &State) -> String {
    match state {
        State::Loading => "loading the engine".to_owned(),
        State::Ready(info) => format!("ready: {} on {}", info.engine.name, info.engine.device),
        State::ManualOnly { reason, .. } => format!("manual-only: {reason}"),
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
