//! The engine that serves, which a reload may exchange while requests are under way.
//!
//! Invariants:
//! 1. A request keeps the engine that it began with to its end: what it encoded there it decodes there,
//!    and its answer is kept under that engine's fingerprint.
//! 2. An engine that was exchanged ends when the last request that holds it does.

use crate::engine::worker::{Engine, LoadedInfo, State};
use std::sync::Arc;
use tokio::sync::watch;

/// What one request works with.
#[derive(Clone)]
pub(super) struct Serving {
    /// Who does the work.
    pub(super) engine: Engine,
    /// What was verified of it.
    pub(super) info: Arc<LoadedInfo>,
}

/// The state of whichever engine serves, and every change of it.
#[derive(Clone, Debug)]
pub struct Watching {
    engines: watch::Receiver<Engine>,
    engine: Engine,
    states: watch::Receiver<State>,
}

impl Watching {
    /// Of the engines that come out of this channel.
    #[must_use]
    pub fn new(mut engines: watch::Receiver<Engine>) -> Self {
        let engine = engines.borrow_and_update().clone();
        let states = engine.watch();
        Self { engines, engine, states }
    }

    /// The engine whose state is told.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its state, which counts as seen from now on.
    pub fn state(&mut self) -> State {
        self.states.borrow_and_update().clone()
    }

    /// Waits for another state or another engine; false when there will be none.
    pub async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.states.changed() => changed.is_ok(),
            changed = self.engines.changed() => {
                *self = Self::new(self.engines.clone());
                changed.is_ok()
            }
        }
    }
}
