//! The composition root: builds the rooms from the configuration, starts them in order, and ends
//! them in the opposite one.
//!
//! Start: the address rule and the sockets first (a busy port or an open address is said at once),
//! then engine, cache, decoder, service, HTTP. End: no new connections, requests under way are
//! answered, the engine thread ends, the cache writes what still waits.

pub mod command;
mod engines;
mod reload;
mod sockets;

use crate::access::keeper::Keeper;
use crate::audit::{Audit, Event, Kind};
use crate::cache::{Cache, Clock};
use crate::cli::ServeArgs;
use crate::config::Config;
use crate::domain::key::Sum;
use crate::engine::package::Package;
use crate::engine::worker::{Engine, State};
use crate::http::guard::{IN_CLEAR, IN_CLEAR_REMEDY};
use crate::http::server::Server;
use crate::http::tls::{ClientCertificates, Tls};
use crate::imaging::decoder::Decoder;
use crate::imaging::overlay;
use crate::ops::exits::Run;
use crate::ops::systemd::Socket;
use crate::service::loader::Reach;
use crate::service::selftest::Passed;
use crate::service::serving::Watching;
use crate::service::{Parts, Service};
use crate::{control, http, ops};
use anyhow::Context as _;
use engines::Engines;
use reload::{Reload, Rooms};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
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

/// Name of the file in the trail's folder that has the last configuration's sum.
const CONFIGURATION: &str = "configuration";

/// Name of the golden image's overlay picture in the state folder.
const GOLDEN_OVERLAY: &str = "golden-overlay.png";

// What started a daemon may read no more of what it prints (a pipe that was closed, a journal that is being
// restarted), and that must stop nothing: `println!` would panic, in the engine's thread, too.
macro_rules! say {
    ($($words:tt)*) => { drop(writeln!(std::io::stdout(), $($words)*)) };
}
macro_rules! complain {
    ($($words:tt)*) => { drop(writeln!(std::io::stderr(), $($words)*)) };
}

/// Runs the daemon until SIGTERM or SIGINT.
#[must_use]
pub fn serve(config: Config, args: ServeArgs) -> ExitCode {
    if let Err(error) = ops::telemetry::start(&config.log) {
        return failed(EX_CONFIG, &error);
    }
    // Before there are threads: it reads the environment that systemd gave.
    let inherited = match sockets::inherited() {
        Ok(inherited) => inherited,
        Err(error) => return failed(EX_CONFIG, &error),
    };
    runtime(|| run(config, args, inherited))
}

async fn run(config: Config, args: ServeArgs, inherited: Vec<TcpListener>) -> ExitCode {
    let Ok(hangups) = signal(SignalKind::hangup()) else {
        return failed_with(EX_SOFTWARE, &anyhow::anyhow!("no handler for SIGHUP can be set"));
    };
    let (mut server, keeper) = match open(&config, inherited).await {
        Ok(opened) => opened,
        Err(code) => return code,
    };
    if !config.tls.listen.is_empty() {
        let tls = match Tls::open(&config.tls, &config.state_dir()) {
            Ok(tls) => tls,
            Err(error) => return failed(EX_CONFIG, &error),
        };
        server = match server.with_tls(tls).await {
            Ok(server) => server,
            Err(error) => return failed(1, &error),
        };
    }
    let audit = match audit_trail(&config, &keeper) {
        Ok(audit) => audit,
        Err(error) => return failed_with(1, &error),
    };
    if let Some(audit) = &audit {
        server = server.with_audit(audit.clone());
    }
    server = server.with_collector(Box::new(machine(&config)));
    let addresses = server.addresses().to_vec();
    let tls_addresses = server.tls_addresses();
    let run = Run::begin_here();
    let picture = config.state_dir().join(GOLDEN_OVERLAY);
    let engines = Engines::new(reach(&addresses), move |package: &Package, passed: &Passed| {
        report(package, passed, &picture);
    });
    let begun = engines.first(&config.engine, &run);
    let started =
        begun.and_then(|(engine, seam)| Ok((start(&config, engine, cache(&config))?, seam)));
    let (service, seam) = match started {
        Ok(started) => started,
        Err(error) => return failed_with(EX_SOFTWARE, &error),
    };
    let control = listen_for_control(&config, &service);
    for address in server.in_clear() {
        tracing::warn!(%address, "{IN_CLEAR}; {IN_CLEAR_REMEDY}");
    }
    greet(&addresses, &tls_addresses);
    if let Some(audit) = &audit {
        tokio::spawn(record_engines(service.watch(), audit.clone()));
    }
    tokio::spawn(ops::systemd::follow(service.watch(), Socket));
    let limits = ops::watchdog::Limits {
        call: Duration::from_secs(config.engine.hang_s),
        load: Duration::from_secs(config.engine.load_hang_s),
    };
    let watched = service.clone();
    let pace = ops::watchdog::pace();
    tokio::spawn(ops::watchdog::earn(move || watched.engine(), limits, pace, Socket));
    if config.engine.required && !is_ready(&service).await {
        complain!("sam2d: no engine, and engine.required is set");
        run.end();
        return ExitCode::from(EX_UNAVAILABLE);
    }
    let rooms = Rooms { service: service.clone(), security: server.security(), engines };
    let reload = Reload::new(args, config, seam, rooms);
    let reloads = tokio::spawn(reload.follow(hangups));
    let drained = server.serve(service.clone(), stop_signal(&service)).await;
    reloads.abort();
    if let Some(control) = control {
        control.abort();
        let _ = control.await;
    }
    stop(service).await;
    if let Some(audit) = audit {
        audit.note(Event::own(Kind::Stop, if drained { "drained" } else { "not all answered" }));
        let _ = tokio::task::spawn_blocking(move || audit.finish()).await;
    }
    run.end();
    tracing::info!(drained, "stopped");
    ExitCode::SUCCESS
}

