//! The cache of the real binary: what outlives a restart, and `sam2d cache …` with a daemon and
//! without.

use crate::support::daemon::{Daemon, cache, done, sam2d, state};
use crate::support::disc_png;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

const CLICK: &[u8] = br#"[{"x":48,"y":40,"label":1}]"#;
const OTHER_CLICK: &[u8] = br#"[{"x":30,"y":30,"label":1}]"#;
const ENCODES: &str = r#"sam2d_engine_calls_total{kind="encode"}"#;

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn json(output: &Output) -> Vec<serde_json::Value> {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn click(daemon: &Daemon, points: &[u8]) -> serde_json::Value {
    let png = disc_png(96, 80);
    let parts = [("file", &*png), ("image_type", b"auto"), ("click_points", points)];
    let answer = daemon.segment(&parts);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.value()
}

/// One click, and all that it leaves on disk: answer, embedding, two slice records.
fn filled(home: &Path) -> Daemon {
    let daemon = Daemon::start(home);
    click(&daemon, CLICK);
    for (kind, least) in [("answer", 1), ("embedding", 1), ("slice", 2)] {
        daemon.wait_for(&format!("sam2d_cache_puts_total{{kind=\"{kind}\"}}"), least);
    }
    daemon
}

fn files(home: &Path) -> Vec<PathBuf> {
    fn under(path: &Path, into: &mut Vec<PathBuf>) {
        for item in std::fs::read_dir(path).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() { under(&path, into) } else { into.push(path) }
        }
    }
    let mut files = vec![];
    under(&cache(home).join("v1"), &mut files);
    files
}

