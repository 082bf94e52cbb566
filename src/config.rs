//! The configuration: each room's `Options`, composed, and the way values get there.
//!
//! Flags beat the environment, the environment beats the file, the file beats the defaults. Every
//! key has the environment name `SAM2D_SECTION__KEY`. An unknown key is an error with its line and
//! the nearest known name: a mistyped limit must not fall back to the default in silence.
//!
//! It does not open, create or check anything outside the file itself; `sam2d doctor` does.

use crate::{access, audit, cache, control, engine, http, imaging, ops, service};
use rustix::fs::Access;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Where the file is looked for when none is named.
pub const DEFAULT_FILE: &str = "/etc/sam2d/sam2d.toml";

/// What systemd makes of the unit's `StateDirectory=`.
const INSTALLED_STATE: &str = "/var/lib/sam2d/state";

const ENV_PREFIX: &str = "SAM2D_";

/// Environment names that start alike but are no keys.
const NOT_KEYS: [&str; 5] =
    ["SAM2D_SHARED", "SAM2D_TOOLS", "SAM2D_SKIPS", "SAM2D_BIN", "SAM2D_SOAK"];

/// Everything that can be set.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where to listen, who may ask, limits of requests.
    pub http: http::Options,
    /// Who holds a token.
    pub access: access::Options,
    /// Addresses with TLS, and what they show.
    pub tls: http::tls::Options,
    /// The trail of who did what.
    pub audit: audit::Options,
    /// Which engine, and how it is watched.
    pub engine: engine::Options,
    /// The child processes that parse images.
    pub decoder: imaging::decoder::Options,
    /// The disk cache.
    pub cache: cache::Options,
    /// The socket for `sam2d cache …` and the like.
    pub control: control::Options,
    /// Prompts, memory, clean-up, one-click profiles.
    pub segment: service::options::Options,
    /// Images that something else puts into a folder.
    pub inbox: Inbox,
    /// Logging.
    pub log: ops::telemetry::Options,
    /// Folders.
    pub state: State,
}

/// `[inbox]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Inbox {
    /// Folder under which `file:NAME` references are read; none: such references are refused.
    pub path: Option<PathBuf>,
}

/// `[state]`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// What must outlive a restart (overlay of the golden image, audit, secrets). Default:
    /// `$STATE_DIRECTORY`, else the installed service's `/var/lib/sam2d/state` where this user may
    /// write, else `~/.local/state/sam2d`.
    pub path: Option<PathBuf>,
}

/// Why there is no configuration. The text names file, line and key.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file or a value in it is wrong.
    #[error("{}{text}", path.as_ref().map(|p| format!("{}: ", p.display())).unwrap_or_default())]
    Parse {
        /// The file; none when the value came from the environment.
        path: Option<PathBuf>,
        /// Line, key, suggestion.
        text: String,
    },
    /// Values that parse but make no sense together.
    #[error("{}", faults.join("\n"))]
    Faults {
        /// One sentence each.
        faults: Vec<String>,
    },
}

impl Config {
    /// Reads file (if any) and environment. `environment` is usually [`std::env::vars`].
    ///
    /// # Errors
    /// Any [`ConfigError`]; all faults of values are collected in one.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                // For its errors: only the text knows lines.
                Self::parse(&text)
                    .map_err(|text| ConfigError::Parse { path: Some(path.to_owned()), text })?;
                text.parse().map_err(|error: toml::de::Error| ConfigError::Parse {
                    path: Some(path.to_owned()),
                    text: error.to_string(),
                })?
            }
        };
        for (name, value) in environment {
            let wrong = |text| ConfigError::Parse { path: None, text };
            if overlay(&mut table, &name, &value).map_err(wrong)? {
                // One at a time: an error of the whole would not say which variable it means.
                Self::over_defaults(table.clone())
                    .map_err(|error| wrong(format!("{name}: {}", explain(&error))))?;
            }
        }
        Self::over_defaults(table)
            .map_err(|error| ConfigError::Parse { path: None, text: explain(&error) })
    }

    /// Reads a file's text.
    ///
    /// # Errors
    /// Line, key and suggestion, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let located = |error: toml::de::Error| {
            let line = error.span().map(|span| {
                1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count()
            });
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            format!("{place}{}", explain(&error))
        };
        // Once for itself: only here an error knows its line.
        toml::from_str::<Self>(text).map_err(located)?;
        Self::over_defaults(text.parse().map_err(located)?).map_err(located)
    }

    /// Every key that `table` leaves out keeps its own default. serde alone would fill a section
    /// that is given in part with the defaults of its type: one key of `[segment.profiles.l3]`
    /// would turn the others into those of `auto`.
    fn over_defaults(table: toml::Table) -> Result<Self, toml::de::Error> {
        let mut whole = toml::Table::try_from(Self::default()).map_err(|error| {
            <toml::de::Error as serde::de::Error>::custom(format!("the defaults: {error}"))
        })?;
        merge(&mut whole, table);
        whole.try_into()
    }

    /// Values that parse but make no sense together.
    ///
    /// # Errors
    /// [`ConfigError::Faults`] with a sentence for each.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut faults = self.http.faults();
        faults.extend(self.access.faults());
        faults.extend(self.tls.faults());
        faults.extend(self.audit.faults());
        faults.extend(self.engine.faults());
        faults.extend(self.control.faults());
        faults.extend(self.segment.faults());
        if faults.is_empty() { Ok(()) } else { Err(ConfigError::Faults { faults }) }
    }

    /// The file of tokens.
    #[must_use]
    pub fn tokens_path(&self) -> PathBuf {
        let own = || self.state_dir().join(access::file::NAME);
        self.access.tokens_path.clone().unwrap_or_else(own)
    }

    /// The folder of the audit trail.
    #[must_use]
    pub fn audit_path(&self) -> PathBuf {
        self.audit.path.clone().unwrap_or_else(|| self.state_dir().join(audit::FOLDER))
    }

    /// Folder for state: configured, systemd's, the installed service's when this user is it or
    /// root (so that `sam2d doctor` or `sam2d token` mean the daemon's), or the user's own.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        let installed = || {
            let path = PathBuf::from(INSTALLED_STATE);
            rustix::fs::access(&path, Access::WRITE_OK | Access::EXEC_OK).is_ok().then_some(path)
        };
        let named = self.state.path.clone().or_else(|| systemd_dir("STATE_DIRECTORY"));
        named.or_else(installed).unwrap_or_else(|| home(".local/state/sam2d"))
    }
}

