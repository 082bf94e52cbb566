//! Who did what: an append-only trail that shows when something was cut out of it.
//!
//! [`record`] is what is written, [`chain`] what binds the lines to each other, [`log`] the files,
//! [`writer`] the thread that owns them, [`verify`] what finds a cut, [`dicom`] and [`syslog`] the
//! same record for the hospital's own collector.
//!
//! Invariants:
//! 1. Nothing that identifies a patient is written: a `patient_id` only as an HMAC under a secret
//!    of this box, an image as the key of its pixels, a file name or query never.
//! 2. A line is never changed or removed; what is older than `audit.keep_days` goes as whole files,
//!    and that is a line of its own.
//! 3. Failing to write is never silent: it stops the work (`audit.when_full = "stop"`), or it is
//!    logged, counted and shown in health (`"go"`), and the gap is a line once writing works again.

pub mod chain;
pub mod dicom;
pub mod log;
pub mod record;
pub mod syslog;
pub mod verify;
pub mod writer;

pub use record::{Event, Kind};
pub use writer::{Audit, NotWritten};

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Name of the folder in the state folder.
pub const FOLDER: &str = "audit";

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Off: nothing is recorded.
    pub enabled: bool,
    /// The folder of the trail. Default: `audit` in the state folder.
    pub path: Option<PathBuf>,
    /// What happens where a record can't be written (the disk is full): `go` answers all the same
    /// and says so in log, health and metrics; `stop` refuses to segment until it works again.
    pub when_full: WhenFull,
    /// A file of the trail is closed at this size; a record has some 400 bytes, so 16 MiB hold
    /// 40,000.
    pub max_file_bytes: u64,
    /// Closed files older than this are removed. Three years; ask your data protection officer.
    pub keep_days: u32,
    /// Refusals recorded one by one within a minute; more are counted in one record, so that a
    /// stranger can't fill the disk.
    pub max_refusals_per_minute: u32,
    /// The hospital's collector, `host:port`: every record is also sent there as a DICOM audit
    /// message by syslog over TLS (RFC 5425, port 6514). Unset: none.
    pub syslog: Option<String>,
    /// The authority of the collector's certificate, PEM.
    pub syslog_ca: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            path: None,
            when_full: WhenFull::Go,
            max_file_bytes: 16 << 20,
            keep_days: 1095,
            max_refusals_per_minute: 120,
            syslog: None,
            syslog_ca: None,
        }
    }
}

/// What happens where a record can't be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenFull {
    /// The work goes on.
    Go,
    /// The work stops.
    Stop,
}

impl Options {
    /// What is wrong with these keys; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.max_file_bytes < 64 << 10 {
            faults.push("audit.max_file_bytes must be at least 65536".to_owned());
        }
        if self.keep_days == 0 {
            faults
                .push("audit.keep_days must not be 0; audit.enabled = false keeps none".to_owned());
        }
        if self.syslog.is_some() && self.syslog_ca.is_none() {
            faults.push(
                "audit.syslog_ca must name the authority of the collector's certificate".to_owned(),
            );
        }
        let port = |address: &String| {
            address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
        };
        if self.syslog.as_ref().is_some_and(|address| !port(address)) {
            faults.push("audit.syslog must be host:port, such as \"siem.example:6514\"".to_owned());
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_names_its_key() {
        assert_eq!(Options::default().faults(), Vec::<String>::new());
        let options = Options {
            max_file_bytes: 1,
            keep_days: 0,
            syslog: Some("siem".to_owned()),
            ..Options::default()
        };
        let faults = options.faults().join("\n");
        for key in ["max_file_bytes", "keep_days", "syslog_ca", "audit.syslog must"] {
            assert!(faults.contains(key), "{key}: {faults}");
        }
    }
}
