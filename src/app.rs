//! The composition root: builds the rooms from the configuration, starts them in order, and ends
//! them in the opposite one.
//!
//! Start: the address rule and the sockets first (a busy port or an open address is said at once),
//! then decoder, cache, engine, service, HTTP. End: no new connections, requests under way are
//! answered, the engine thread ends, the cache writes what still waits.

use crate::access::keeper::Keeper;
use crate::cache::{Cache, Clock};
use crate::cli::cache::CacheArgs;
use crate::cli::doctor::{DoctorArgs, Elsewhere, Level};
use crate::cli::{
    engine::EngineCommand, health::HealthArgs, segment::SegmentArgs, token::TokenArgs,
};
use crate::config::Config;
use crate::engine::package::Package;
use crate::engine::worker::{Engine, Fatal, Hooks, State};
use crate::http::server::{BindError, Server};
use crate::imaging::decoder::Decoder;
use crate::imaging::overlay;
use crate::service::loader::{self, Reach};
use crate::service::selftest::Passed;
use crate::service::{Parts, Service};
use crate::{cli, control, http, ops};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// sysexits.h EX_UNAVAILABLE: no engine although `engine.required`.
const EX_UNAVAILABLE: u8 = 69;
/// sysexits.h EX_SOFTWARE: a bug, a lost device, a hang.
const EX_SOFTWARE: u8 = 70;
/// sysexits.h EX_CONFIG.
const EX_CONFIG: u8 = 78;

/// A running encoder of a large model on a CPU ends within this.
const ENGINE_PATIENCE: Duration = Duration::from_secs(10);

/// Name of the golden image's overlay picture in the state folder.
const GOLDEN_OVERLAY: &str = "golden-overlay.png";

/// Runs the daemon until SIGTERM or SIGINT.
#[must_use]
pub fn serve(config: Config) -> ExitCode {
    if let Err(error) = ops::telemetry::start(&config.log) {
        return failed(EX_CONFIG, &error);
    }
    runtime(|| run(config))
}

async fn run(config: Config) -> ExitCode {
    let keeper = match may_listen(&config) {
        Ok(keeper) => keeper,
        Err(error) => return failed_with(EX_CONFIG, &error),
    };
    let server = match Server::bind(&config.http).await {
        Ok(server) => server.with_tokens(keeper, &config.access),
        Err(error @ BindError { .. }) => return failed(1, &error),
    };
    let addresses = server.addresses().to_vec();
    let service = match start(&config, Some(&addresses), cache(&config)) {
        Ok(service) => service,
        Err(error) => return failed_with(EX_SOFTWARE, &error),
    };
    let control = listen_for_control(&config, &service);
    greet(&addresses);
    tokio::spawn(ops::systemd::follow(service.engine().clone()));
    if config.engine.required && !is_ready(&service).await {
        eprintln!("sam2d: no engine, and engine.required is set");
        return ExitCode::from(EX_UNAVAILABLE);
    }
    let drained = server.serve(service.clone(), stop_signal()).await;
    if let Some(control) = control {
        control.abort();
        let _ = control.await;
    }
    stop(service).await;
    tracing::info!(drained, "stopped");
    ExitCode::SUCCESS
}

/// The rooms below HTTP.
fn start(
    config: &Config,
    addresses: Option<&[SocketAddr]>,
    cache: Option<Cache>,
) -> anyhow::Result<Service> {
    let decoder = Decoder::start(config.decoder.clone())?;
    let picture = config.state_dir().join(GOLDEN_OVERLAY);
    let serving = addresses.is_some();
    let reach = Reach {
        loopback_only: addresses.is_none_or(|all| all.iter().all(|a| a.ip().is_loopback())),
    };
    let passed = Box::new(move |package: &Package, passed: &Passed| {
        if serving {
            report(package, passed, &picture);
        }
    });
    let watched = config.engine.clone();
    let hooks = Hooks::new(loader::loader(config.engine.clone(), reach, passed))
        .watching(move || loader::revision(&watched))
        .on_fatal(|fatal| lost(&fatal));
    let engine = Engine::start((&config.engine).into(), hooks)?;
    let lifetime = Duration::from_secs(u64::from(config.cache.lifetime_hours) * 3600);
    Ok(Service::new(Parts {
        options: config.segment.clone(),
        engine,
        decoder,
        cache,
        inbox: config.inbox.path.as_deref(),
        max_image_bytes: config.decoder.max_bytes,
        lifetime,
    })?)
}

/// The disk cache, or none and the reason in the log: never a reason not to serve.
fn cache(config: &Config) -> Option<Cache> {
    if !config.cache.enabled {
        return None;
    }
    match Cache::open(config.cache.clone(), Clock::system()) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!(%error, "no disk cache: results are kept in memory only");
            None
        }
    }
}

/// The control socket's task. Without a socket the daemon serves all the same, and says so.
fn listen_for_control(config: &Config, service: &Service) -> Option<JoinHandle<()>> {
    let path = config.control.own_path(&config.state_dir());
    match control::server::Server::bind(&config.control, &path) {
        Ok(server) => {
            let answer = ops::admin::answer(service.clone());
            Some(tokio::spawn(server.serve(ops::admin::hello(service), answer)))
        }
        Err(error) => {
            tracing::warn!(%error, "no control socket: `sam2d cache` can't ask this daemon");
            None
        }
    }
}

