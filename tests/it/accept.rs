//! `sam2d accept` against the real daemon: it passes where all is well, and says what is not.

use crate::support::daemon::{Daemon, done, sam2d, state};
use std::path::Path;
use std::process::{Command, Stdio};

/// The daemon with the embedded engine, whose golden picture and clicks acceptance knows.
fn embedded(home: &Path) -> Command {
    let mut command = sam2d(home);
    command.stderr(Stdio::null());
    command
}

/// The report, and the exit code.
fn accept(home: &Path, arguments: &[&str]) -> (String, Option<i32>) {
    let output = done(home, &[&["accept"][..], arguments].concat());
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8(text).unwrap(), output.status.code())
}

#[test]
fn a_daemon_that_works_passes_and_nothing_that_answers_fails() {
    let home = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_configured(&mut embedded(home.path()));
    let url = format!("http://{}", daemon.address);
    let (report, code) = accept(home.path(), &["--url", &url]);
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("result: **passed**"), "{report}");
    // Health, JSON, form from the cache, DICOM, refusal; systemd and TLS are not here.
    assert_eq!(report.matches("| passed |").count(), 5, "{report}");
    let file = home.path().join("report.md");
    let (_, code) = accept(home.path(), &["--url", &url, "--out", file.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert!(std::fs::read_to_string(file).unwrap().contains("Not for diagnostic use"));
    drop(daemon);
    let (report, code) = accept(home.path(), &["--url", &url]);
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("result: **FAILED**"), "{report}");
}

#[test]
fn a_daemon_without_its_engine_fails_in_its_health_too() {
    let home = tempfile::tempdir().unwrap();
    let mut command = embedded(home.path());
    command.env("SAM2D_ENGINE__PATH", "/no/such/engine");
    let daemon = Daemon::listening(&mut command);
    let (report, code) = accept(home.path(), &["--url", &format!("http://{}", daemon.address)]);
    assert_eq!(code, Some(1), "{report}");
    let health = report.lines().find(|line| line.to_lowercase().starts_with("| health"));
    assert!(health.is_some_and(|line| line.contains("**FAILED**")), "{report}");
}

#[test]
fn a_cache_that_is_off_is_found() {
    let home = tempfile::tempdir().unwrap();
    let mut command = embedded(home.path());
    let daemon = Daemon::start_configured(
        command
            .env("SAM2D_CACHE__ENABLED", "false")
            .env("SAM2D_SEGMENT__RECENT_ANSWERS_BYTES", "0"),
    );
    let (report, code) = accept(home.path(), &["--url", &format!("http://{}", daemon.address)]);
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("it was not cached"), "{report}");
    assert_eq!(report.matches("**FAILED** |").count(), 1, "{report}");
}

#[test]
fn by_tls_the_certificate_must_come_from_the_authority_given() {
    let home = tempfile::tempdir().unwrap();
    let made = done(home.path(), &["cert", "init", "--name", "localhost"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = embedded(home.path());
    command.env("SAM2D_TLS__LISTEN", format!("[\"127.0.0.1:{port}\"]"));
    let _daemon = Daemon::start_configured(&mut command);
    let url = format!("https://localhost:{port}");
    let own = state(home.path()).join("tls/ca.pem");
    let (report, code) = accept(home.path(), &["--url", &url, "--ca", own.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("| TLS | passed |"), "{report}");
    let other = tempfile::tempdir().unwrap();
    let made = done(other.path(), &["cert", "init", "--name", "localhost"]);
    assert!(made.status.success());
    let other = state(other.path()).join("tls/ca.pem");
    let (report, code) = accept(home.path(), &["--url", &url, "--ca", other.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{report}");
    let (words, code) = accept(home.path(), &["--url", &url]);
    assert_eq!(code, Some(1));
    assert!(words.contains("--ca"), "{words}");
}
