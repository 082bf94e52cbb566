//! Arguments and exit codes; everything else is the library's.

use clap::Parser;
use sam2d::cli::{Cli, Command};
use sam2d::{app, ops};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    if matches!(command, Command::Serve(_) | Command::DecodeChild | Command::Segment(_)) {
        ops::memory::keep_private();
    }
    app::command::run(command)
}
