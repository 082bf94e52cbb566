//! Who may: tokens and their scopes, named networks, trusted proxies, open routes; over real sockets.
//!
//! A client of another address is one of 127.0.0.0/8: all of it is this machine's.

use super::{SEGMENT, body, one_click};
use crate::support::engine::load_seeded;
use crate::support::wire::{Answer, Served, request};
use crate::support::{Setup, disc_png, service};
use chrono::Utc;
use sam2d::access::file::{self, Wanted};
use sam2d::access::keeper::Keeper;
use sam2d::access::{self, Scope};
use sam2d::http::Options;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const HEALTH: &str = "/api/segmentation/sam2/health";
const JSON: (&str, &str) = ("Content-Type", "application/json");

struct Box7 {
    served: Served,
    path: PathBuf,
    _folder: TempDir,
}

fn create(path: &Path, name: &str, scope: Scope) -> String {
    let wanted = Wanted { name: name.to_owned(), scopes: vec![scope], days: None };
    file::create(path, wanted, Utc::now()).unwrap().reveal()
}

impl Box7 {
    async fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(file::NAME);
        let access = access::Options {
            tokens: access::Tokens::On,
            max_failures_per_minute: 3,
            ..access::Options::default()
        };
        let keeper = Keeper::open(&access, &path).unwrap();
        let service = service(Setup::default(), load_seeded).await;
        let served = Served::start_with_tokens(service, options, keeper, &access).await;
        Self { served, path, _folder: folder }
    }

    /// Until the daemon has seen the file as it is now. Every look comes from another address: a
    /// token that is not known yet is a wrong one.
    async fn seen(&self, header: &str, status: u16) {
        let request = request("GET", HEALTH, &[("Authorization", header)], None);
        for last in 1..=200 {
            let answers = self.served.raw_from([127, 0, 1, last], &request).await;
            if answers[0].text().contains("fingerprint") == (status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("never seen");
    }

    async fn get_as(&self, header: &str, path: &str) -> Answer {
        self.served.ask("GET", path, &[("Authorization", header)], b"").await
    }

    async fn segment_as(&self, header: &str) -> Answer {
        let json = body(&disc_png(64, 48), &one_click());
        let headers = [JSON, ("Authorization", header)];
        self.served.ask("POST", SEGMENT, &headers, json.as_bytes()).await
    }

    /// A segmentation from this address, with these headers.
    async fn segment_from(&self, client: [u8; 4], headers: &[(&str, &str)]) -> u16 {
        let json = body(&disc_png(64, 48), &one_click());
        let mut whole = request("POST", SEGMENT, &[headers, &[JSON]].concat(), Some(json.len()));
        whole.extend_from_slice(json.as_bytes());
        self.served.raw_from(client, &whole).await[0].status
    }
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn a_token_s_life_from_its_creation_to_its_end() {
    let box7 = Box7::start(Options::default()).await;
    let token = create(&box7.path, "editor", Scope::Segment);
    let shown = bearer(&token);
    box7.seen(&shown, 200).await;
    let answer = box7.segment_as(&shown).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    file::revoke(&box7.path, "editor").unwrap();
    box7.seen(&shown, 401).await;
    let refused = box7.segment_as(&shown).await;
    assert_eq!((refused.status, &*refused.code()), (401, "unauthorized"));
    let challenge = refused.header("www-authenticate").unwrap();
    assert_eq!(challenge, "Bearer realm=\"sam2d\", error=\"invalid_token\"");
    assert!(!refused.text().contains(&token));
}

#[tokio::test]
async fn without_a_token_only_the_open_routes_answer() {
    let box7 = Box7::start(Options::default()).await;
    for path in ["/livez", "/readyz", "/health", "/", "/client.js", "/openapi.json", HEALTH] {
        assert_eq!(box7.served.get(path).await.status, 200, "{path}");
    }
    let reduced = box7.served.get(HEALTH).await.text();
    assert_eq!(reduced, r#"{"enabled":true,"available":true,"mode":"sam2"}"#);
    let mask = format!("/api/segmentation/masks/{}.png", "0".repeat(64));
    for (method, path) in [
        ("POST", SEGMENT),
        ("POST", "/api/ctai/api/segmentation/sam2"),
        ("POST", "/api/segmentation/sam2/embed"),
        ("POST", "/api/segmentation/preview"),
        ("POST", "/segment"),
        ("GET", &mask),
        ("GET", "/metrics"),
    ] {
        let answer = box7.served.ask(method, path, &[], b"").await;
        assert_eq!((answer.status, &*answer.code()), (401, "unauthorized"), "{path}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"sam2d\""));
    }
}

#[tokio::test]
async fn a_scope_is_what_a_token_is_good_for_and_no_more() {
    let box7 = Box7::start(Options::default()).await;
    for (scope, segment, metrics) in
        [(Scope::Segment, 200, 403), (Scope::Metrics, 403, 200), (Scope::Admin, 200, 200)]
    {
        let shown = bearer(&create(&box7.path, scope.as_str(), scope));
        box7.seen(&shown, 200).await;
        let segmented = box7.segment_as(&shown).await;
        assert_eq!(segmented.status, segment, "{scope}: {}", segmented.text());
        let figures = box7.get_as(&shown, "/metrics").await;
        assert_eq!(figures.status, metrics, "{scope}");
        for refused in [segmented, figures].iter().filter(|answer| answer.status == 403) {
            assert_eq!(refused.code(), "forbidden");
            assert!(refused.header("www-authenticate").unwrap().contains("insufficient_scope"));
        }
    }
}

#[tokio::test]
async fn only_the_authorization_header_carries_a_token() {
    let box7 = Box7::start(Options::default()).await;
    let token = create(&box7.path, "editor", Scope::Segment);
    box7.seen(&bearer(&token), 200).await;
    let from = [127, 0, 0, 9];
    for headers in [
        vec![("Cookie", format!("token={token}"))],
        vec![("X-Api-Key", token.clone())],
        vec![("Authorization", token.clone())],
        vec![("Authorization", format!("Basic {token}"))],
        vec![("Authorization", bearer(&token)), ("Authorization", bearer(&token))],
    ] {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let status = box7.segment_from(from, &headers).await;
        assert!([401, 429].contains(&status), "{headers:?}: {status}");
    }
    let query = format!("{SEGMENT}?access_token={token}");
    assert_eq!(box7.served.ask("POST", &query, &[], b"").await.status, 401);
    let lower = format!("bearer  {token} ");
    assert_eq!(box7.segment_as(&lower).await.status, 200, "RFC 7235: the scheme has no case");
}

#[tokio::test]
async fn who_guesses_too_often_is_429_while_right_tokens_go_on() {
    let box7 = Box7::start(Options::default()).await;
    let token = create(&box7.path, "editor", Scope::Segment);
    let shown = bearer(&token);
    box7.seen(&shown, 200).await;
    let guess = |n: u32| {
        let (head, _) = token.split_at(token.len() - 8);
        [("Authorization", format!("Bearer {head}{n:08x}"))]
    };
    let guesser = [127, 0, 0, 66];
    let mut statuses = Vec::new();
    for n in 0..5 {
        let headers = guess(n);
        let headers = [(headers[0].0, &*headers[0].1)];
        statuses.push(box7.segment_from(guesser, &headers).await);
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429]);
    // The reduced health is no way round: wrong and right look the same to who is held off.
    let right = [("Authorization", &*shown)];
    assert_eq!(box7.segment_from(guesser, &right).await, 200, "a proven token costs nothing");
    assert_eq!(box7.segment_from([127, 0, 0, 67], &right).await, 200);
    let text = box7.get_as(&bearer(&create_metrics(&box7).await), "/metrics").await.text();
    assert!(text.contains("sam2d_login_failures_total{kind=\"throttled\"} 2"), "{text}");
}

async fn create_metrics(box7: &Box7) -> String {
    let token = create(&box7.path, "prometheus", Scope::Metrics);
    box7.seen(&bearer(&token), 200).await;
    token
}

#[tokio::test]
async fn named_networks_need_no_token_and_this_machine_does() {
    let networks = vec!["127.0.0.16/28".parse().unwrap()];
    let box7 = Box7::start(Options { anonymous_networks: networks, ..Options::default() }).await;
    assert_eq!(box7.segment_from([127, 0, 0, 17], &[]).await, 200);
    assert_eq!(box7.segment_from([127, 0, 0, 32], &[]).await, 401);
    assert_eq!(box7.segment_from([127, 0, 0, 1], &[]).await, 401);
    // Its own Authorization is not our business: old backends pass on what their users sent.
    let other = [("Authorization", "Basic bWFpZXI6eA==")];
    assert_eq!(box7.segment_from([127, 0, 0, 17], &other).await, 200);
}

#[tokio::test]
async fn a_forwarded_address_counts_from_a_trusted_proxy_alone() {
    let options = Options {
        anonymous_networks: vec!["10.1.0.0/16".parse().unwrap()],
        trusted_proxies: vec!["127.0.0.3".parse().unwrap()],
        ..Options::default()
    };
    let box7 = Box7::start(options).await;
    let forwarded = [("X-Forwarded-For", "10.1.2.3")];
    assert_eq!(box7.segment_from([127, 0, 0, 3], &forwarded).await, 200);
    assert_eq!(box7.segment_from([127, 0, 0, 4], &forwarded).await, 401);
    let invented = [("X-Forwarded-For", "10.1.2.3, 192.168.0.9")];
    assert_eq!(box7.segment_from([127, 0, 0, 3], &invented).await, 401);
}

#[tokio::test]
async fn a_stranger_is_refused_before_their_body_is_read() {
    let box7 = Box7::start(Options::default()).await;
    let headers = [JSON, ("Expect", "100-continue")];
    let head = request("POST", SEGMENT, &headers, Some(50_000_000));
    let answers = box7.served.raw(&head).await;
    assert_eq!(answers[0].status, 401);
}

fn sam2d(home: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
    command.args(arguments).arg("--state-dir").arg(home).output().unwrap()
}

#[test]
fn the_command_line_creates_lists_and_revokes_and_shows_a_secret_once() {
    let home = tempfile::tempdir().unwrap();
    let made =
        sam2d(home.path(), &["token", "create", "ward 7", "--scope", "metrics", "--days", "30"]);
    assert!(made.status.success());
    let token = String::from_utf8(made.stdout).unwrap();
    assert!(token.starts_with("sam2d_") && token.lines().count() == 1, "{token}");
    let secret = token.trim().rsplit('_').next().unwrap();
    assert!(!String::from_utf8_lossy(&made.stderr).contains(secret));
    let again = sam2d(home.path(), &["token", "create", "ward 7"]);
    assert_eq!(again.status.code(), Some(1), "a name is one token's");
    let listed = String::from_utf8(sam2d(home.path(), &["token", "list"]).stdout).unwrap();
    assert!(listed.contains("ward 7  metrics  since ") && listed.contains("until "), "{listed}");
    assert!(!listed.contains(secret) && !listed.contains("argon2"), "{listed}");
    let wrong = sam2d(home.path(), &["token", "create", "x", "--scope", "root"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(sam2d(home.path(), &["token", "revoke", "ward 7"]).status.success());
    assert_eq!(sam2d(home.path(), &["token", "revoke", "ward 7"]).status.code(), Some(1));
}

/// Starts the daemon on an address that strangers can reach; its log so far, or its exit code.
fn open_daemon(home: &Path, more: &[(&str, &str)]) -> Result<String, i32> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sam2d"))
        .args(["serve", "--listen", "0.0.0.0:0", "--state-dir"])
        .arg(home)
        .env("SAM2D_CACHE__ENABLED", "false")
        .envs(more.iter().copied())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(home.join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let listening = lines.find(|line| line.starts_with("listening on "));
    if listening.is_some() {
        let _ = child.kill();
    }
    let status = child.wait().unwrap();
    let log = std::fs::read_to_string(home.join("log")).unwrap();
    listening.map(|_| log).ok_or_else(|| status.code().unwrap_or(-1))
}

#[test]
fn clear_text_that_other_machines_can_reach_is_said() {
    let home = tempfile::tempdir().unwrap();
    let log = open_daemon(home.path(), &[("SAM2D_ACCESS__TOKENS", "on")]).unwrap();
    assert!(log.contains("WARN") && log.contains("has no TLS"), "{log}");
    let said = |listen: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sam2d"));
        command
            .arg("doctor")
            .env("SAM2D_STATE__PATH", home.path())
            .env("SAM2D_HTTP__LISTEN", listen);
        String::from_utf8(command.output().unwrap().stdout).unwrap().contains("has no TLS")
    };
    assert!(said("[\"0.0.0.0:0\"]") && !said("[\"127.0.0.1:0\"]"));
}

#[test]
fn an_address_beyond_loopback_opens_with_a_token_and_not_without_a_rule() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(open_daemon(home.path(), &[]), Err(78));
    assert!(open_daemon(home.path(), &[("SAM2D_ACCESS__TOKENS", "on")]).is_ok());
    assert!(sam2d(home.path(), &["token", "create", "a"]).status.success());
    assert!(open_daemon(home.path(), &[]).is_ok());
    assert_eq!(open_daemon(home.path(), &[("SAM2D_ACCESS__TOKENS", "off")]), Err(78));
    std::fs::write(home.path().join(file::NAME), "nonsense").unwrap();
    assert_eq!(open_daemon(home.path(), &[]), Err(78), "a file that can't be read is no rule");
}
