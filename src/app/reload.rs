//! SIGHUP: the configuration is read again, and each room gets what it can take without a restart.
//!
//! Invariants:
//! 1. A configuration that is wrong changes nothing: it is logged, and the old one stays in force.
//! 2. No request is dropped: each keeps the options that it began with. Only while the engine itself is
//!    loaded anew, requests that need it are refused at once (503); hits are answered.
//! 3. A working engine is given up only for a package whose sums are right; it is loaded anew only if
//!    its keys or its folder changed, or if it doesn't work.
//!
//! Keys that need a restart are named in the log, never ignored in silence.

use crate::cli::ServeArgs;
use crate::config::Config;
use crate::engine::Options as EngineOptions;
use crate::engine::package::Package;
use crate::engine::worker::{LoadError, Loaded, State};
use crate::ops::exits::{Hold, Run};
use crate::ops::systemd::{Socket, reloaded, reloading};
use crate::service::Service;
use crate::service::loader::{self, Reach};
use crate::service::selftest::Passed;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::signal::unix::Signal;

/// What the engine thread reads whenever it loads.
pub(super) struct Seam {
    options: Mutex<EngineOptions>,
    hold: Hold,
}

impl Seam {
    /// As at start; `run` says whether the engine must be left alone for now.
    pub(super) fn new(options: &EngineOptions, run: &Run) -> Self {
        let hold = run.hold(loader::revision(options));
        Self { options: Mutex::new(options.clone()), hold }
    }

    fn options(&self) -> EngineOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Of the folder of the package that is meant now.
    pub(super) fn revision(&self) -> u64 {
        loader::revision(&self.options())
    }

    /// What the engine thread runs to load.
    pub(super) fn loader(
        self: Arc<Self>,
        reach: Reach,
        on_passed: impl Fn(&Package, &Passed) + Send + Sync + 'static,
    ) -> impl FnMut() -> Result<Loaded, LoadError> + Send + 'static {
        let on_passed = Arc::new(on_passed);
        move || {
            let options = self.options();
            if let Some(why) = self.hold.why(loader::revision(&options)) {
                return Err(LoadError::Held(why));
            }
            let on_passed = Arc::clone(&on_passed);
            let say =
                Box::new(move |package: &Package, passed: &Passed| on_passed(package, passed));
            loader::loader(options, reach, say)()
        }
    }
}

/// What a reload needs to know.
pub(super) struct Reload {
    args: ServeArgs,
    current: Config,
    seam: Arc<Seam>,
    service: Service,
    reach: Reach,
    /// Of the engine's folder when it was last looked at.
    revision: u64,
}

impl Reload {
    pub(super) fn new(
        args: ServeArgs,
        current: Config,
        seam: Arc<Seam>,
        service: Service,
        reach: Reach,
    ) -> Self {
        let revision = seam.revision();
        Self { args, current, seam, service, reach, revision }
    }

    /// Reloads at every SIGHUP.
    pub(super) async fn follow(mut self, mut hangups: Signal) {
        while hangups.recv().await.is_some() {
            reloading(&Socket);
            self.once().await;
            reloaded(&Socket);
        }
    }

    async fn once(&mut self) {
        let new = match self.args.load() {
            Ok(new) => new,
            Err(error) => {
                tracing::error!(%error, "reload: the configuration is wrong; the old one stays");
                return;
            }
        };
        let (now, later): (Vec<_>, Vec<_>) =
            changes(&self.current, &new).into_iter().partition(|key| is_reloadable(key));
        self.service.reconfigure(new.segment.clone());
        let engine = if self.wants_engine(&now) { self.engine(&new).await } else { "unchanged" };
        tracing::info!(changed = now.join(" "), engine, "reload: the configuration is in force");
        if !later.is_empty() {
            let keys = later.join(" ");
            tracing::warn!(keys, "reload: these keys changed and need a restart");
        }
        // What needs a restart is named again at the next reload.
        self.current.segment = new.segment;
        self.current.engine = self.seam.options();
    }

    /// Is there reason to load the engine anew?
    fn wants_engine(&self, changed: &[String]) -> bool {
        changed.iter().any(|key| key.starts_with("engine."))
            || self.seam.revision() != self.revision
            || !matches!(self.service.engine().state(), State::Ready(_))
    }

    async fn engine(&mut self, new: &Config) -> &'static str {
        let options = engine_options(&self.seam.options(), &new.engine);
        let (checked, reach) = (options.clone(), self.reach);
        let works = matches!(self.service.engine().state(), State::Ready(_));
        let package = tokio::task::spawn_blocking(move || loader::package(&checked, reach)).await;
        if let (true, Ok(Err(error))) = (works, &package) {
            tracing::error!(%error, "reload: the package can't be used; the working engine stays");
            return "kept";
        }
        *self.seam.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        self.revision = self.seam.revision();
        self.seam.hold.release();
        match self.service.engine().reload().await {
            Ok(_) => "loaded anew",
            Err(_) => "not loaded",
        }
    }
}

/// The engine's options of which a reload can take some.
fn engine_options(old: &EngineOptions, new: &EngineOptions) -> EngineOptions {
    EngineOptions {
        path: new.path.clone(),
        sha256: new.sha256.clone(),
        allow_demonstration: new.allow_demonstration,
        cpu_fallback: new.cpu_fallback,
        cpu_threads: new.cpu_threads,
        ..old.clone()
    }
}

/// Is this key taken by a reload? All others need a restart.
fn is_reloadable(key: &str) -> bool {
    const ENGINE: [&str; 5] = [
        "engine.path",
        "engine.sha256",
        "engine.allow_demonstration",
        "engine.cpu_fallback",
        "engine.cpu_threads",
    ];
    const BUDGETS: [&str; 3] =
        ["segment.embeddings_bytes", "segment.recent_answers_bytes", "segment.known_images_bytes"];
    ENGINE.contains(&key) || (key.starts_with("segment.") && !BUDGETS.contains(&key))
}

/// Keys whose values differ.
fn changes(old: &Config, new: &Config) -> Vec<String> {
    let flat = |config: &Config| {
        let mut all = BTreeMap::new();
        if let Ok(table) = toml::Table::try_from(config) {
            flatten(&table, "", &mut all);
        }
        all
    };
    let (old, new) = (flat(old), flat(new));
    let mut keys: Vec<_> =
        old.keys().chain(new.keys()).filter(|k| old.get(*k) != new.get(*k)).cloned().collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn flatten(table: &toml::Table, prefix: &str, into: &mut BTreeMap<String, toml::Value>) {
    for (key, value) in table {
        let name = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => flatten(inner, &format!("{name}."), into),
            value => drop(into.insert(name, value.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_keys_are_named_and_those_that_need_a_restart_are_told_apart() {
        let old = Config::default();
        let mut new = Config::default();
        new.segment.profiles.l3.prompts = 9;
        new.segment.embeddings_bytes = 1;
        new.http.max_headers = 7;
        new.engine.path = Some("sam2.1-large".into());
        new.engine.hang_s = 9;
        let changed = changes(&old, &new);
        let expected = [
            "engine.hang_s",
            "engine.path",
            "http.max_headers",
            "segment.embeddings_bytes",
            "segment.profiles.l3.prompts",
        ];
        assert_eq!(changed, expected);
        let taken: Vec<_> = changed.iter().filter(|key| is_reloadable(key)).collect();
        assert_eq!(taken, ["engine.path", "segment.profiles.l3.prompts"]);
        let engine = engine_options(&old.engine, &new.engine);
        assert_eq!((engine.path, engine.hang_s), (new.engine.path, old.engine.hang_s));
    }
}
