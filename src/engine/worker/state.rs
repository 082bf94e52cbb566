//! What the engine thread is given, what it becomes, and why it fails.
//!
//! Two texts for every failure: the operator's, which may name folders, and the public reason, which
//! never does. Health and error answers show only the latter.

use super::vitals::Stage;
use crate::domain::tensor::{Embedding, PromptBatch};
use crate::engine::cpu::CpuError;
#[cfg(doc)]
use crate::engine::package::folder_revision;
use crate::engine::package::golden::{GoldenError, Report};
use crate::engine::package::{Package, PackageError};
use crate::engine::tensorrt::TensorRtError;
use crate::engine::{Backend, BackendError, EngineInfo};
use std::sync::Arc;
use std::time::Duration;

/// What the engine thread needs from the rooms it doesn't know.
pub struct Hooks {
    pub(super) load: Box<dyn FnMut() -> Result<Loaded, LoadError> + Send>,
    pub(super) revision: Box<dyn Fn() -> u64 + Send>,
    pub(super) on_fatal: Arc<dyn Fn(Fatal) + Send + Sync>,
}

impl Hooks {
    /// `load` runs on the engine thread: it finds the package, makes the backend and runs the golden
    /// picture through it.
    #[must_use]
    pub fn new(load: impl FnMut() -> Result<Loaded, LoadError> + Send + 'static) -> Self {
        Self { load: Box::new(load), revision: Box::new(|| 0), on_fatal: Arc::new(|_| ()) }
    }

    /// A number that changes when the package's folder does; in manual-only mode a change is reason
    /// to load again. See [`folder_revision`].
    #[must_use]
    pub fn watching(mut self, revision: impl Fn() -> u64 + Send + 'static) -> Self {
        self.revision = Box::new(revision);
        self
    }

    /// What to do when only a new process helps. Called from the engine thread or its watch thread,
    /// once; it should not return, but may.
    #[must_use]
    pub fn on_fatal(mut self, end: impl Fn(Fatal) + Send + Sync + 'static) -> Self {
        self.on_fatal = Arc::new(end);
        self
    }
}

/// A loaded engine whose golden picture came out right.
pub struct Loaded {
    /// The engine.
    pub backend: Box<dyn Backend>,
    /// What it was loaded from.
    pub package: Arc<Package>,
    /// How the self-test went.
    pub self_test: Report,
    /// The golden picture's embedding: health probes decode it.
    pub probe_embedding: Embedding,
    /// The golden prompt.
    pub probe_prompts: PromptBatch,
}

/// Why there is no engine. The texts may name folders: they are for the log.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is nothing to load, by decision; only reload or a new package helps.
    #[error("{0}")]
    NotConfigured(String),
    /// It ended the process too often lately, and is left alone for a while.
    #[error("{0}")]
    Held(String),
    /// The package is missing, damaged or not the pinned one.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The CPU engine can't run it.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The TensorRT engine can't run it.
    #[error(transparent)]
    TensorRt(#[from] TensorRtError),
    /// Neither the device nor, as `engine.cpu_fallback` asks, the CPU can run it.
    #[error("{device}; nor can the CPU: {cpu}")]
    Fallback {
        /// Why the device can't.
        device: Box<LoadError>,
        /// Why the CPU can't.
        cpu: CpuError,
    },
    /// The golden files of the package are unusable.
    #[error("the golden picture can't be used: {0}")]
    GoldenFiles(String),
    /// The self-test did not finish.
    #[error("the self-test failed: {0}")]
    Inference(#[from] BackendError),
    /// The self-test came out wrong.
    #[error("the self-test came out wrong: {0}")]
    SelfTest(#[from] GoldenError),
}

impl LoadError {
    /// What anyone may read: no path.
    #[must_use]
    pub fn public(&self) -> &'static str {
        match self {
            Self::NotConfigured(_) => "no engine is configured",
            Self::Held(_) => "the service had to restart several times; the engine is left alone",
            Self::Package(_) => "the engine package is missing, damaged or not the pinned one",
            Self::Cpu(_) => "the engine package can't be run on this box",
            Self::TensorRt(error) => error.public(),
            Self::Fallback { device, .. } => device.public(),
            Self::GoldenFiles(_) | Self::Inference(_) | Self::SelfTest(_) => {
                "the engine's self-test failed"
            }
        }
    }
}

impl LoadError {
    /// Is the device lost for this process? Its words then.
    #[must_use]
    pub fn device_lost(&self) -> Option<String> {
        match self {
            Self::Inference(BackendError::DeviceLost(what)) => Some(what.clone()),
            Self::TensorRt(error) if error.is_device_lost() => Some(error.to_string()),
            _ => None,
        }
    }
}

/// Only a new process helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The device is lost for this process.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
    /// A call does not come back.
    #[error("{} has been running for {} s", stage.name(), after.as_secs())]
    Hang {
        /// What hangs.
        stage: Stage,
        /// For how long, when it was noticed.
        after: Duration,
    },
}

/// The engine's health.
#[derive(Clone, Debug)]
pub enum State {
    /// Finding out.
    Loading,
    /// The golden picture came out right.
    Ready(Arc<LoadedInfo>),
    /// No automatic segmentation; people segment by hand.
    ManualOnly {
        /// What anyone may read.
        reason: &'static str,
        /// What the operator may read: may name folders.
        detail: Arc<str>,
    },
}

/// A loaded engine, for answers, health and the start message.
#[derive(Debug)]
pub struct LoadedInfo {
    /// What runs.
    pub engine: Arc<EngineInfo>,
    /// What it was loaded from: selection rule, calibration, intended use, notice.
    pub package: Arc<Package>,
    /// How the self-test went, with the mask.
    pub self_test: Report,
    /// From start of loading to READY.
    pub took: Duration,
}
