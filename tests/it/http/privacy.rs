//! What identifies someone is nowhere but in the answer to whoever sent it.
//!
//! The daemon itself runs here, as a process of its own that logs all it can, with one canary string
//! in every place where a client could put a name. Then everything that it wrote is searched.

use super::{base64, one_click};
use crate::support::dicom::Ct;
use crate::support::wire::{FORM, form, request};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CANARY: &str = "Kanarienvogel";

struct Daemon {
    child: Child,
    address: String,
}

impl Daemon {
    fn start(home: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sam2d"))
            .args(["serve", "--listen", "127.0.0.1:0"])
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

    /// No core file of it, of whatever size its starter allowed, and of no child of it.
    fn is_not_dumped(&self) {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for pid in format!("{pid} {}", children.unwrap_or_default()).split_whitespace() {
            // A child may have ended in between.
            if let Ok(limits) = std::fs::read_to_string(format!("/proc/{pid}/limits")) {
                let core = limits.lines().find(|line| line.starts_with("Max core file size"));
                let words: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
                assert_eq!(words.get(4..6), Some(&["0", "0"][..]), "{pid}: {limits}");
            }
        }
    }

    /// The arguments of the daemon and of its children.
    fn arguments(&self) -> String {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let all = format!("{pid} {}", children.unwrap_or_default());
        let lines = all
            .split_whitespace()
            .filter_map(|pid| std::fs::read(format!("/proc/{pid}/cmdline")).ok());
        lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files below a folder that hold the canary, or are named by it.
fn tainted(folder: &Path, found: &mut Vec<String>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tainted(&path, found);
        } else {
            let bytes = std::fs::read(&path).unwrap_or_default();
            let inside = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
            if inside || path.to_string_lossy().contains(CANARY) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[test]
fn a_canary_in_every_identifying_place_is_found_nowhere() {
    let home = tempfile::tempdir().unwrap();
    for folder in ["state", "cache", "inbox", "tmp"] {
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
    assert!(!figures.to_lowercase().contains(&CANARY.to_lowercase()), "{figures}");
    arguments += &daemon.arguments();
    assert!(arguments.contains("sam2d") && !arguments.contains(CANARY), "{arguments}");

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

    let log = std::fs::read_to_string(home.path().join("log")).unwrap();
    assert!(log.matches("request_id=").count() > 15, "{log}");
    assert!(log.to_lowercase().find(&CANARY.to_lowercase()).is_none(), "{log}");
    // The inbox is the operator's; it held the canary to begin with.
    std::fs::remove_dir_all(&inbox).unwrap();
    let mut found = Vec::new();
    tainted(home.path(), &mut found);
    assert_eq!(found, Vec::<String>::new());
}
