//! SIGHUP: the configuration is read again, and each room gets what it can take without a restart.
//!
//! Invariants:
//! 1. A configuration that is wrong changes nothing: it is logged, and the old one stays in force.
//! 2. No request is dropped: each keeps the options and the engine that it began with.
//! 3. A working engine is given up only for one whose golden picture came out right; another is loaded
//!    only if the engine's keys or its folder changed, or if it doesn't work.
//!
//! Keys that need a restart are named in the log, never ignored in silence.

use super::engines::{Engines, Seam};
use crate::cli::ServeArgs;
use crate::config::Config;
use crate::engine::Options as EngineOptions;
use crate::engine::worker::State;
use crate::http::security::Security;
use crate::ops::systemd::{Socket, reloaded, reloading};
use crate::service::Service;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::signal::unix::Signal;

/// What can take something new.
pub(super) struct Rooms {
    pub(super) service: Service,
    pub(super) security: Security,
    pub(super) engines: Engines,
}

/// What a reload needs to know.
pub(super) struct Reload {
    args: ServeArgs,
    current: Config,
    /// Of the engine that serves.
    seam: Arc<Seam>,
    rooms: Rooms,
    /// Of the engine's folder when it was last looked at.
    revision: u64,
}

impl Reload {
    pub(super) fn new(args: ServeArgs, current: Config, seam: Arc<Seam>, rooms: Rooms) -> Self {
        let revision = seam.revision();
        Self { args, current, seam, rooms, revision }
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
                tracing::error!("reload: the configuration is wrong; the old one stays: {error}");
                return;
            }
        };
        let (now, later): (Vec<_>, Vec<_>) =
            changes(&self.current, &new).into_iter().partition(|key| is_reloadable(key));
        self.rooms.service.reconfigure(new.segment.clone());
        let security = self.rooms.security.clone();
        // It reads files. A panic in there is logged by itself and stops nothing else.
        let _ = tokio::task::spawn_blocking(move || security.reload()).await;
        let engine = if self.wants_engine(&now) { self.engine(&new).await } else { "unchanged" };
        let changed = now.join(" ");
        tracing::info!(
            changed,
            engine,
            "reload: the configuration is in force, the engine {engine}"
        );
        if !later.is_empty() {
            let keys = later.join(" ");
            tracing::warn!(keys, "reload: these keys changed and need a restart: {keys}");
        }
        // What needs a restart is named again at the next reload.
        self.current.segment = new.segment;
        self.current.engine = self.seam.options();
    }

    /// Is there reason to load the engine anew?
    fn wants_engine(&self, changed: &[String]) -> bool {
        changed.iter().any(|key| key.starts_with("engine."))
            || self.seam.revision() != self.revision
            || !self.works()
    }

    fn works(&self) -> bool {
        matches!(self.rooms.service.engine().state(), State::Ready(_))
    }

    /// Loads what is meant now: beside a working engine, which serves until then; else in its place.
    async fn engine(&mut self, new: &Config) -> &'static str {
        let options = engine_options(&self.seam.options(), &new.engine);
        if !self.works() {
            self.seam.set(options);
            self.revision = self.seam.revision();
            let reloaded = self.rooms.service.engine().reload().await;
            return if reloaded.is_ok() { "loaded anew" } else { "not loaded" };
        }
        match self.rooms.engines.beside(&options).await {
            Ok((engine, seam)) => {
                self.rooms.service.exchange_engine(engine);
                self.revision = seam.revision();
                self.seam = seam;
                "loaded anew"
            }
            Err(error) => {
                tracing::error!(
                    "reload: the new engine can't serve; the working engine stays: {error}"
                );
                "kept"
            }
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
