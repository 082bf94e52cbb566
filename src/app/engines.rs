//! How engines begin: the one at start, and those that a reload loads beside it.
//!
//! Invariants:
//! 1. An engine that is loaded beside a working one changes nothing until its golden picture came out
//!    right; the working one serves meanwhile, and on if the other fails.
//! 2. A call that hangs ends the process only where nothing else serves; a lost device always does,
//!    because all engines of this process have lost it.
//!
//! Beside each other they need the memory of both. Where that is not there, the new one fails to load,
//! and a restart loads it alone.

use crate::engine::Options;
use crate::engine::package::Package;
use crate::engine::worker::{Engine, Fatal, Hooks, LoadError, Loaded, State};
use crate::ops::exits::{Hold, Run};
use crate::service::loader::{self, Reach};
use crate::service::selftest::Passed;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type OnPassed = dyn Fn(&Package, &Passed) + Send + Sync;

/// What the engine thread reads whenever it loads.
pub(super) struct Seam {
    options: Mutex<Options>,
    hold: Hold,
}

impl Seam {
    pub(super) fn options(&self) -> Options {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of the folder of the package that is meant now.
    pub(super) fn revision(&self) -> u64 {
        loader::revision(&self.options())
    }

    /// What is to be loaded next, by order: nothing holds it back any more.
    pub(super) fn set(&self, options: Options) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        self.hold.release();
    }
}

/// Begins engines.
pub(super) struct Engines {
    reach: Reach,
    on_passed: Arc<OnPassed>,
}

impl Engines {
    /// `on_passed` is called with every golden picture that came out right.
    pub(super) fn new(
        reach: Reach,
        on_passed: impl Fn(&Package, &Passed) + Send + Sync + 'static,
    ) -> Self {
        Self { reach, on_passed: Arc::new(on_passed) }
    }

    /// The engine at start; `run` says whether it must be left alone for now.
    pub(super) fn first(
        &self,
        options: &Options,
        run: &Run,
    ) -> anyhow::Result<(Engine, Arc<Seam>)> {
        let hold = run.hold(loader::revision(options));
        self.begin(options.clone(), hold, Arc::new(AtomicBool::new(true)))
    }

    /// Another engine, loaded while the first one works. The error is why it doesn't serve.
    pub(super) async fn beside(&self, options: &Options) -> Result<(Engine, Arc<Seam>), String> {
        let alone = Arc::new(AtomicBool::new(false));
        let begun = self.begin(options.clone(), Hold::none(), Arc::clone(&alone));
        let (engine, seam) = begun.map_err(|error| error.to_string())?;
        match engine.settled().await {
            State::Ready(_) => {
                alone.store(true, Ordering::Relaxed);
                Ok((engine, seam))
            }
            State::ManualOnly { detail, .. } => Err(detail.to_string()),
            State::Loading => Err("the daemon stops".to_owned()),
        }
    }

    fn begin(
        &self,
        options: Options,
        hold: Hold,
        alone: Arc<AtomicBool>,
    ) -> anyhow::Result<(Engine, Arc<Seam>)> {
        let worker = (&options).into();
        let seam = Arc::new(Seam { options: Mutex::new(options), hold });
        let watched = Arc::clone(&seam);
        let hooks = Hooks::new(self.loader(Arc::clone(&seam)))
            .watching(move || watched.revision())
            .on_fatal(move |fatal| ended(&fatal, alone.load(Ordering::Relaxed)));
        Ok((Engine::start(worker, hooks)?, seam))
    }

    /// What the engine thread runs to load.
    fn loader(
        &self,
        seam: Arc<Seam>,
    ) -> impl FnMut() -> Result<Loaded, LoadError> + Send + 'static {
        let (reach, on_passed) = (self.reach, Arc::clone(&self.on_passed));
        move || {
            let options = seam.options();
            if let Some(why) = seam.hold.why(loader::revision(&options)) {
                return Err(LoadError::Held(why));
            }
            let on_passed = Arc::clone(&on_passed);
            let say =
                Box::new(move |package: &Package, passed: &Passed| on_passed(package, passed));
            loader::loader(options, reach, say)()
        }
    }
}

/// Only a new process helps: the engine's device is lost, or a call hangs.
fn ended(fatal: &Fatal, alone: bool) {
    if !alone && matches!(fatal, Fatal::Hang { .. }) {
        tracing::error!("the engine that was loaded beside the working one is given up: {fatal}");
        return;
    }
    tracing::error!("the process ends, so that it is started anew: {fatal}");
    std::process::exit(i32::from(super::EX_SOFTWARE));
}
