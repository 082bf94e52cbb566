//! Who may ask: Host and Origin, before a byte of the body; CORS for those that may.

use super::{SEGMENT, served};
use crate::support::engine::load_seeded;
use crate::support::wire::{Served, request};
use crate::support::{Setup, service};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use sam2d::http::Options;
use sam2d::http::guard::Connection;
use sam2d::http::handler::Handler;
use sam2d::http::seats::Seats;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const EDITOR: (&str, &str) = ("Origin", "https://editor.example");

async fn with_editor() -> Served {
    let allowed_origins = vec!["https://editor.example".to_owned()];
    let options = Options { allowed_origins, ..Options::default() };
    Served::start(service(Setup::default(), load_seeded).await, options).await
}

#[tokio::test]
async fn strangers_are_refused_before_their_body_is_read() {
    let served = served().await;
    for (header, status) in [
        (("Host", "rebound.example"), "421"),
        (("Origin", "https://evil.example"), "403"),
        (("Content-Encoding", "gzip"), "415"),
    ] {
        let headers = [header, ("Content-Type", "application/json"), ("Expect", "100-continue")];
        let head = request("POST", SEGMENT, &headers, Some(1_000_000));
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(&head).await.unwrap();
        // Not a byte of the body is sent, and no 100 asks for it: the answer is there all the same.
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert!(all.starts_with(&format!("HTTP/1.1 {status}")), "{all}");
    }
}

#[tokio::test]
async fn the_addresses_it_was_reached_by_and_loopback_names_are_its_own() {
    let served = served().await;
    let port = served.address.port();
    for host in ["localhost", "127.0.0.1", "[::1]", &format!("127.0.0.1:{port}")] {
        let answer = served.ask("GET", "/livez", &[("Host", host)], b"").await;
        assert_eq!(answer.status, 200, "{host}");
        let origin = format!("http://{host}");
        let headers = [("Host", host), ("Origin", &*origin)];
        let answer = served.ask("GET", "/livez", &headers, b"").await;
        assert_eq!(answer.status, 200, "{origin}");
    }
}

#[tokio::test]
async fn pages_of_listed_origins_may_ask_and_read() {
    let served = with_editor().await;
    let headers = [
        EDITOR,
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "authorization,content-type"),
    ];
    let preflight = served.ask("OPTIONS", SEGMENT, &headers, b"").await;
    assert_eq!(preflight.status, 204);
    let header = |name| preflight.header(name).unwrap_or_default().to_owned();
    assert_eq!(header("access-control-allow-origin"), EDITOR.1);
    assert!(header("access-control-allow-methods").contains("POST"));
    assert!(header("access-control-allow-headers").contains("Authorization"));
    assert!(header("vary").contains("Origin"));
    assert_eq!(preflight.header("access-control-allow-credentials"), None);

    // Errors too, or the editor could not show them.
    for path in ["/livez", "/nothing"] {
        let answer = served.ask("GET", path, &[EDITOR], b"").await;
        assert_eq!(answer.header("access-control-allow-origin"), Some(EDITOR.1), "{path}");
        let exposed = answer.header("access-control-expose-headers").unwrap();
        assert!(exposed.contains("Retry-After") && exposed.contains("X-Mask-Id"), "{exposed}");
    }
    let evil = [("Origin", "https://evil.example"), headers[1]];
    let refused = served.ask("OPTIONS", SEGMENT, &evil, b"").await;
    assert_eq!((refused.status, &*refused.code()), (403, "forbidden"));
    assert_eq!(refused.header("access-control-allow-origin"), None);
}

/// Asks without a socket, as somebody at another address would.
async fn from_afar(options: &Options, method: &str, path: &str) -> (u16, String) {
    let service = service(Setup::default(), load_seeded).await;
    let handler = Handler::new(service, options, &["box7".to_owned()], Seats::new(options));
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "box7:8642")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let (peer, local) = ("10.9.9.9:40000", "10.0.0.5:8642");
    let (peer, local) = (peer.parse().unwrap(), local.parse().unwrap());
    let ends = Connection { peer, local, certificate: None };
    let response = handler.respond(request, ends).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn who_is_of_no_named_network_sees_the_reduced_health_and_cannot_segment() {
    let named = |network: &str| Options {
        anonymous_networks: vec![network.parse().unwrap()],
        ..Options::default()
    };
    let (stranger, peer) = (named("10.1.0.0/16"), named("10.9.9.0/24"));
    let health = "/api/segmentation/sam2/health";
    let (status, reduced) = from_afar(&stranger, "GET", health).await;
    assert_eq!((status, &*reduced), (200, r#"{"enabled":true,"available":true,"mode":"sam2"}"#));
    assert!(from_afar(&peer, "GET", health).await.1.contains("fingerprint"));
    for (method, path) in [("POST", SEGMENT), ("POST", "/segment"), ("GET", "/metrics")] {
        let (status, problem) = from_afar(&stranger, method, path).await;
        assert_eq!(status, 403, "{path}");
        assert!(problem.contains("http.anonymous_networks"), "{problem}");
        assert_ne!(from_afar(&peer, method, path).await.0, 403, "{path}");
    }
    for path in ["/livez", "/readyz", "/health", "/", "/client.js", "/openapi.json"] {
        assert_eq!(from_afar(&stranger, "GET", path).await.0, 200, "{path}");
    }
}
