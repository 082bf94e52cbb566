//! One thing that doctor found: how bad it is, what it is, and what to do about it.

use serde::Serialize;

/// How bad it is; the last is worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Fine,
    /// It works, and someone should look at it.
    Warning,
    /// It does not work.
    Fault,
}

impl Level {
    /// As text and JSON have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

/// What it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// File, environment, flags.
    Configuration,
    /// State and cache.
    Folders,
    /// Wall clock.
    Clock,
    /// The child processes that parse images.
    Decoder,
    /// Addresses and who may ask.
    Ports,
    /// The engine package.
    Engine,
    /// Driver, CUDA, TensorRT.
    Device,
    /// Certificates and tokens.
    Access,
}

impl Section {
    /// As a heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Folders => "folders",
            Self::Clock => "clock",
            Self::Decoder => "decoder",
            Self::Ports => "ports",
            Self::Engine => "engine",
            Self::Device => "device",
            Self::Access => "access",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub section: Section,
    /// How bad it is.
    pub level: Level,
    /// What was found, in a sentence's words.
    pub what: String,
    /// What to do about it; always there unless it is fine.
    pub remedy: Option<String>,
}

impl Finding {
    /// As it should be.
    pub fn fine(section: Section, what: impl Into<String>) -> Self {
        Self { section, level: Level::Fine, what: what.into(), remedy: None }
    }

    /// It works, and someone should look at it.
    pub fn warning(section: Section, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { section, level: Level::Warning, what: what.into(), remedy: Some(remedy.into()) }
    }

    /// It does not work.
    pub fn fault(section: Section, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { section, level: Level::Fault, what: what.into(), remedy: Some(remedy.into()) }
    }
}
