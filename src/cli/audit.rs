//! `sam2d audit`: is the trail as it was written, and where in it a patient stands.

use super::CommonArgs;
use crate::audit::chain::Keys;
use crate::audit::verify::verify;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::io::Read;
use std::path::PathBuf;

/// A `patient_id` has at most 256 bytes.
const MAX_ID_BYTES: u64 = 1024;

/// Flags.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
    /// Configuration file [default: /etc/sam2d/sam2d.toml, if there is one]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
    /// Folder for what must outlive a restart; the daemon's own
    #[arg(long, value_name = "DIR", global = true)]
    pub state_dir: Option<PathBuf>,
}

/// What to do with the trail.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Read the whole trail and say whether anything was changed or cut; also while the daemon runs
    Verify,
    /// Read a patient_id from standard input and print the hash that stands for it in the trail
    Patient,
}

/// Does it. False when the trail is not as it was written.
///
/// # Errors
/// When configuration or trail can't be read.
pub fn run(args: AuditArgs) -> anyhow::Result<(String, bool)> {
    let mut config = CommonArgs { config: args.config, engine: None }.load()?;
    if let Some(folder) = args.state_dir {
        config.state.path = Some(folder);
    }
    let folder = config.audit_path();
    let read = |error: std::io::Error| anyhow::anyhow!("{}: {error}", folder.display());
    match args.command {
        AuditCommand::Patient => {
            let mut id = String::new();
            std::io::stdin().take(MAX_ID_BYTES).read_to_string(&mut id)?;
            let id = id.strip_suffix('\n').unwrap_or(&id);
            Ok((Keys::existing(&folder).map_err(read)?.patient(id) + "\n", true))
        }
        AuditCommand::Verify => {
            let report = verify(&folder).map_err(read)?;
            let mut text = String::new();
            for fault in &report.faults {
                let _ = writeln!(text, "FAULT {fault}");
            }
            for note in &report.notes {
                let _ = writeln!(text, "note: {note}");
            }
            let good = report.faults.is_empty();
            let word = if good { "right" } else { "NOT AS IT WAS WRITTEN" };
            let span = report.span.map(|(from, to)| format!(", {from} to {to}"));
            let _ = writeln!(
                text,
                "{word}: {} records in {} files{}",
                report.records,
                report.files,
                span.unwrap_or_default()
            );
            Ok((text, good))
        }
    }
}
