//! `sam2d man`: the manual pages, from the same words as `--help`; for packagers.

use clap::{Args, Command};
use std::io;
use std::path::PathBuf;

/// Flags.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder to write sam2d.1 and a page a command to
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Writes the pages; the text names them.
///
/// # Errors
/// When the folder can't be written.
pub fn run(command: Command, args: &ManArgs) -> io::Result<String> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    std::fs::create_dir_all(&args.folder)?;
    clap_mangen::generate_to(command, &args.folder)?;
    Ok(format!("manual pages are in {}\n", args.folder.display()))
}
