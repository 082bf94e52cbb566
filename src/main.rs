//! Arguments and exit codes; everything else is the library's.

use clap::{CommandFactory, Parser};
use sam2d::cli::{Cli, Command};
use sam2d::{app, cli, imaging, ops};
use std::process::ExitCode;

/// sysexits.h EX_CONFIG, which systemd shows by name.
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(
        cli.command,
        None | Some(Command::Serve(_) | Command::DecodeChild | Command::Segment(_))
    ) {
        ops::memory::keep_private();
    }
    match cli.command.unwrap_or(Command::Serve(cli.serve)) {
        Command::Serve(args) => match args.load() {
            Ok(config) => app::serve(config, args),
            Err(error) => failed(EX_CONFIG, &error),
        },
        Command::Segment(args) => app::segment(args),
        Command::Engine(command) => app::engine(command),
        Command::Token(args) => app::token(args),
        Command::Cache(args) => app::cache_command(&args),
        Command::Cert(args) => app::cert(args),
        Command::Audit(args) => app::audit(args),
        Command::Health(args) => app::health(args),
        Command::CheckConfig(args) => match cli::check_config::run(args) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(EX_CONFIG, &error),
        },
        Command::Accept(args) => app::accept(args),
        Command::Man(args) => match cli::man::run(Cli::command(), &args) {
            Ok(text) => {
                print!("{text}");
                ExitCode::SUCCESS
            }
            Err(error) => failed(1, &error),
        },
        Command::Doctor(args) => app::doctor(&args),
        Command::Openapi => {
            print!("{}", app::openapi());
            ExitCode::SUCCESS
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sam2d", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::DecodeChild => imaging::decoder::child::main(),
    }
}

fn failed(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("sam2d: {error}");
    ExitCode::from(code)
}
