//! `sam2d engine`: the engines it sees, what they say of themselves, and whether they do it.

use super::CommonArgs;
use crate::engine::Options;
use crate::engine::package::{Origin, Package, PackageError, Role, search};
use crate::service::loader::{self, Reach};
use crate::service::selftest;
use anyhow::Context;
use clap::{Args, Subcommand};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// List the engines in the order in which they are looked for
    List(CommonArgs),
    /// Show what a package says of itself
    Inspect(PackageArgs),
    /// Check a package's sums and run its golden self-test
    Verify(PackageArgs),
}

/// Which package.
#[derive(Debug, Args)]
pub struct PackageArgs {
    /// A package's folder, or a name in an engine folder [default: the one that would serve]
    #[arg(value_name = "NAME|PATH")]
    pub package: Option<PathBuf>,
    /// Shared flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Runs a subcommand; the text is for standard output.
///
/// # Errors
/// What is wrong with the configuration or the package.
pub fn run(command: EngineCommand) -> anyhow::Result<String> {
    match command {
        EngineCommand::List(common) => list(&common),
        EngineCommand::Inspect(args) => Ok(describe(&package(&args)?.0)),
        EngineCommand::Verify(args) => verify(&args),
    }
}

/// Looking at a package says nothing about who could reach it.
const LOCAL: Reach = Reach { loopback_only: true };

fn list(common: &CommonArgs) -> anyhow::Result<String> {
    let config = common.load()?;
    let mut text = String::new();
    let named = config.engine.path.as_deref();
    if let Some(path) = named {
        line(&mut text, "configured", &path.display().to_string(), Package::load(&chosen(path)));
    }
    for folder in search::installed(&search::ENGINE_FOLDERS) {
        line(&mut text, "installed", &folder.display().to_string(), Package::load(&folder));
    }
    line(&mut text, "embedded", "in the program", Package::embedded());
    let serves = match loader::package(&config.engine, LOCAL) {
        Ok(package) => format!("serves: {} ({})\n", package.manifest().title(), place(&package)),
        Err(error) => format!("serves: none: {error}\n"),
    };
    text.push_str(&serves);
    Ok(text)
}

fn line(text: &mut String, kind: &str, place: &str, package: Result<Package, PackageError>) {
    let what = match package {
        Ok(package) => {
            format!("{} ({})", package.manifest().title(), package.manifest().intended_use)
        }
        Err(error) => format!("unusable: {error}"),
    };
    // Writing to a String can't fail.
    let _ = writeln!(text, "{kind:<10} {what}: {place}");
}

fn chosen(path: &Path) -> PathBuf {
    match search::find(Some(path), &search::ENGINE_FOLDERS) {
        Ok(search::Found::Folder(folder)) => folder,
        Ok(search::Found::Embedded) | Err(_) => path.to_owned(),
    }
}

fn package(args: &PackageArgs) -> anyhow::Result<(Package, Options)> {
    let mut config = args.common.load()?;
    if let Some(package) = &args.package {
        config.engine.path = Some(package.clone());
    }
    Ok((loader::package(&config.engine, LOCAL)?, config.engine))
}

fn place(package: &Package) -> String {
    match package.origin() {
        Origin::Embedded => "embedded".to_owned(),
        Origin::Folder(folder) => folder.display().to_string(),
    }
}

fn describe(package: &Package) -> String {
    let manifest = package.manifest();
    let mut text = String::new();
    let mut row = |name: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, "{name:<16} {value}");
    };
    row("engine", &manifest.title());
    row("place", &place(package));
    row("manifest sha256", &package.digest().to_hex());
    row("architecture", &manifest.architecture);
    row("input size", &manifest.input_size);
    row("channels", &manifest.embed_channels);
    row("masks", &manifest.masks);
    row("precision", &manifest.precision);
    row("most prompts", &manifest.limits.max_prompts);
    row("most points", &manifest.limits.max_points);
    row("intended use", &manifest.intended_use);
    row("licence", &manifest.licence);
    row("checkpoint", &manifest.checkpoint);
    for role in [Role::Encoder, Role::Decoder] {
        let file = package.file(role);
        row(role.name(), &format_args!("{} sha256 {}", file.path, file.sha256.to_hex()));
    }
    row("notice", &manifest.notice);
    text
}

fn verify(args: &PackageArgs) -> anyhow::Result<String> {
    let (package, options) = package(args)?;
    let mut backend = loader::backend(&package, &options).context("the engine can't be loaded")?;
    let passed = selftest::run(&package, backend.as_mut())?;
    let (info, report) = (backend.info(), &passed.report);
    Ok(format!(
        "{}: sums right; golden image right on {} ({}): {} px, IoU {:.3} with the reference, \
         predicted IoU {:.3}, encoder {:.1} ms, prompt {:.1} ms\nfingerprint {}\n",
        package.manifest().title(),
        info.backend,
        info.device,
        report.area_px,
        report.mask_iou,
        report.observed.iou,
        report.observed.encode.as_secs_f64() * 1e3,
        report.observed.decode.as_secs_f64() * 1e3,
        info.fingerprint,
    ))
}
