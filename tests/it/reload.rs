//! SIGHUP on the real daemon: what a reload takes in, and what it never costs.

use crate::support::daemon::{Daemon, done, sam2d};
use crate::support::{disc_png, seeded};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use sam2d::access::certificate::{AUTHORITY, FOLDER};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const RELOADED: &str = "reload: the configuration is in force";

/// A copy of the seeded engine's package with another version, so that it is another engine.
pub(crate) fn package(home: &Path, version: &str, area_px: &str) -> PathBuf {
    let folder = home.join(format!("engine-{version}"));
    std::fs::create_dir(&folder).unwrap();
    for entry in std::fs::read_dir(seeded()).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let manifest = folder.join("engine.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let text = text.replace("version = \"1.0.0\"", &format!("version = \"{version}\""));
    std::fs::write(manifest, text.replace("area_px = 505", &format!("area_px = {area_px}")))
        .unwrap();
    folder
}

pub(crate) struct Site {
    pub(crate) home: tempfile::TempDir,
    pub(crate) daemon: Daemon,
}

impl Site {
    /// With the engine of this folder, by the configuration's word alone.
    pub(crate) fn start(home: tempfile::TempDir, engine: &Path, more: &[(&str, &str)]) -> Self {
        Self::start_by(Daemon::start_configured, home, engine, more)
    }

    pub(crate) fn start_by(
        start: fn(&mut Command) -> Daemon,
        home: tempfile::TempDir,
        engine: &Path,
        more: &[(&str, &str)],
    ) -> Self {
        configure(home.path(), engine);
        let mut command = sam2d(home.path());
        command.arg("--config").arg(home.path().join("sam2d.toml")).envs(more.iter().copied());
        command.stderr(std::fs::File::create(home.path().join("log")).unwrap());
        let daemon = start(&mut command);
        Self { home, daemon }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap()
    }

