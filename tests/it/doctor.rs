//! What `sam2d doctor` says of folders, engine, ports and addresses that are not as they should be.

use crate::reload::package;
use crate::support::daemon::{cache, sam2d, state};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

fn doctor(home: &Path, environment: &[(&str, &str)]) -> (String, Option<i32>) {
    let mut command = sam2d(home);
    command.args(["doctor"]).env("SAM2D_HTTP__LISTEN", "[\"127.0.0.1:0\"]");
    let done = command.envs(environment.iter().copied()).output().unwrap();
    (String::from_utf8(done.stdout).unwrap(), done.status.code())
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn doctor_finds_open_folders_a_full_disk_a_writable_engine_and_too_many_threads() {
    let home = tempfile::tempdir().unwrap();
    let engine = package(home.path(), "1.0.1", "505");
    for folder in [state(home.path()), cache(home.path())] {
        std::fs::create_dir(&folder).unwrap();
        mode(&folder, 0o700);
    }
    let engine_path = ("SAM2D_ENGINE__PATH", engine.to_str().unwrap());
    mode(&engine, 0o755);
    let words = [
        "the state folder",
        "can be entered by other users",
        "less than cache.min_free_bytes",
        "can be written by others",
        "engine.cpu_threads is 500",
    ];
    let (fine, code) = doctor(home.path(), &[engine_path]);
    assert_eq!(code, Some(0), "{fine}");
    assert!(words.iter().skip(1).all(|words| !fine.contains(words)), "{fine}");
    mode(&state(home.path()), 0o750);
    mode(&engine, 0o777);
    let more = [
        engine_path,
        ("SAM2D_CACHE__MIN_FREE_BYTES", "9000000000000000000"),
        ("SAM2D_ENGINE__CPU_THREADS", "500"),
    ];
    let (bad, code) = doctor(home.path(), &more);
    assert_eq!(code, Some(1), "{bad}");
    for words in words {
        assert!(bad.contains(words), "{words}: {bad}");
    }
    mode(&engine, 0o755);
}

#[test]
fn doctor_finds_a_port_that_is_another_program_s_and_an_address_open_to_all() {
    let home = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    std::thread::spawn(move || other.incoming().for_each(drop));
    let listen = format!("[\"{address}\"]");
    let (words, code) = doctor(home.path(), &[("SAM2D_HTTP__LISTEN", &listen)]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains(&format!("{address} is taken by another program")), "{words}");
    let (words, code) = doctor(home.path(), &[("SAM2D_HTTP__LISTEN", "[\"0.0.0.0:0\"]")]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("nothing says who may ask"), "{words}");
}