/// The trail of who did what, with its first records.
fn audit_trail(config: &Config, keeper: &Keeper) -> anyhow::Result<Option<Audit>> {
    if !config.audit.enabled {
        return Ok(None);
    }
    let folder = config.audit_path();
    let audit = Audit::start(&config.audit, &folder)
        .with_context(|| format!("the audit trail in {}", folder.display()))?;
    let sum = Sum::of(toml::to_string(config)?.as_bytes()).to_hex();
    let version = env!("CARGO_PKG_VERSION");
    audit.note(Event::own(Kind::Start, format!("version {version}, configuration {sum}")));
    let remembered = folder.join(CONFIGURATION);
    let before = std::fs::read_to_string(&remembered).ok();
    if before.as_deref() != Some(&*sum) {
        let text = format!("{} before, {sum} now", before.as_deref().unwrap_or("none"));
        audit.note(Event::own(Kind::Configuration, text));
        // A disk that doesn't take it has the change told again at the next start.
        let _ = std::fs::write(&remembered, sum);
    }
    if keeper.is_on() {
        let ids: Vec<_> = keeper.grants().into_iter().map(|grant| grant.id).collect();
        audit.note(Event::own(Kind::Tokens, format!("at the start [{}]", ids.join(" "))));
    }
    Ok(Some(audit))
}

/// Records every engine that comes to serve.
async fn record_engines(mut watching: Watching, audit: Audit) {
    let mut serving = None;
    loop {
        let now = match watching.state() {
            State::Ready(info) => {
                let engine = &info.engine;
                Some(format!("{} {} on {}", engine.name, engine.fingerprint, engine.device))
            }
            State::ManualOnly { reason, .. } => Some(format!("none: {reason}")),
            State::Loading => None,
        };
        if let Some(now) = now.filter(|now| serving.as_ref() != Some(now)) {
            audit.note(Event::own(Kind::Engine, now.clone()));
            serving = Some(now);
        }
        if !watching.changed().await {
            return;
        }
    }
}

/// What metrics say of the machine.
fn machine(config: &Config) -> ops::machine::Machine {
    let mut folders = vec![("state", config.state_dir())];
    folders
        .extend(config.cache.folder().filter(|_| config.cache.enabled).map(|path| ("cache", path)));
    ops::machine::Machine::here(folders)
}

