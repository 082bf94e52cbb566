//! What the service says of itself.

use super::Service;
use crate::cache;
use crate::engine::worker::State;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// The service's health, for the health routes and the command line.
#[derive(Clone, Debug)]
pub struct Health {
    /// Is automatic segmentation there?
    pub available: bool,
    /// It still answers, and ends when it has answered.
    pub stopping: bool,
    /// `sam2` or `manual-only`.
    pub mode: &'static str,
    /// Why not, or what is going on; for people.
    pub reason: Option<String>,
    /// What someone should look at, although it works.
    pub warnings: Vec<String>,
    /// The verified engine, where there is one.
    pub model: Option<super::request::ModelDescription>,
    /// The disk cache's figures.
    pub cache: Option<cache::Stats>,
    /// When this was found out.
    pub checked: SystemTime,
}

impl Service {
    /// Looks at state and figures; asks nothing of the engine.
    #[must_use]
    pub fn health(&self) -> Health {
        let state = self.engine().state();
        let available = matches!(state, State::Ready(_));
        let loaded = self.0.verified().ok();
        let mut warnings = loaded
            .as_ref()
            .map(|serving| super::loader::warnings(&serving.info))
            .unwrap_or_default();
        let cache = self.cache().map(cache::Cache::stats);
        match &cache {
            None => warnings.push("no disk cache: results are kept in memory only".to_owned()),
            Some(stats) if stats.trouble.is_some() => {
                warnings.push("the disk cache has trouble with its disk; see the log".to_owned());
            }
            Some(_) => {}
        }
        Health {
            available,
            stopping: self.0.stopping.load(Ordering::Relaxed),
            mode: if available { "sam2" } else { "manual-only" },
            reason: match state {
                State::Ready(_) => None,
                State::Loading => Some(super::LOADING.to_owned()),
                State::ManualOnly { reason, .. } => Some(reason.to_owned()),
            },
            warnings,
            model: loaded.map(|loaded| super::answer::model(&loaded.info)),
            cache,
            checked: SystemTime::now(),
        }
    }
}