/// The golden image came out right: says so, and writes the picture that shows it.
fn report(package: &Package, passed: &Passed, path: &Path) {
    let report = &passed.report;
    let (levels, mask) = (&passed.levels, &report.observed.mask);
    let picture = overlay::encode(levels, mask, &passed.prompt).unwrap_or_default();
    let folder = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    let written = folder.and_then(|()| std::fs::write(path, picture));
    let ms = |time: Duration| format!("{:.1}", time.as_secs_f64() * 1e3);
    println!(
        "engine {}: golden image segmented: {} px, IoU {:.3} with the reference, {} ms (encode {}, prompt {})",
        package.manifest().title(),
        report.area_px,
        report.mask_iou,
        ms(report.observed.encode + report.observed.decode),
        ms(report.observed.encode),
        ms(report.observed.decode),
    );
    match written {
        Ok(()) => println!("  picture: {}", path.display()),
        Err(error) => println!("  no picture: {}: {error}", path.display()),
    }
    println!("  {}", package.manifest().notice);
}

/// Where it listens and what to try next.
fn greet(addresses: &[SocketAddr]) {
    println!("sam2d {} — not for diagnostic use", env!("CARGO_PKG_VERSION"));
    for address in addresses {
        println!("listening on http://{address}");
    }
    if let Some(address) = addresses.first() {
        println!("try: curl -F file=@samples/phantom-axial.dcm -F image_type=auto \\");
        println!("          -F 'click_points=[{{\"x\":160,\"y\":167,\"label\":1}}]' \\");
        println!("          http://{address}/api/segmentation/sam2");
    }
}

async fn is_ready(service: &Service) -> bool {
    matches!(service.engine().settled().await, State::Ready(_))
}

/// Only a new process helps: the engine's device is lost, or a call hangs.
fn lost(fatal: &Fatal) {
    tracing::error!(%fatal, "the process ends, so that it is started anew");
    std::process::exit(i32::from(EX_SOFTWARE));
}

/// Ends the rooms below HTTP: the engine thread, then the last writes to disk.
async fn stop(service: Service) {
    let stopped = tokio::task::spawn_blocking(move || {
        let ended = service.engine().stop(ENGINE_PATIENCE);
        service.finish();
        ended
    });
    if !stopped.await.unwrap_or(false) {
        tracing::warn!("the engine did not end in time");
    }
}

async fn stop_signal() {
    let (Ok(mut term), Ok(mut int)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("no signal handlers: the daemon can only be killed");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: finishing what was accepted"),
        _ = int.recv() => tracing::info!("SIGINT: finishing what was accepted"),
    }
    ops::systemd::stopping();
}

/// `sam2d segment`.
#[must_use]
pub fn segment(args: SegmentArgs) -> ExitCode {
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
        let service = match start(&config, None, cache) {
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

/// `sam2d engine …`.
#[must_use]
pub fn engine(command: EngineCommand) -> ExitCode {
    match cli::engine::run(command) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => failed_with(1, &error),
    }
}

/// `sam2d token …`.
#[must_use]
pub fn token(args: TokenArgs) -> ExitCode {
    match cli::token::run(args) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => failed_with(1, &error),
    }
}

/// `sam2d cache …`.
#[must_use]
pub fn cache_command(args: &CacheArgs) -> ExitCode {
    match cli::cache::run(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(cli::cache::CacheError::Config(error)) => failed(EX_CONFIG, &error),
        Err(error) => failed(1, &error),
    }
}

/// `sam2d health`.
#[must_use]
pub fn health(args: HealthArgs) -> ExitCode {
    runtime(|| cli::health::run(args))
}

/// `sam2d doctor`.
#[must_use]
pub fn doctor(args: &DoctorArgs) -> ExitCode {
    let diagnosis = cli::doctor::examine(&args.common, |config| Elsewhere {
        open_address: may_listen(config).err().map(|error| error.to_string()),
        findings: Vec::new(),
    });
    print!("{}", if args.json { diagnosis.json() } else { diagnosis.text() });
    ExitCode::from(u8::from(diagnosis.worst() == Level::Fault))
}

/// Does something say who may ask, on every address that strangers can reach?
fn may_listen(config: &Config) -> anyhow::Result<Keeper> {
    let keeper = Keeper::open(&config.access, &config.tokens_path())?;
    http::guard::may_listen(&config.http, &config.http.listen, &keeper)?;
    Ok(keeper)
}

/// `sam2d openapi`.
#[must_use]
pub fn openapi() -> String {
    http::openapi::document()
}

fn runtime<F: Future<Output = ExitCode>>(work: impl FnOnce() -> F) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("sam2d").build() {
        Ok(runtime) => runtime.block_on(work()),
        Err(error) => failed(EX_SOFTWARE, &error),
    }
}

fn failed(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("sam2d: {error}");
    ExitCode::from(code)
}

fn failed_with(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("sam2d: {error:#}");
    ExitCode::from(code)
}
