//! `sam2d engine`: the engines it sees, what they say of themselves, and whether they do it.

use super::CommonArgs;
use crate::domain::tensor::PromptBatch;
use crate::engine::package::import::{self, Existing};
use crate::engine::package::{Origin, Package, PackageError, Role, search};
use crate::engine::{BackendError, Options};
use crate::imaging::preprocess;
use crate::service::loader::{self, Reach};
use crate::service::selftest;
use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Subcommands.
#[derive(Debug, Subcommand)]
pub enum EngineCommand {
    /// List the engines in the order in which they are looked for
    List(CommonArgs),
    /// Show what a package says of itself
    Inspect(PackageArgs),
    /// Check a package's sums and run its golden self-test
    Verify(PackageArgs),
    /// Take a package in: checked, tried here, then put in place
    Import(ImportArgs),
    /// How long encoder and decoder take here
    Bench(BenchArgs),
}

/// Where a package comes from and goes.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The package's folder
    #[arg(value_name = "FOLDER")]
    pub source: PathBuf,
    /// Engine folder that it goes into
    #[arg(long, value_name = "DIR", default_value = search::ENGINE_FOLDERS[1])]
    pub into: PathBuf,
    /// Take the place of another package of this name
    #[arg(long)]
    pub replace: bool,
    /// Shared flags.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Which package, and how often.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Which package.
    #[command(flatten)]
    pub package: PackageArgs,
    /// Calls that are timed, after three that are not
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,
    /// One JSON object instead of text
    #[arg(long)]
    pub json: bool,
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
        EngineCommand::Import(args) => import(&args),
        EngineCommand::Bench(args) => bench(&args),
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

fn import(args: &ImportArgs) -> anyhow::Result<String> {
    let options = args.common.load()?.engine;
    let existing = if args.replace { Existing::Replace } else { Existing::Keep };
    let imported = import::import(&args.source, &args.into, existing, |package| {
        let mut backend = loader::backend(package, &options)?;
        Ok(selftest::run(package, backend.as_mut()).map(|_| ())?)
    })?;
    let place = imported.folder.display();
    Ok(match imported.changed {
        true => format!(
            "{place}: taken in, golden image right; a running daemon takes it at its next start or reload\n"
        ),
        false => format!("{place}: it was there already, golden image right\n"),
    })
}

/// What a stage took, in milliseconds.
#[derive(Serialize)]
struct Took {
    median: f64,
    p95: f64,
    worst: f64,
}

/// Calls that warm up caches, tune kernels and record graphs.
const WARM_UP: u32 = 3;

/// Times the golden picture's encoder call, its prompt, and a batch of single clicks.
fn bench(args: &BenchArgs) -> anyhow::Result<String> {
    let (package, options) = package(&args.package)?;
    let mut backend = loader::backend(&package, &options).context("the engine can't be loaded")?;
    let passed = selftest::run(&package, backend.as_mut())?;
    let backend = backend.as_mut();
    let info = backend.info().clone();
    let (size, side) = (passed.size, info.input_size);
    let tensor = preprocess::tensor(&passed.levels, size, side).context("no golden picture")?;
    let encoder = timed(args.runs, || backend.encode(&tensor).map(drop))?;
    let one = timed(args.runs, || backend.decode(&passed.embedding, &passed.batch).map(drop))?;
    let count = 8.min(info.max_prompts);
    let middle = rows_middle(side);
    let clicks = PromptBatch::single_clicks(&vec![middle; count]).context("no prompts")?;
    let batch = timed(args.runs, || backend.decode(&passed.embedding, &clicks).map(drop))?;
    let transfer = timed(args.runs, || backend.download(&passed.embedding).map(drop))?;
    if args.json {
        let object = serde_json::json!({
            "engine": info.name,
            "backend": info.backend,
            "device": info.device,
            "fingerprint": info.fingerprint,
            "runs": args.runs,
            "embedding_bytes": passed.embedding.bytes(),
            "encoder_ms": encoder,
            "prompt_ms": one,
            "prompts_in_batch": count,
            "batch_ms": batch,
            "download_ms": transfer,
        });
        return Ok(format!("{object}\n"));
    }
    let mut text =
        format!("{} on {} ({}), {} runs\n", info.name, info.backend, info.device, args.runs);
    for (name, took) in [
        ("encoder", &encoder),
        ("prompt", &one),
        (&*format!("{count} prompts"), &batch),
        ("download", &transfer),
    ] {
        let Took { median, p95, worst } = took;
        // Writing to a String can't fail.
        let _ = writeln!(text, "{name:<10} {median:9.2} ms median {p95:9.2} p95 {worst:9.2} worst");
    }
    Ok(text)
}

/// The middle of the encoder's input.
#[expect(clippy::cast_precision_loss, reason = "sides are at most 2048")]
fn rows_middle(side: usize) -> (f32, f32) {
    (side as f32 / 2.0, side as f32 / 2.0)
}

fn timed(runs: u32, mut call: impl FnMut() -> Result<(), BackendError>) -> anyhow::Result<Took> {
    for _ in 0..WARM_UP {
        call()?;
    }
    let mut all = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        call()?;
        all.push(start.elapsed().as_secs_f64() * 1e3);
    }
    all.sort_by(f64::total_cmp);
    let at = |share: usize| all.get((all.len() - 1) * share / 100).copied().unwrap_or_default();
    Ok(Took { median: at(50), p95: at(95), worst: at(100) })
}
