//! The commands that do one thing and end: each file of `cli` is given what it needs, and its outcome
//! becomes text and an exit code (`cli` lists them).
//!
//! Nothing here serves: that is `app::serve`.

use super::engines::Engines;
use super::{EX_CONFIG, EX_SOFTWARE, EX_UNAVAILABLE};
use super::{cache, failed, failed_with, is_ready, may_listen, reach, runtime, start, stop};
use crate::cli::doctor::{DoctorArgs, Elsewhere, Finding, Level, Section};
use crate::cli::segment::SegmentArgs;
use crate::cli::{self, Cli, Command};
use crate::config::ConfigError;
use crate::engine::worker::State;
use crate::http::guard::{IN_CLEAR, IN_CLEAR_REMEDY, is_open};
use crate::ops::exits::Run;
use crate::{http, imaging, ops};
use anyhow::Context as _;
use clap::CommandFactory as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

/// Runs one command, or serves.
#[must_use]
pub fn run(command: Command) -> ExitCode {
    match command {
        Command::Serve(args) => match args.load() {
            Ok(config) => super::serve(config, args),
            Err(error) => failed(EX_CONFIG, &error),
        },
        Command::DecodeChild => imaging::decoder::child::main(),
        Command::Segment(args) => segment(args),
        Command::Engine(command) => said(cli::engine::run(command)),
        Command::Token(args) => said(cli::token::run(args)),
        Command::Cache(args) => ended(cli::cache::run(&args)),
        Command::Cert(args) => said(cli::cert::run(args, &http::guard::machine_names())),
        Command::Audit(args) => judged(cli::audit::run(args)),
        Command::Health(args) => runtime(|| cli::health::run(args)),
        Command::CheckConfig(args) => said(cli::check_config::run(args)),
        Command::Accept(args) => runtime(|| async move { ended(cli::accept::run(&args).await) }),
        Command::Doctor(args) => judged(doctor(&args)),
        Command::Openapi => said(anyhow::Ok(http::openapi::document())),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sam2d", &mut io::stdout());
            ExitCode::SUCCESS
        }
        Command::Man(args) => said(cli::man::run(Cli::command(), &args)),
    }
}

/// `sam2d segment`: the rooms of the daemon without sockets.
fn segment(args: SegmentArgs) -> ExitCode {
    let mut config = match args.common.load().and_then(|config| config.check().map(|()| config)) {
        Ok(config) => config,
        Err(error) => return failed(EX_CONFIG, &error),
    };
    if config.log.level == "info" {
        config.log.level = "warn".to_owned();
    }
    if let Err(error) = ops::telemetry::start(&config.log) {
        return failed(EX_CONFIG, &error);
    }
    runtime(|| async move {
        let cache = if args.cache { cache(&config) } else { None };
        let engines = Engines::new(reach(&[]), |_, _| ());
        let begun = engines.first(&config.engine, &Run::begin(None, 0));
        let service = match begun.and_then(|(engine, _)| start(&config, engine, cache)) {
            Ok(service) => service,
            Err(error) => return failed_with(EX_SOFTWARE, &error),
        };
        if !is_ready(&service).await {
            if let State::ManualOnly { detail, .. } = service.engine().state() {
                eprintln!("sam2d: {detail}");
            }
            return ExitCode::from(EX_UNAVAILABLE);
        }
        let outcome = cli::segment::run(args, &service).await;
        stop(service).await;
        match outcome {
            Ok(outcome) if outcome.failed == 0 => ExitCode::SUCCESS,
            Ok(outcome) => {
                eprintln!("sam2d: {} of {} failed", outcome.failed, outcome.failed + outcome.done);
                ExitCode::from(1)
            }
            Err(error) => failed_with(1, &error),
        }
    })
}

/// An address without TLS that other machines can reach is worth a look.
fn in_clear(address: &SocketAddr) -> Option<Finding> {
    let found =
        || Finding::warning(Section::Ports, format!("{address}: {IN_CLEAR}"), IN_CLEAR_REMEDY);
    is_open(address).then(found)
}

/// `sam2d doctor`: what it found; false when something is wrong.
fn doctor(args: &DoctorArgs) -> anyhow::Result<(String, bool)> {
    let diagnosis = cli::doctor::examine(&args.common, |config| Elsewhere {
        open_address: may_listen(config, &config.http.listen).err().map(|error| error.to_string()),
        findings: [cards()]
            .into_iter()
            .chain(config.http.listen.iter().filter_map(in_clear))
            .collect(),
    });
    if let Some(file) = &args.bundle {
        diagnosis.bundle(file).with_context(|| file.display().to_string())?;
    }
    let text = if args.json { diagnosis.json() } else { diagnosis.text() };
    Ok((text, diagnosis.worst() != Level::Fault))
}

/// What metrics will say of NVIDIA cards. None is no fault: what the engine needs was looked at.
fn cards() -> Finding {
    let told = ops::cards::described().unwrap_or_else(|untold| untold.to_string());
    Finding::fine(Section::Device, told)
}

/// A command's text, or why there is none.
fn said<E: Into<anyhow::Error>>(outcome: Result<String, E>) -> ExitCode {
    judged(outcome.map(|text| (text, true)))
}

/// A command's text, and exit code 1 where it found something wrong.
fn judged<E: Into<anyhow::Error>>(outcome: Result<(String, bool), E>) -> ExitCode {
    ended(outcome.map_err(Into::into).and_then(|(text, good)| {
        match io::stdout().write_all(text.as_bytes()) {
            // A reader that has seen enough (head) is no failure.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(good),
        }
    }))
}

/// A command that printed by itself: did it find everything right?
fn ended<E: Into<anyhow::Error>>(outcome: Result<bool, E>) -> ExitCode {
    match outcome.map_err(Into::into) {
        Ok(good) => ExitCode::from(u8::from(!good)),
        Err(error) if error.chain().any(|cause| cause.is::<ConfigError>()) => {
            failed_with(EX_CONFIG, &error)
        }
        Err(error) => failed_with(1, &error),
    }
}