#[test]
fn the_first_click_after_a_restart_runs_no_encoder_and_a_repeated_one_no_engine() {
    let home = tempfile::tempdir().unwrap();
    let daemon = filled(home.path());
    let before = click(&daemon, CLICK);
    assert_eq!(daemon.metric(ENCODES), 1);
    assert_eq!(daemon.stop(), Some(0));
    let daemon = Daemon::start(home.path());
    let repeated = click(&daemon, CLICK);
    assert_eq!(repeated["cached"], true);
    assert_eq!(repeated["mask_data"], before["mask_data"]);
    assert_eq!(daemon.metric(r#"sam2d_engine_calls_total{kind="decode"}"#), 0);
    let first = click(&daemon, OTHER_CLICK);
    assert_eq!((&first["cached"], &first["embedding_cached"]), (&false.into(), &true.into()));
    assert_eq!(daemon.metric(ENCODES), 0, "the encoder must not run after a restart");
    assert_eq!(daemon.metric(r#"sam2d_decoder_images_total{outcome="decoded"}"#), 0, "nor parsing");
}

#[test]
fn a_daemon_is_asked_for_numbers_and_entries_and_verifies_what_it_has() {
    let home = tempfile::tempdir().unwrap();
    let daemon = filled(home.path());
    let stat = json(&done(home.path(), &["cache", "stat", "--json"])).remove(0);
    assert_eq!(stat["daemon"]["pid"], daemon.pid());
    assert_eq!(stat["kinds"]["slice"]["entries"], 2);
    assert_eq!(stat["kinds"]["answer"]["puts"], 1);
    assert!(stat["memory"]["embeddings_bytes"].as_u64().unwrap() > 0);
    let told = done(home.path(), &["cache", "stat"]);
    let told = text(&told.stdout);
    assert!(told.contains(&format!("process {}", daemon.pid())), "{told}");
    let listed = json(&done(home.path(), &["cache", "list", "--json"]));
    assert_eq!(listed.len(), 4);
    let lines = done(home.path(), &["cache", "list"]);
    for file in files(home.path()) {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        assert!(listed.iter().any(|entry| entry["key"] == *name), "{name}");
        assert!(text(&lines.stdout).contains(&name), "{name}");
    }
    let sound = done(home.path(), &["cache", "verify"]);
    assert!(text(&sound.stdout).starts_with("4 entries are sound"), "{}", text(&sound.stdout));
    let file = files(home.path()).into_iter().find(|f| f.to_string_lossy().contains("answer"));
    let file = file.unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let damaged = done(home.path(), &["cache", "verify"]);
    assert_eq!(damaged.status.code(), Some(1));
    let told = text(&damaged.stdout);
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(told.contains(&format!("answer {name} ")) && told.contains("deleted"), "{told}");
    assert!(!file.exists());
    assert_eq!(daemon.metric(r#"sam2d_cache_bad_total{kind="answer"}"#), 1);
}

#[test]
fn a_purge_leaves_nothing_on_disk_in_memory_or_on_the_device() {
    let home = tempfile::tempdir().unwrap();
    let daemon = filled(home.path());
    let answer = click(&daemon, CLICK);
    assert_eq!(answer["cached"], true);
    let purged = done(home.path(), &["cache", "purge"]);
    let told = text(&purged.stdout);
    assert!(told.starts_with("4 entries deleted; memory and device are empty"), "{told}");
    assert_eq!(files(home.path()), Vec::<PathBuf>::new());
    assert_eq!(daemon.metric("sam2d_embeddings_bytes"), 0);
    let mask = answer["mask_id"].as_str().unwrap();
    assert_eq!(daemon.get(&format!("/api/segmentation/masks/{mask}.png")).status, 404);
    let reference = format!("image:{}", answer["image"]["id"].as_str().unwrap());
    let parts = [("image_data", reference.as_bytes()), ("click_points", CLICK)];
    assert_eq!(daemon.segment(&parts).code(), "unknown_image");
    let anew = click(&daemon, CLICK);
    assert_eq!((&anew["cached"], &anew["embedding_cached"]), (&false.into(), &false.into()));
    assert_eq!(daemon.metric(ENCODES), 2);
    assert_eq!(anew["mask_data"], answer["mask_data"]);
}

#[test]
fn without_a_daemon_the_folder_itself_is_read_and_purged() {
    let home = tempfile::tempdir().unwrap();
    let none = done(home.path(), &["cache", "stat"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none.stderr).contains("no cache in"), "{}", text(&none.stderr));
    assert!(!cache(home.path()).exists(), "looking makes nothing");
    assert_eq!(filled(home.path()).stop(), Some(0));
    assert!(!state(home.path()).join("control.sock").exists());
    let stat = json(&done(home.path(), &["cache", "stat", "--json"])).remove(0);
    assert_eq!(stat["daemon"], serde_json::Value::Null);
    assert_eq!(stat["kinds"]["slice"]["entries"], 2);
    assert_eq!(json(&done(home.path(), &["cache", "list", "--json"])).len(), 4);
    let verified = done(home.path(), &["cache", "verify"]);
    assert!(text(&verified.stdout).starts_with("4 entries are sound"));
    let purged = done(home.path(), &["cache", "purge"]);
    assert_eq!(text(&purged.stdout), "4 entries deleted\n");
    assert_eq!(files(home.path()), Vec::<PathBuf>::new());
}

#[test]
fn another_folder_than_the_daemons_is_not_taken_for_its_own() {
    let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_eq!(filled(other.path()).stop(), Some(0));
    let _daemon = filled(home.path());
    let folder = cache(other.path());
    let purged = done(home.path(), &["cache", "purge", "--cache-dir", folder.to_str().unwrap()]);
    assert_eq!(text(&purged.stdout), "4 entries deleted\n");
    assert_eq!((files(home.path()).len(), files(other.path()).len()), (4, 0));
}

/// Killed daemons leave their socket and their lock file behind.
#[test]
fn after_a_kill_the_folder_and_the_socket_are_free_again() {
    let home = tempfile::tempdir().unwrap();
    drop(filled(home.path()));
    assert!(state(home.path()).join("control.sock").exists());
    assert_eq!(json(&done(home.path(), &["cache", "list", "--json"])).len(), 4);
    let daemon = Daemon::start(home.path());
    let stat = json(&done(home.path(), &["cache", "stat", "--json"])).remove(0);
    assert_eq!(stat["daemon"]["pid"], daemon.pid());
}

#[test]
fn a_second_daemon_serves_without_the_folder_and_says_who_has_it() {
    let home = tempfile::tempdir().unwrap();
    let first = filled(home.path());
    let log = home.path().join("second.log");
    let mut command = sam2d(home.path());
    command.env("SAM2D_STATE__PATH", home.path().join("second"));
    let second = Daemon::start_logging(&mut command, &log);
    assert_eq!(click(&second, CLICK)["cached"], false, "it has no part in the first one's cache");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains(&format!("in use by process {}", first.pid())), "{said}");
    let health = second.get("/api/segmentation/sam2/health").value();
    assert_eq!(health["cache_stats"]["is_healthy"], false);
    assert!(health["warnings"].to_string().contains("no disk cache"), "{health}");
    assert_eq!(files(home.path()).len(), 4);
    let mut ask = sam2d(home.path());
    ask.env("SAM2D_CONTROL__SOCKET", home.path().join("nobody"));
    let locked = ask.args(["cache", "purge"]).output().unwrap();
    assert_eq!(locked.status.code(), Some(1));
    let said = text(&locked.stderr);
    assert!(said.contains("in use by") && said.contains("control.socket"), "{said}");
    assert_eq!(files(home.path()).len(), 4, "nothing is taken from under a daemon");
}

#[test]
fn a_cache_that_is_switched_off_is_not_ill() {
    let home = tempfile::tempdir().unwrap();
    let mut command = sam2d(home.path());
    command.env("SAM2D_CACHE__ENABLED", "false");
    let daemon = Daemon::start_logging(&mut command, &home.path().join("log"));
    click(&daemon, CLICK);
    assert_eq!(click(&daemon, CLICK)["cached"], true, "memory keeps it");
    let health = daemon.get("/api/segmentation/sam2/health").value();
    assert_eq!(health["cache_stats"]["is_healthy"], true);
    assert_eq!(health["cache_stats"]["cache_size"], 0);
    assert!(!health["warnings"].to_string().contains("cache"), "{health}");
    let listed = done(home.path(), &["cache", "list"]);
    assert!(text(&listed.stderr).contains("no cache in"), "{}", text(&listed.stderr));
    assert!(!cache(home.path()).exists());
}

/// Even where the socket's mode would let them: the kernel says who asks.
#[test]
fn another_user_is_refused_by_the_daemon_itself() {
    if !rustix::process::geteuid().is_root() {
        let reason = "only root can ask as another user";
        return crate::support::skip("another_user_is_refused_by_the_daemon_itself", reason);
    }
    let home = tempfile::tempdir().unwrap();
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let _daemon = filled(home.path());
    let socket = state(home.path()).join("control.sock");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    open(home.path(), 0o755);
    open(&state(home.path()), 0o755);
    let binary = home.path().join("sam2d");
    std::fs::copy(env!("CARGO_BIN_EXE_sam2d"), &binary).unwrap();
    let ask = || {
        let mut command = std::process::Command::new(&binary);
        command.env_clear().env("HOME", "/nonexistent").env("SAM2D_CONTROL__SOCKET", &socket);
        command.current_dir("/").uid(65534).gid(65534).args(["cache", "purge"]).output().unwrap()
    };
    let closed = ask();
    assert_eq!(closed.status.code(), Some(1));
    assert!(text(&closed.stderr).contains("control socket"), "{}", text(&closed.stderr));
    open(&socket, 0o666);
    let refused = ask();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("not user 65534"), "{}", text(&refused.stderr));
    assert_eq!(files(home.path()).len(), 4);
}