/// The sockets to serve, if these rules let them be served: systemd's, else those of `http.listen`.
async fn open(config: &Config, inherited: Vec<TcpListener>) -> Result<(Server, Keeper), ExitCode> {
    let may = |addresses: &[SocketAddr]| {
        may_listen(config, addresses).map_err(|error| failed_with(EX_CONFIG, &error))
    };
    if inherited.is_empty() {
        let keeper = may(&config.http.listen)?;
        let server = Server::bind(&config.http).await.map_err(|error| failed(1, &error))?;
        return Ok((server.with_tokens(keeper.clone(), &config.access), keeper));
    }
    let server = Server::adopt(inherited, &config.http).map_err(|error| failed(1, &error))?;
    let keeper = may(server.addresses())?;
    Ok((server.with_tokens(keeper.clone(), &config.access), keeper))
}

/// Who can reach these addresses?
fn reach(addresses: &[SocketAddr]) -> Reach {
    Reach { loopback_only: addresses.iter().all(|address| address.ip().is_loopback()) }
}

/// The rooms below HTTP.
fn start(config: &Config, engine: Engine, cache: Option<Cache>) -> anyhow::Result<Service> {
    let decoder = Decoder::start(config.decoder.clone())?;
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

/// The disk cache, or none and the reason in the log: never a reason not to serve. One that is
/// switched off is one that keeps nothing: there is nothing wrong with it.
fn cache(config: &Config) -> Option<Cache> {
    match Cache::open(config.cache.clone(), Clock::system()) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!("no disk cache, results are kept in memory only: {error}");
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
            tracing::warn!("no control socket, `sam2d cache` can't ask this daemon: {error}");
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
    say!(
        "engine {}: golden image segmented: {} px, IoU {:.3} with the reference, {} ms (encode {}, prompt {})",
        package.manifest().title(),
        report.area_px,
        report.mask_iou,
        ms(report.observed.encode + report.observed.decode),
        ms(report.observed.encode),
        ms(report.observed.decode),
    );
    match written {
        Ok(()) => say!("  picture: {}", path.display()),
        Err(error) => say!("  no picture: {}: {error}", path.display()),
    }
    say!("  {}", package.manifest().notice);
}

/// Where it listens and what to try next.
fn greet(addresses: &[SocketAddr], secured: &[SocketAddr]) {
    say!("sam2d {} — not for diagnostic use", env!("CARGO_PKG_VERSION"));
    for address in addresses {
        let scheme = if secured.contains(address) { "https" } else { "http" };
        say!("listening on {scheme}://{address}");
    }
    if let Some(address) = addresses.first() {
        say!("try: curl -F file=@samples/phantom-axial.dcm -F image_type=auto \\");
        say!("          -F 'click_points=[{{\"x\":160,\"y\":167,\"label\":1}}]' \\");
        say!("          http://{address}/api/segmentation/sam2");
    }
}

async fn is_ready(service: &Service) -> bool {
    matches!(service.engine().settled().await, State::Ready(_))
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

async fn stop_signal(service: &Service) {
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
    service.stopping();
    ops::systemd::stopping(&Socket);
}

/// Does something say who may ask, on every one of these addresses that strangers can reach?
fn may_listen(config: &Config, addresses: &[SocketAddr]) -> anyhow::Result<Keeper> {
    let keeper = Keeper::open(&config.access, &config.tokens_path())?;
    http::guard::may_listen(&config.http, addresses, &keeper)?;
    // Client certificates are a rule for who may, on the addresses that ask for them.
    let open = match config.tls.client_certificates {
        ClientCertificates::Off => config.tls.listen.as_slice(),
        ClientCertificates::Optional | ClientCertificates::Required => &[],
    };
    http::guard::may_listen(&config.http, open, &keeper)?;
    Ok(keeper)
}

fn runtime<F: Future<Output = ExitCode>>(work: impl FnOnce() -> F) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("sam2d").build() {
        Ok(runtime) => runtime.block_on(work()),
        Err(error) => failed(EX_SOFTWARE, &error),
    }
}

fn failed(code: u8, error: &dyn std::error::Error) -> ExitCode {
    complain!("sam2d: {error}");
    ExitCode::from(code)
}

/// With its causes, but for those whose words the one before says already.
fn failed_with(code: u8, error: &anyhow::Error) -> ExitCode {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.contains(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    complain!("sam2d: {words}");
    ExitCode::from(code)
}