    /// SIGHUP, and the end of the reload.
    pub(crate) fn reload(&self) {
        let before = self.log().matches(RELOADED).count();
        self.daemon.signal(rustix::process::Signal::HUP);
        let until = Instant::now() + Duration::from_secs(60);
        while self.log().matches(RELOADED).count() == before {
            assert!(Instant::now() < until, "no reload:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What the last reload said of itself.
    pub(crate) fn reloaded(&self) -> String {
        self.log().lines().rfind(|line| line.contains(RELOADED)).unwrap().to_owned()
    }

    pub(crate) fn fingerprint(&self) -> String {
        let health = self.daemon.get("/api/segmentation/sam2/health").value();
        health["model"]["fingerprint"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn configure(home: &Path, engine: &Path) {
    let text = format!("[engine]\npath = {engine:?}\ncpu_threads = 1\n");
    std::fs::write(home.join("sam2d.toml"), text).unwrap();
}

fn click(number: usize) -> String {
    let (x, y) = (5 + number % 80, 5 + number / 80 % 70);
    format!("[{{\"x\":{x},\"y\":{y},\"label\":1}}]")
}

#[test]
fn while_engines_are_exchanged_every_request_is_answered_by_one_of_them() {
    let home = tempfile::tempdir().unwrap();
    let engines = [package(home.path(), "1.0.1", "505"), package(home.path(), "1.0.2", "505")];
    let site = Site::start(home, &engines[0], &[]);
    let site = Arc::new(site);
    let over = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = (0..3)
        .map(|client: usize| {
            let (site, over) = (Arc::clone(&site), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                // A picture of its own, and never the same click: nothing comes from the cache.
                let png = disc_png(96 + u32::try_from(client).unwrap(), 80);
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let clicks = click(number);
                    let answer = site.daemon.segment(&[
                        ("file", &png),
                        ("image_type", b"auto"),
                        ("click_points", clicks.as_bytes()),
                    ]);
                    let value = answer.value();
                    let engine = value["model"]["fingerprint"].as_str().map(str::to_owned);
                    answers.push((answer.status, engine, answer.text()));
                }
                answers
            })
        })
        .collect();
    let mut seen = vec![site.fingerprint()];
    for round in 1..=8 {
        configure(site.home.path(), &engines[round % 2]);
        site.reload();
        seen.push(site.fingerprint());
    }
    over.store(true, Ordering::Relaxed);
    let answers: Vec<_> = traffic.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let lost: Vec<_> = answers.iter().filter(|(status, ..)| *status != 200).collect();
    assert!(lost.is_empty(), "{} of {}: {:?}", lost.len(), answers.len(), lost.first());
    assert!(answers.len() > 50, "too little traffic to tell: {}", answers.len());
    assert!(seen.iter().step_by(2).all(|engine| *engine == seen[0]), "{seen:?}");
    assert!(seen.iter().skip(1).step_by(2).all(|engine| *engine == seen[1]), "{seen:?}");
    assert_ne!(seen[0], seen[1]);
    for engine in &seen[..2] {
        let count = answers.iter().filter(|answer| answer.1.as_ref() == Some(engine)).count();
        assert!(count > 0, "no answer of {engine}");
    }
}

#[test]
fn a_new_engine_whose_golden_picture_comes_out_wrong_leaves_the_working_one_at_work() {
    let home = tempfile::tempdir().unwrap();
    let good = package(home.path(), "1.0.1", "505");
    let wrong = package(home.path(), "1.0.2", "1505");
    let site = Site::start(home, &good, &[]);
    let before = site.fingerprint();
    configure(site.home.path(), &wrong);
    site.reload();
    assert_eq!(site.fingerprint(), before);
    assert_eq!(site.daemon.get("/readyz").status, 200);
    let log = site.log();
    assert!(log.contains("the working engine stays") && log.contains("came out wrong"), "{log}");
    // Put right, the next reload takes it.
    change(&wrong, "area_px = 1505", "area_px = 505");
    site.reload();
    assert_ne!(site.fingerprint(), before);
}

/// Of a package's manifest, where it lies.
fn change(folder: &Path, from: &str, to: &str) {
    let manifest = folder.join("engine.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(manifest, text.replace(from, to)).unwrap();
}

#[test]
fn what_changed_in_the_working_engine_s_folder_is_taken_by_a_reload_or_refused_there() {
    let home = tempfile::tempdir().unwrap();
    let folder = package(home.path(), "1.0.1", "505");
    let site = Site::start(home, &folder, &[]);
    let png = disc_png(96, 80);
    let mut number = 0;
    // A click never asked before, so that an engine answers and no cache.
    let mut answered_by = || {
        number += 1;
        let clicks = click(number);
        let parts: [(&str, &[u8]); 3] =
            [("file", &png), ("image_type", b"auto"), ("click_points", clicks.as_bytes())];
        let answer = site.daemon.segment(&parts);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.value()["model"]["fingerprint"].as_str().unwrap().to_owned()
    };
    let first = answered_by();
    site.reload();
    assert!(site.reloaded().contains("the engine unchanged"), "{}", site.reloaded());
    // Nobody told the daemon yet.
    change(&folder, "version = \"1.0.1\"", "version = \"1.0.2\"");
    assert_eq!(answered_by(), first);
    site.reload();
    assert!(site.reloaded().contains("the engine loaded anew"), "{}", site.reloaded());
    let second = answered_by();
    assert_ne!(first, second);
    let weights = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let weights =
        weights.into_iter().find(|path| path.extension().is_some_and(|e| e == "onnx")).unwrap();
    let whole = std::fs::read(&weights).unwrap();
    for wrong in ["a wrong golden picture", "half a file", "no file", "no folder"] {
        match wrong {
            "a wrong golden picture" => change(&folder, "area_px = 505", "area_px = 1505"),
            "half a file" => std::fs::write(&weights, &whole[..whole.len() / 2]).unwrap(),
            "no file" => std::fs::remove_file(&weights).unwrap(),
            _ => std::fs::rename(&folder, folder.with_extension("away")).unwrap(),
        }
        site.reload();
        assert!(site.reloaded().contains("the engine kept"), "{wrong}: {}", site.reloaded());
        assert_eq!(
            (answered_by(), site.fingerprint()),
            (second.clone(), second.clone()),
            "{wrong}"
        );
        assert_eq!(site.daemon.get("/readyz").status, 200, "{wrong}");
        match wrong {
            "a wrong golden picture" => change(&folder, "area_px = 1505", "area_px = 505"),
            "no folder" => std::fs::rename(folder.with_extension("away"), &folder).unwrap(),
            _ => std::fs::write(&weights, &whole).unwrap(),
        }
    }
    change(&folder, "version = \"1.0.2\"", "version = \"1.0.3\"");
    site.reload();
    let third = answered_by();
    assert!(third != first && third != second);
}

#[test]
fn a_reload_takes_tokens_in_before_it_says_that_it_is_done() {
    let home = tempfile::tempdir().unwrap();
    let engine = package(home.path(), "1.0.1", "505");
    let site = Site::start(home, &engine, &[]);
    // The files are looked at every second all the same: once could be luck.
    for round in 1..=6 {
        let name = format!("editor-{round}");
        let created = done(site.home.path(), &["token", "create", &name]);
        assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
        site.reload();
        let log = site.log();
        let taken = log.matches("the tokens changed").count();
        assert_eq!((taken, log.matches(RELOADED).count()), (round, round), "{log}");
    }
}

#[test]
fn a_daemon_that_stops_says_on_a_kept_connection_that_it_is_not_ready_for_more() {
    let home = tempfile::tempdir().unwrap();
    let engine = package(home.path(), "1.0.1", "505");
    let site = Site::start(home, &engine, &[("SAM2D_HTTP__DRAIN_GRACE_MS", "20000")]);
    let mut kept = TcpStream::connect(site.daemon.address).unwrap();
    let mut ask = || {
        kept.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 2048];
        let count = kept.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    };
    assert!(ask().starts_with("HTTP/1.1 200"));
    site.daemon.signal(rustix::process::Signal::TERM);
    let until = Instant::now() + Duration::from_secs(10);
    while !site.log().contains("finishing what was accepted") {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(100));
    let draining = ask();
    assert!(draining.starts_with("HTTP/1.1 503"), "{draining}");
    assert!(draining.contains("the service is stopping"), "{draining}");
}

#[test]
fn a_reload_takes_limits_at_once_and_names_what_needs_a_restart_until_there_is_one() {
    let home = tempfile::tempdir().unwrap();
    let folders = [package(home.path(), "1.0.1", "505"), package(home.path(), "1.0.2", "505")];
    let site = Site::start(home, &folders[0], &[]);
    let png = disc_png(96, 80);
    let warned = |number: usize| {
        let clicks = click(number);
        let parts: [(&str, &[u8]); 3] =
            [("file", &png), ("image_type", b"auto"), ("click_points", clicks.as_bytes())];
        let answer = site.daemon.segment(&parts).value();
        answer["warnings"].to_string().contains("low confidence")
    };
    let file = site.home.path().join("sam2d.toml");
    let write = |engine: &Path, rest: &str| {
        configure(site.home.path(), engine);
        let text = std::fs::read_to_string(&file).unwrap() + rest;
        std::fs::write(&file, text).unwrap();
    };
    write(&folders[0], "[segment]\nlow_confidence = 0.0\n");
    site.reload();
    assert!(site.reloaded().contains("segment.low_confidence"), "{}", site.reloaded());
    assert!(!warned(1));
    write(&folders[0], "[segment]\nlow_confidence = 1.0\n[http]\nmax_headers = 50\n");
    for round in 1..=2 {
        site.reload();
        let restart = "these keys changed and need a restart: http.max_headers";
        assert_eq!(site.log().matches(restart).count(), round, "{}", site.log());
        assert_eq!(site.reloaded().contains("segment.low_confidence"), round == 1);
        assert!(warned(1 + round));
    }
    // Another engine, and then nothing new: it is not loaded twice.
    write(&folders[1], "[segment]\nlow_confidence = 1.0\n");
    site.reload();
    assert!(site.reloaded().contains("the engine loaded anew"), "{}", site.reloaded());
    site.reload();
    assert!(site.reloaded().contains("the engine unchanged"), "{}", site.reloaded());
    // A wrong file changes nothing.
    write(&folders[0], "[segment]\nlow_confidense = 0.0\n");
    site.daemon.signal(rustix::process::Signal::HUP);
    let until = Instant::now() + Duration::from_secs(30);
    while !site.log().contains("the old one stays") {
        assert!(Instant::now() < until, "{}", site.log());
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(site.log().contains("did you mean `low_confidence`?") && warned(9));
}

struct Visitor {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Visitor {
    fn new(home: &Path, address: SocketAddr) -> Self {
        let authority = home.join("state").join(FOLDER).join(AUTHORITY);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { address, config: Arc::new(config) }
    }

    fn connect(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let name = ServerName::try_from("localhost").unwrap();
        let client = ClientConnection::new(Arc::clone(&self.config), name).unwrap();
        StreamOwned::new(client, TcpStream::connect(self.address).unwrap())
    }

    /// A request on a connection of its own: its status line, and the certificate that was shown.
    fn visit(&self) -> (String, Vec<u8>) {
        let mut stream = self.connect();
        let answer = ask(&mut stream, "Connection: close\r\n");
        let shown = stream.conn.peer_certificates().unwrap()[0].as_ref().to_vec();
        (answer, shown)
    }
}

fn ask(stream: &mut (impl Read + Write), more: &str) -> String {
    let head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..count]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_reload_shows_a_new_certificate_to_whoever_comes_next_and_drops_no_request() {
    const FINE: &str = "HTTP/1.1 200 OK";
    let home = tempfile::tempdir().unwrap();
    let renew = |home: &Path, how: &[&str]| {
        let arguments = [&["cert", "init", "--name", "localhost"], how].concat();
        let made = done(home, &arguments);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    renew(home.path(), &[]);
    let engine = package(home.path(), "1.0.1", "505");
    let site = Site::start(home, &engine, &[("SAM2D_TLS__LISTEN", "[\"127.0.0.1:0\"]")]);
    let home = site.home.path();
    let address = site.daemon.secured.unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> = (0..2)
        .map(|_| {
            let (visitor, over) = (Visitor::new(home, address), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut answers = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    answers.push(visitor.visit().0);
                }
                answers
            })
        })
        .collect();
    let visitor = Visitor::new(home, address);
    let mut kept = visitor.connect();
    let mut shown = vec![visitor.visit().1];
    // The files are looked at every second all the same: once could be luck.
    for round in 1..=6 {
        renew(home, &["--renew"]);
        site.reload();
        shown.push(visitor.visit().1);
        assert_ne!(shown[round], shown[round - 1], "round {round}:\n{}", site.log());
        assert_eq!(ask(&mut kept, ""), FINE, "the connection from before was not kept");
    }
    over.store(true, Ordering::Relaxed);
    let answers: Vec<_> = traffic.into_iter().flat_map(|client| client.join().unwrap()).collect();
    let lost: Vec<_> = answers.iter().filter(|answer| *answer != FINE).collect();
    assert!(lost.is_empty() && answers.len() > 50, "{lost:?} of {}", answers.len());
}
