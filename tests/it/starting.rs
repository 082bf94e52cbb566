//! The real daemon whose engine is missing or held back.

use crate::reload::{Site, configure, package};
use crate::support::daemon::Daemon;
use std::path::Path;
use std::time::{Duration, Instant};

#[test]
fn a_box_without_its_engine_serves_once_a_reload_finds_one() {
    let home = tempfile::tempdir().unwrap();
    let folder = package(home.path(), "1.0.1", "505");
    let site = Site::start_by(Daemon::listening, home, Path::new("/no/such/engine"), &[]);
    assert_eq!(site.daemon.get("/readyz").status, 503);
    configure(site.home.path(), &folder);
    site.reload();
    assert!(site.reloaded().contains("the engine loaded anew"), "{}", site.reloaded());
    assert_eq!(site.daemon.get("/readyz").status, 200);
}

#[test]
fn after_three_broken_off_runs_the_engine_is_left_alone_until_a_reload() {
    let home = tempfile::tempdir().unwrap();
    let folder = package(home.path(), "1.0.1", "505");
    let runtime = home.path().join("run");
    std::fs::create_dir(&runtime).unwrap();
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    std::fs::write(runtime.join("exits"), format!("{up}\n{up}\n")).unwrap();
    std::fs::write(runtime.join("running"), "1").unwrap();
    let runtime = runtime.to_str().unwrap().to_owned();
    let more = [("RUNTIME_DIRECTORY", runtime.as_str())];
    let site = Site::start_by(Daemon::listening, home, &folder, &more);
    let health = || site.daemon.get("/api/segmentation/sam2/health").text();
    let until = Instant::now() + Duration::from_secs(30);
    while !health().contains("manual-only") {
        assert!(Instant::now() < until, "{}", health());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(site.log().contains("3 runs within 10 minutes did not end by themselves"));
    site.reload();
    assert_eq!(site.daemon.get("/readyz").status, 200, "{}", health());
}
