//! What identifies someone is nowhere but in the answer to whoever sent it.
//!
//! The daemon itself runs here, as a process of its own that logs all it can, with one canary string
//! in every place where a client could put a name. Then everything that it wrote is searched, and
//! what it leaves when it crashes, and what `doctor --bundle` takes along. The search itself is held
//! to finding what is planted.

use super::{base64, one_click};
use crate::support::dicom::Ct;
use crate::support::wire::{FORM, form, request};
use serde_json::json;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

const CANARY: &str = "Kanarienvogel";

struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    fn start(home: &Path) -> Self {
        // Who starts it would take a core file of any size, here.
        let mut child = Command::new("sh")
            .args([
                "-c",
                "ulimit -c $(ulimit -H -c); exec \"$0\" \"$@\"",
                env!("CARGO_BIN_EXE_sam2d"),
            ])
            .args(["serve", "--listen", "127.0.0.1:0"])
            .current_dir(home.join("work"))
            .arg("--state-dir")
            .arg(home.join("state"))
            .arg("--cache-dir")
            .arg(home.join("cache"))
            .env("SAM2D_LOG__LEVEL", "trace")
            .env("SAM2D_INBOX__PATH", home.join("inbox"))
            .env("TMPDIR", home.join("tmp"))
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(home.join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = lines
            .find_map(|line| Some(line.unwrap().strip_prefix("listening on http://")?.to_owned()))
            .unwrap();
        // Its later words go to the log's end with everything else.
        let mut rest = std::fs::File::create(home.join("said")).unwrap();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = writeln!(rest, "{line}");
            }
        });
        Self { child, address }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.write_all(&request(method, path, headers, Some(body.len()))).unwrap();
        let _ = stream.write_all(body);
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        String::from_utf8_lossy(&all).into_owned()
    }

    /// It and its children, whichever of its threads started them.
    fn processes(&self) -> Vec<String> {
        let pid = self.child.id();
        let mut all = vec![pid.to_string()];
        for task in Path::new(&format!("/proc/{pid}/task")).read_dir().unwrap() {
            let children = std::fs::read_to_string(task.unwrap().path().join("children"));
            all.extend(children.unwrap_or_default().split_whitespace().map(str::to_owned));
        }
        assert!(all.len() > 1, "no decoder child stands ready");
        all
    }

    /// No core file of it, of whatever size its starter allowed, and of no child of it.
    fn is_not_dumped(&self) {
        for pid in self.processes() {
            // A child may have ended in between.
            if let Ok(limits) = std::fs::read_to_string(format!("/proc/{pid}/limits")) {
                let core = limits.lines().find(|line| line.starts_with("Max core file size"));
                let words: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
                assert_eq!(words.get(4..6), Some(&["0", "0"][..]), "{pid}: {limits}");
            }
        }
    }

    /// The arguments and the environment of the daemon and of its children.
    fn arguments(&self) -> String {
        let files = |pid: &String| ["cmdline", "environ"].map(|name| format!("/proc/{pid}/{name}"));
        let all = self.processes();
        let read = all.iter().flat_map(files).filter_map(|path| std::fs::read(path).ok());
        read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    fn end(mut self, signal: rustix::process::Signal) -> ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The canary as it could be written: in any case, in UTF-16, in hexadecimal, in base64 wherever in
/// a text it stands.
fn forms() -> Vec<Vec<u8>> {
    let small = CANARY.to_lowercase();
    let mut forms = vec![small.clone().into_bytes()];
    forms.push(small.bytes().flat_map(|byte| [byte, 0]).collect());
    forms.push(CANARY.bytes().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect());
    for shift in 0..3 {
        let padded = [&b"000"[..shift], CANARY.as_bytes()].concat();
        let text = base64(&padded).to_lowercase();
        // What depends on its neighbours is left out.
        forms.push(text.as_bytes()[if shift == 0 { 0 } else { 4 }..padded.len() / 3 * 4].to_vec());
    }
    forms
}

fn holds(bytes: &[u8]) -> bool {
    let bytes = bytes.to_ascii_lowercase();
    forms().iter().any(|form| bytes.windows(form.len()).any(|window| window == form))
}

/// Files below a folder that hold the canary, or are named by it; and how many there are.
fn tainted(folder: &Path, found: &mut Vec<String>) -> usize {
    let mut files = 0;
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if holds(path.file_name().unwrap().as_encoded_bytes()) {
            found.push(path.display().to_string());
        }
        if path.is_dir() {
            files += tainted(&path, found);
        } else {
            files += 1;
            // A socket can't be read.
            if holds(&std::fs::read(&path).unwrap_or_default()) {
                found.push(path.display().to_string());
            }
        }
    }
    files
}

