//! `sam2d doctor`: what is wrong on this machine, and what to do about it.
//!
//! It reads the configuration that the daemon would, and looks at what the daemon will need: its
//! folders, the clock, the decoder's sandbox, its ports, an engine package. Run it as the daemon's
//! user or root, with the daemon up or down.
//!
//! Invariants:
//! 1. It changes nothing: no folder is made, no entry written or removed.
//! 2. A fault or warning always says what to do about it; that is held by [`Finding`]'s constructors.
//! 3. Nothing that it says comes from a request.

mod bundle;
mod checks;
mod device;
mod finding;

pub use finding::{Finding, Level, Section};

use super::CommonArgs;
use crate::config::Config;
use clap::Args;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

/// Flags.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// Also write an archive for whoever helps: findings, configuration, versions, log; no secrets
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Shared flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// What doctor asks of rooms that the command line doesn't know.
#[derive(Debug, Default)]
pub struct Elsewhere {
    /// Why the configured addresses would not be opened, in words that say what to write.
    pub open_address: Option<String>,
    /// What other rooms found.
    pub findings: Vec<Finding>,
}

/// What it found, and the words for it.
#[derive(Debug, Default)]
pub struct Diagnosis {
    findings: Vec<Finding>,
    config: Option<Config>,
}

/// Looks at everything. `elsewhere` is asked once the configuration is known.
#[must_use]
pub fn examine(common: &CommonArgs, elsewhere: impl FnOnce(&Config) -> Elsewhere) -> Diagnosis {
    let mut findings = Vec::new();
    let config = checks::configuration(common, &mut findings);
    if let Some(config) = &config {
        let elsewhere = elsewhere(config);
        checks::folders(config, &mut findings);
        checks::clock(&mut findings);
        checks::decoder(config, &mut findings);
        checks::ports(config, elsewhere.open_address.as_deref(), &mut findings);
        let may_listen = elsewhere.open_address.is_none();
        let package = checks::engine(config, may_listen, &mut findings);
        device::device(&config.engine, package.as_ref(), &mut findings);
        findings.extend(elsewhere.findings);
    }
    Diagnosis { findings, config }
}

impl Diagnosis {
    /// Everything that was found, in the order in which it was looked for.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The worst of it.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine)
    }

    /// Writes the archive for whoever helps.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn bundle(&self, path: &Path) -> io::Result<()> {
        bundle::write(path, self, self.config.as_ref())
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut section = None;
        for finding in &self.findings {
            if section.replace(finding.section) != Some(finding.section) {
                // Writing to a String can't fail.
                let _ = writeln!(text, "{}", finding.section.title());
            }
            let _ = writeln!(text, "  [{:<7}] {}", finding.level.name(), finding.what);
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "            → {remedy}");
            }
        }
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        let (faults, warnings) = (count(Level::Fault), count(Level::Warning));
        let _ = match (faults, warnings) {
            (0, 0) => writeln!(text, "nothing is wrong"),
            (0, warnings) => writeln!(text, "no fault, {warnings} to look at"),
            (faults, warnings) => writeln!(text, "{faults} wrong, {warnings} to look at"),
        };
        text
    }

    /// For programs: `{"version", "worst", "findings": [{"section", "level", "what", "remedy"}]}`.
    #[must_use]
    pub fn json(&self) -> String {
        let object = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "worst": self.worst(),
            "findings": self.findings,
        });
        format!("{object}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_counts_and_its_remedy_is_shown() {
        let findings = vec![
            Finding::fine(Section::Clock, "it is noon"),
            Finding::warning(Section::Ports, "a port", "do this"),
            Finding::fault(Section::Ports, "no port", "do that"),
        ];
        let diagnosis = Diagnosis { findings, config: None };
        assert_eq!(diagnosis.worst(), Level::Fault);
        let text = diagnosis.text();
        assert!(text.contains("→ do that") && text.ends_with("1 wrong, 1 to look at\n"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&diagnosis.json()).unwrap();
        assert_eq!(
            (&json["worst"], &json["findings"][1]["remedy"]),
            (&"fault".into(), &"do this".into())
        );
    }
}
