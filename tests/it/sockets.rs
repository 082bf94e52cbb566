//! Sockets that systemd opened, handed over as sd_listen_fds(3) says.

use crate::support::daemon::{Daemon, sam2d};
use crate::support::{disc_png, seeded};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// The daemon with this socket as its third file, which is the first that systemd hands over.
fn handed(home: &Path, socket: impl Into<OwnedFd>) -> Command {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$@\" 3<&0 </dev/null";
    let socket: OwnedFd = socket.into();
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_sam2d"), "serve", "--engine"]).arg(seeded());
    for (name, value) in sam2d(home).get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.stdin(Stdio::from(socket)).stderr(Stdio::piped());
    command
}

/// The words and the exit code of a daemon that does not come up.
fn refused(home: &Path, socket: impl Into<OwnedFd>) -> (String, Option<i32>) {
    let output = handed(home, socket).args(["--listen", "127.0.0.1:0"]).output().unwrap();
    (String::from_utf8(output.stderr).unwrap(), output.status.code())
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().map(|c| c.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// Has this process the socket with that inode open?
fn has_open(pid: u32, inode: u64) -> bool {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let wanted = format!("socket:[{inode}]");
    files
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|link| link == Path::new(&wanted))
}

#[test]
fn a_socket_handed_over_is_served_instead_of_the_configured_one_and_no_child_has_it() {
    let home = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let held = OwnedFd::from(socket);
    let file = format!("/proc/self/fd/{}", held.as_raw_fd());
    let inode = std::fs::metadata(file).unwrap().ino();
    let daemon = Daemon::start_configured(&mut handed(home.path(), held));
    assert_eq!(daemon.address, address);
    let answer = daemon.segment(&[
        ("file", &disc_png(96, 80)),
        ("image_type", b"auto"),
        ("click_points", br#"[{"x":48,"y":40,"label":1}]"#),
    ]);
    assert_eq!(answer.status, 200);
    assert!(has_open(daemon.pid(), inode), "the test looks for the wrong inode");
    let children = children(daemon.pid());
    assert!(!children.is_empty(), "no decoder child waits");
    for child in children {
        assert!(!has_open(child, inode), "a decoder child could answer in our name");
    }
    assert_eq!(daemon.stop(), Some(0));
}

#[test]
fn a_socket_that_others_reach_needs_a_rule_for_who_may_ask() {
    let home = tempfile::tempdir().unwrap();
    let (words, code) = refused(home.path(), TcpListener::bind("0.0.0.0:0").unwrap());
    assert_eq!(code, Some(78), "{words}");
    assert!(words.contains("nothing says who may ask"), "{words}");
}

#[test]
fn a_socket_that_is_no_listening_stream_is_refused_with_what_the_unit_takes() {
    let home = tempfile::tempdir().unwrap();
    let (words, code) = refused(home.path(), UdpSocket::bind("127.0.0.1:0").unwrap());
    assert_eq!(code, Some(78), "{words}");
    assert!(words.contains("ListenStream="), "{words}");
}