/// Puts `over` on top of `under`, section by section.
fn merge(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merge(under, over),
            (_, value) => drop(under.insert(key, value)),
        }
    }
}

/// systemd gives a colon-separated list; ours has one folder.
fn systemd_dir(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name)?;
    std::env::split_paths(&value).next().filter(|path| path.is_absolute())
}

fn home(below: &str) -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("/var/tmp/sam2d")).join(below)
}

/// Puts the value of `SAM2D_SECTION__KEY` (deeper: `SAM2D_SECTION__PART__KEY`) into the table.
fn overlay(table: &mut toml::Table, name: &str, value: &str) -> Result<bool, String> {
    let Some(path) = name.strip_prefix(ENV_PREFIX).filter(|_| !NOT_KEYS.contains(&name)) else {
        return Ok(false);
    };
    let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
    let [sections @ .., key] = keys.as_slice() else { return Ok(false) };
    if sections.is_empty() {
        return Err(format!("{name}: environment keys are SAM2D_SECTION__KEY"));
    }
    let mut place = table;
    for section in sections {
        let entry = place.entry(section.clone()).or_insert_with(|| toml::Table::new().into());
        place =
            entry.as_table_mut().ok_or_else(|| format!("{name}: {section} is not a section"))?;
    }
    // A number, a list or a truth value as TOML has them; anything else is text.
    let parsed = format!("v = {value}").parse::<toml::Table>().ok().and_then(|mut t| t.remove("v"));
    place.insert(key.clone(), parsed.unwrap_or_else(|| value.into()));
    Ok(true)
}

/// serde's words and, for an unknown key, the nearest known one.
fn explain(error: &toml::de::Error) -> String {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let nearest = || {
        let unknown = message.starts_with("unknown field").then(|| quoted.next())??;
        let known = quoted.map(|name| (strsim::jaro_winkler(unknown, name), name));
        known.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(likeness, _)| *likeness > 0.75)
    };
    match nearest() {
        Some((_, name)) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        let error =
            Config::parse("[http]\nrequest_timeout_s = 9\nmax_bodybytes = 3\n").unwrap_err();
        assert!(error.starts_with("line 3: unknown field `max_bodybytes`"), "{error}");
        assert!(error.ends_with("did you mean `max_body_bytes`?"), "{error}");
    }

    #[test]
    fn the_environment_beats_the_file_and_is_checked_like_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sam2d.toml");
        std::fs::write(&file, "[http]\nrequest_timeout_s = 9\nmax_headers = 7\n").unwrap();
        let given = env(&[
            ("SAM2D_HTTP__REQUEST_TIMEOUT_S", "11"),
            ("SAM2D_INBOX__PATH", "/srv/in box"),
            ("SAM2D_SHARED", "elsewhere"),
            ("HOME", "/"),
        ]);
        let config = Config::load(Some(&file), given).unwrap();
        assert_eq!((config.http.request_timeout_s, config.http.max_headers), (11, 7));
        assert_eq!(config.inbox.path.as_deref(), Some(Path::new("/srv/in box")));
        let error = Config::load(None, env(&[("SAM2D_HTTP__LISTN", "1")])).unwrap_err();
        assert!(error.to_string().contains("did you mean `listen`?"), "{error}");
        let error = Config::load(None, env(&[("SAM2D_HTTP__QQ", "1")])).unwrap_err();
        assert!(!error.to_string().contains("did you mean"), "nothing is like it: {error}");
        // The variable is named, wherever among others it stands.
        let given = [("SAM2D_HTTP__MAX_HEADERS", "7"), ("SAM2D_TLS__LISTEN", "127.0.0.1:1")];
        let error = Config::load(None, env(&given)).unwrap_err();
        assert!(error.to_string().starts_with("SAM2D_TLS__LISTEN: "), "{error}");
    }

    #[test]
    fn a_section_given_in_part_keeps_its_own_defaults() {
        let config = Config::parse("[segment.profiles.l3]\nprompts = 9\n").unwrap();
        let mut expected = Config::default();
        expected.segment.profiles.l3.prompts = 9;
        assert_eq!(config, expected);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Config::load(Some(Path::new("/nowhere/sam2d.toml")), []).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/sam2d.toml: "));
    }
}
