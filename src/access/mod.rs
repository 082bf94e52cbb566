//! Who holds a token and what it lets them do, and what the box itself shows.
//!
//! [`certificate`] makes the box's own; [`token`] is what a client shows, [`mod@file`] where only hashes of it are kept, [`keeper`] what a
//! running daemon asks, [`throttle`] what slows guessing down. Knows no HTTP and no command line.
//!
//! Invariants:
//! 1. A token's secret is on disk as an argon2id hash only, and in no log, argument or `Debug` text.
//! 2. What can't be read lets nobody in: a file that is gone is a file without tokens.

pub mod certificate;
pub mod file;
pub mod keeper;
pub mod throttle;
pub mod token;

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `[access]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Are bearer tokens asked for? `auto`: as soon as there is a token file, which the first
    /// `sam2d token create` writes. `on`: always, so that a lost file lets nobody in. `off`: never.
    pub tokens: Tokens,
    /// The file of hashed tokens. Default: `tokens.toml` in the state folder.
    pub tokens_path: Option<PathBuf>,
    /// Wrong tokens of one address within a minute; after that its tokens are not even looked at
    /// and the answer is 429. People mistype twice, a guesser needs 10^57 tries.
    pub max_failures_per_minute: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { tokens: Tokens::Auto, tokens_path: None, max_failures_per_minute: 20 }
    }
}

impl Options {
    /// What is wrong with these keys; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.max_failures_per_minute == 0 {
            faults.push("access.max_failures_per_minute must not be 0".to_owned());
        }
        faults
    }
}

/// When tokens are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// As soon as there is a file of them.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Segmenting, previews, masks, the full health.
    Segment,
    /// `/metrics` and the full health.
    Metrics,
    /// Everything.
    Admin,
}

impl Scope {
    /// The name in files and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }

    /// Is somebody with this scope let in where `wanted` is asked for?
    #[must_use]
    pub fn covers(self, wanted: Self) -> bool {
        self == wanted || self == Self::Admin
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a scope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a scope; there are segment, metrics and admin")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        [Self::Segment, Self::Metrics, Self::Admin]
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// What a token that was shown allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Names the token in logs and the audit trail; no secret.
    pub id: String,
    /// What for.
    pub scopes: Vec<Scope>,
}

impl Grant {
    /// May its holder ask for this?
    #[must_use]
    pub fn allows(&self, wanted: Scope) -> bool {
        self.scopes.iter().any(|scope| scope.covers(wanted))
    }
}
