//! Logs: journald with fields under systemd, readable text or JSON otherwise.
//!
//! Invariant: this room never adds anything of a request to a record; what may be logged is decided
//! where it is logged, and that is never pixels, names, or patient and instance UIDs.

use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Least level, or a filter per module: `info`, `debug`, `info,sam2d::http=debug`.
    pub level: String,
    /// Form of the records.
    pub format: Format,
}

impl Default for Options {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: Format::Auto }
    }
}

/// Form of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The journal under systemd, text otherwise.
    Auto,
    /// systemd's journal, with fields.
    Journald,
    /// One line a record, for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.level` is no filter.
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// `log.format = "journald"` without a journal.
    #[error("log.format: there is no journal here: {0}")]
    Journal(std::io::Error),
}

/// Starts logging for the whole process, once. Without it nothing is logged.
///
/// # Errors
/// Any [`TelemetryError`].
pub fn start(options: &Options) -> Result<(), TelemetryError> {
    let filter: EnvFilter = options.level.parse()?;
    let text = || {
        let ansi = std::io::stderr().is_terminal();
        fmt::layer().with_writer(std::io::stderr).with_ansi(ansi).with_target(false).boxed()
    };
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match options.format {
        Format::Text => text(),
        Format::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
        Format::Journald => tracing_journald::layer().map_err(TelemetryError::Journal)?.boxed(),
        Format::Auto if under_journal() => match tracing_journald::layer() {
            Ok(journal) => journal.boxed(),
            Err(_) => text(),
        },
        Format::Auto => text(),
    };
    // A second start (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Ok(())
}

/// Is standard error the journal? systemd.exec(5): `$JOURNAL_STREAM` names its device and inode.
fn under_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}