#[test]
fn the_search_finds_a_canary_wherever_it_is_planted() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("a/b")).unwrap();
    let mut expected = 0;
    let mut plant = |name: &str, bytes: &[u8], count: usize| {
        std::fs::write(home.path().join(name), bytes).unwrap();
        expected += count;
    };
    plant("clean", b"Kanarien vogel, Kanarienvoge", 0);
    plant("a/plain", b"x\0KANARIENvogel\0", 1);
    plant("a/b/Kanarienvogel.x", b"", 1);
    plant(
        "a/b/utf16",
        "Kanarienvogel".encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>().as_slice(),
        1,
    );
    plant("hex", b"4b616e617269656e766f67656c", 1);
    for (name, text) in
        [("0", "Kanarienvogel^Hans"), ("1", "\"Kanarienvogel\""), ("2", "..Kanarienvogel..")]
    {
        plant(name, base64(text.as_bytes()).as_bytes(), 1);
    }
    let mut found = Vec::new();
    assert_eq!(tainted(home.path(), &mut found), 8);
    assert_eq!(found.len(), expected, "{found:?}");
}

#[test]
fn a_canary_in_every_identifying_place_is_found_nowhere() {
    let home = tempfile::tempdir().unwrap();
    for folder in ["state", "cache", "inbox", "tmp", "work", "bin"] {
        std::fs::create_dir(home.path().join(folder)).unwrap();
    }
    let ct = Ct { patient: "Kanarienvogel^Hans", ..Ct::default() }.bytes();
    let inbox = home.path().join("inbox");
    std::fs::write(inbox.join("Kanarienvogel.dcm"), &ct).unwrap();
    let daemon = Daemon::start(home.path());
    // Until the engine is there; each try is a request like any other.
    let path = format!("/api/segmentation/sam2?patient={CANARY}");
    let ids = [
        ("X-Request-Id", CANARY),
        ("X-Correlation-Id", CANARY),
        ("Referer", "https://pacs.example/Kanarienvogel"),
        ("User-Agent", CANARY),
        ("Cookie", CANARY),
        ("Authorization", "Bearer Kanarienvogel"),
        ("X-Forwarded-For", "Kanarienvogel"),
    ];
    let json = ("Content-Type", "application/json");
    let mut answered = String::new();
    for _ in 0..300 {
        let mut body = one_click();
        body["image_data"] = json!(base64(&ct));
        body["image_type"] = json!("middle");
        body["patient_id"] = json!(CANARY);
        body["slice_index"] = json!(CANARY);
        let headers = [&ids[..], &[json]].concat();
        answered = daemon.ask("POST", &path, &headers, body.to_string().as_bytes());
        if !answered.contains("engine_unavailable") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
    assert_eq!(answered.matches(CANARY).count(), 2, "the echo, and no more: {answered}");
    let mut arguments = daemon.arguments();

    let form_headers = [("Content-Type", FORM)];
    let mut parts: Vec<(&str, &[u8])> = vec![
        ("file", &ct),
        ("patient_id", CANARY.as_bytes()),
        ("slice_index", CANARY.as_bytes()),
        (CANARY, CANARY.as_bytes()),
    ];
    let whole = String::from_utf8_lossy(&form(&parts)).replace("Canary^Name", CANARY);
    assert!(whole.contains(&format!("filename=\"{CANARY}.dcm\"")));
    let taken = daemon.ask("POST", &path, &form_headers, &form(&parts));
    assert!(taken.starts_with("HTTP/1.1 200"), "{taken}");
    parts.remove(0);
    let named = form(&[("image", &ct)]);
    let named = [&b"--part\r\nContent-Disposition: form-data; name=\"file\"; filename=\"Kanarienvogel.dcm\"\r\n\r\n"[..], &ct, b"\r\n", &named].concat();
    daemon.ask("POST", &path, &form_headers, &named);
    daemon.ask("POST", &path, &form_headers, &form(&parts));
    let reference = format!("file:{CANARY}.dcm");
    for image in [
        &*reference,
        "file:Kanarienvogel/none.dcm",
        "image:Kanarienvogel",
        "https://Kanarienvogel/x",
        "Kanarienvogel!",
    ] {
        let body = json!({ "image_data": image, "image_type": "L3", "patient_id": CANARY });
        let answer = daemon.ask("POST", &path, &[json], body.to_string().as_bytes());
        let ok = image == reference;
        assert_eq!(answer.starts_with("HTTP/1.1 200"), ok, "{image}: {answer}");
        assert_eq!(answer.matches(CANARY).count(), usize::from(ok), "{image}: {answer}");
    }
    for body in [
        r#"{"Kanarienvogel":1}"#,
        r#"{"image_type":"Kanarienvogel","image_data":"aGk="}"#,
        r#"{"image_data":"aGk=","image_type":"L3","box":"Kanarienvogel"}"#,
        r#""Kanarienvogel""#,
        "Kanarienvogel",
    ] {
        daemon.ask("POST", &path, &[json], body.as_bytes());
    }
    daemon.ask("GET", "/Kanarienvogel/x?y=Kanarienvogel", &ids, b"");
    daemon.ask("GET", "/api/segmentation/masks/Kanarienvogel.png", &ids, b"");
    daemon.ask("KANARIENVOGEL", "/", &[], b"");
    daemon.ask("Kanarienvogel", "/Kanarienvogel", &[("Host", "Kanarienvogel.example")], b"");
    daemon.ask("GET", "/", &[("Origin", "https://Kanarienvogel.example")], b"");
    daemon.ask("GET", "/", &[("Kanarienvogel\n", CANARY)], b"");
    let figures = daemon.ask("GET", "/metrics", &[], b"");
    assert!(figures.contains("sam2d_requests_total"), "{figures}");
    assert!(!holds(figures.as_bytes()), "{figures}");
    arguments += &daemon.arguments();
    assert!(arguments.contains("sam2d") && !holds(arguments.as_bytes()), "{arguments}");

    // The trail knows that somebody asked for this patient, and not who the patient is.
    let trail =
        std::fs::read_to_string(home.path().join("state/audit/trail-000001.jsonl")).unwrap();
    let hash = |id: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
        command.args(["audit", "patient", "--state-dir"]).arg(home.path().join("state"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(id.as_bytes()).unwrap();
        let said = child.wait_with_output().unwrap().stdout;
        String::from_utf8(said).unwrap().trim().to_owned()
    };
    assert!(trail.contains(&format!("\"patient\":\"{}\"", hash(CANARY))), "{trail}");
    assert!(!trail.contains(&hash("somebody else")), "{trail}");
    daemon.is_not_dumped();
    // A stop writes what still waits to be written.
    assert!(daemon.end(rustix::process::Signal::TERM).success());

    let log = std::fs::read_to_string(home.path().join("log")).unwrap();
    assert!(log.matches("request_id=").count() > 15, "{log}");
    bundled(home.path());
    // The inbox is the operator's; it held the canary to begin with.
    std::fs::remove_dir_all(&inbox).unwrap();
    let mut found = Vec::new();
    for (place, least) in [("state", 4), ("cache", 3), ("work", 0), ("tmp", 0), ("sam2d", 6)] {
        let files = tainted(&home.path().join(place), &mut found);
        assert!(files >= least, "{place}: {files}");
    }
    tainted(home.path(), &mut found);
    assert_eq!(found, Vec::<String>::new());
}

/// Has `doctor` make a bundle, with the log of this daemon for a journal, and unpacks it.
fn bundled(home: &Path) {
    let sam2d = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
        command.args(arguments).env("SAM2D_STATE__PATH", home.join("state"));
        let path = format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap());
        command.env("PATH", path).env("SAM2D_CACHE__DIR", home.join("cache"));
        command.env("SAM2D_INBOX__PATH", home.join("inbox")).output().unwrap()
    };
    let journal = home.join("bin/journalctl");
    std::fs::write(&journal, format!("#!/bin/sh\ncat {}\n", home.join("log").display())).unwrap();
    std::fs::set_permissions(&journal, Permissions::from_mode(0o755)).unwrap();
    let token = String::from_utf8(sam2d(&["token", "create", "a"]).stdout).unwrap();
    assert!(sam2d(&["cert", "init", "--name", "localhost"]).status.success());
    let file: PathBuf = home.join("bundle.tar.gz");
    sam2d(&["doctor", "--bundle", file.to_str().unwrap()]);
    let unpacked = Command::new("tar").arg("-xzf").arg(&file).current_dir(home).status();
    assert!(unpacked.unwrap().success());
    let mut all = String::new();
    for entry in home.join("sam2d").read_dir().unwrap() {
        all += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
    }
    assert!(all.contains("request_id="), "the journal is in it: {all}");
    let secret = token.trim().rsplit('_').next().unwrap();
    assert!(secret.len() > 20 && !all.contains(secret));
    assert!(!all.contains("PRIVATE KEY") && !all.contains("argon2"));
}

#[test]
fn a_daemon_that_crashes_leaves_no_core() {
    let home = tempfile::tempdir().unwrap();
    for folder in ["state", "cache", "inbox", "tmp", "work"] {
        std::fs::create_dir(home.path().join(folder)).unwrap();
    }
    let status = Daemon::start(home.path()).end(rustix::process::Signal::ABORT);
    assert_eq!(status.signal(), Some(6), "{status}");
    assert!(!status.core_dumped(), "{status}");
    let left: Vec<_> = home.path().join("work").read_dir().unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    // Another program, started in the same way, would have left one; where the machine lets any.
    let other = Command::new("sh")
        .args(["-c", "ulimit -c $(ulimit -H -c); exec sh -c 'kill -ABRT $$'"])
        .current_dir(home.path().join("work"))
        .status();
    if !other.unwrap().core_dumped() {
        crate::support::skip("core", "this machine writes no core files at all");
    }
}
