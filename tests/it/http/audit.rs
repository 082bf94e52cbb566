//! Who did what: what requests leave in the trail, and what a full disk does to them.

use super::{SEGMENT, base64, one_click};
use crate::support::engine::load_seeded;
use crate::support::wire::Served;
use crate::support::{Setup, disc_png, service};
use sam2d::access::keeper::Keeper;
use sam2d::access::{self, Tokens};
use sam2d::audit::record::Record;
use sam2d::audit::{self, Audit, Kind, WhenFull};
use sam2d::http::Options;
use sam2d::http::server::Server;
use serde_json::json;
use std::path::Path;

const ENCODES: &str = "sam2d_engine_calls_total{kind=\"encode\"}";

async fn served(folder: &Path, when_full: WhenFull) -> (Served, Audit) {
    let options = audit::Options { when_full, ..audit::Options::default() };
    let audit = Audit::start(&options, folder).unwrap();
    let access = access::Options { tokens: Tokens::On, ..access::Options::default() };
    let keeper = Keeper::open(&access, &folder.join("tokens.toml")).unwrap();
    let options = Options {
        listen: vec![([127, 0, 0, 1], 0).into()],
        anonymous_networks: vec!["127.0.0.1".parse().unwrap()],
        ..Options::default()
    };
    let server = Server::bind(&options).await.unwrap();
    let server = server.with_tokens(keeper, &access).with_audit(audit.clone());
    (Served::serve(server, service(Setup::default(), load_seeded).await), audit)
}

fn asked(patient: &str) -> String {
    asked_of(64, patient)
}

/// Of a picture so wide.
fn asked_of(width: u32, patient: &str) -> String {
    let mut body = one_click();
    body["image_data"] = json!(base64(&disc_png(width, 48)));
    body["image_type"] = json!("L3");
    body["patient_id"] = json!(patient);
    body.to_string()
}

fn records(folder: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(folder.join("trail-000001.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn every_segmentation_and_refusal_is_one_record_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let (served, audit) = served(folder.path(), WhenFull::Stop).await;
    let good = served.json(SEGMENT, &asked("Kanarienvogel^Hans")).await;
    assert_eq!(good.status, 200, "{}", good.text());
    let bad = served.json(SEGMENT, "{}").await;
    assert_eq!(bad.status, 400);
    assert_eq!(served.get("/livez").await.status, 200);
    assert_eq!(served.get("/nothing").await.status, 404);
    assert_eq!(served.ask("GET", "/livez", &[("Host", "evil.example")], b"").await.status, 421);
    let stranger = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    let wrong = [&stranger[..], b"Authorization: Bearer wrong\r\n\r\n"].concat();
    let without = [&stranger[..], b"\r\n"].concat();
    for request in [wrong, without] {
        assert_eq!(served.raw_from([127, 0, 0, 7], &request).await[0].status, 401);
    }
    audit.finish();
    let records = records(folder.path());
    let told: Vec<_> = records.iter().map(|r| (r.event, &*r.who, &*r.outcome)).collect();
    assert_eq!(
        told,
        [
            (Kind::Segment, "network", "ok"),
            (Kind::Segment, "network", "invalid_request"),
            (Kind::Refusal, "stranger", "wrong_host"),
            (Kind::LoginFailure, "stranger", "unauthorized"),
            (Kind::Refusal, "stranger", "unauthorized"),
        ]
    );
    let first = &records[0];
    assert_eq!(first.request_id.as_deref(), good.header("x-request-id"));
    assert_eq!(first.image.as_deref(), good.value()["image"]["id"].as_str());
    assert_eq!(
        (first.from.as_deref(), records[3].from.as_deref()),
        (Some("127.0.0.1"), Some("127.0.0.7"))
    );
    assert_eq!(first.patient.as_ref().map(String::len), Some(32));
    let text = std::fs::read_to_string(folder.path().join("trail-000001.jsonl")).unwrap();
    assert!(!text.contains("Kanarienvogel") && !text.contains("wrong\""), "{text}");
}

#[tokio::test]
async fn a_full_audit_disk_stops_segmenting_where_that_is_asked_for() {
    for (when_full, status) in [(WhenFull::Stop, 503), (WhenFull::Go, 200)] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trail-000001.jsonl");
        std::os::unix::fs::symlink("/dev/full", &file).unwrap();
        let (served, audit) = served(folder.path(), when_full).await;
        for _ in 0..2 {
            let answer = served.json(SEGMENT, &asked("x")).await;
            assert_eq!(answer.status, status, "{}", answer.text());
            if status == 503 {
                assert_eq!(answer.code(), "audit_unavailable");
                assert!(!answer.text().contains("mask_data"));
            }
        }
        // With `go` nobody waits for the trail: what it says and counts comes a moment later.
        let said = async {
            let trouble = "the audit trail can't be written";
            while !served.get("/api/segmentation/sam2/health").await.text().contains(trouble) {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), said).await.unwrap();
        if when_full == WhenFull::Stop {
            assert!(served.metric("sam2d_audit_records_total{kind=\"lost\"}").await >= 2.0);
            // Known to fail: what can't be recorded isn't begun.
            let encodes = served.metric(ENCODES).await;
            assert_eq!(served.json(SEGMENT, &asked_of(65, "x")).await.status, 503);
            assert!(encodes >= 1.0 && served.metric(ENCODES).await <= encodes);
        }
        std::fs::remove_file(&file).unwrap();
        // The next request finds room; with `stop` it is still refused, and the one after it served.
        let _ = served.json(SEGMENT, &asked("x")).await;
        assert_eq!(served.json(SEGMENT, &asked("x")).await.status, 200);
        audit.finish();
        let health = served.get("/api/segmentation/sam2/health").await.text();
        assert!(!health.contains("audit"), "{health}");
    }
}

fn sam2d(home: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sam2d"));
    let done = command.args(arguments).arg("--state-dir").arg(home).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    (done.status.code().unwrap_or(-1), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn a_cut_is_found_from_the_command_line() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("audit");
    let (served, audit) = served(&folder, WhenFull::Stop).await;
    for n in 0..3 {
        assert_eq!(served.json(SEGMENT, &asked(&n.to_string())).await.status, 200);
    }
    let (code, said) = sam2d(home.path(), &["audit", "verify"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.starts_with("right: 3 records in 1 files"), "{said}");
    audit.finish();
    let file = folder.join("trail-000001.jsonl");
    let whole = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<_> = whole.lines().collect();
    lines.remove(1);
    std::fs::write(&file, lines.join("\n") + "\n").unwrap();
    let (code, said) = sam2d(home.path(), &["audit", "verify"]);
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("record 3 stands where 2 belongs") && said.contains("NOT AS IT"),
        "{said}"
    );
}
