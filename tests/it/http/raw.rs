//! Requests that no well-meaning client sends, over a raw socket.

use super::{SEGMENT, body, one_click, served};
use crate::support::disc_png;
use crate::support::wire::{Served, request};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends a first good request, then `bytes`, then one that must never be answered.
async fn between(served: &Served, bytes: &str) -> Vec<u16> {
    let good = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let all = format!("{good}{bytes}GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n");
    served.raw(all.as_bytes()).await.iter().map(|answer| answer.status).collect()
}

#[tokio::test]
async fn what_could_smuggle_a_request_is_refused_and_the_connection_closed() {
    let served = served().await;
    for head in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length : 5",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding:\u{b}chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "X: a\n\rContent-Length: 5",
        "X: a\nContent-Length: 5",
        "X: a\0b",
        "X\0: a",
        " X: a",
    ] {
        let bytes =
            format!("POST {SEGMENT} HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n0\r\n\r\n");
        assert_eq!(between(&served, &bytes).await, [200, 400], "{head:?}");
    }
    for line in [
        "GET /livez",
        "GET /livez HTTP/2.0",
        "GET  /livez HTTP/1.1",
        "PRI * HTTP/2.0",
        "GET /livez HTTP/1.1 x",
        "GET\t/livez HTTP/1.1",
        "GET /li\u{e9} HTTP/1.1",
        "{}",
    ] {
        let bytes = format!("{line}\r\nHost: localhost\r\n\r\n");
        assert_eq!(between(&served, &bytes).await, [200, 400], "{line:?}");
    }
}

#[tokio::test]
async fn bad_chunks_are_a_broken_body_and_the_end_of_the_connection() {
    let served = served().await;
    let head = format!(
        "POST {SEGMENT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for chunks in [
        "x\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\nabc\r\n",
        "-3\r\nabc",
        "3 \r\nabc",
        "fffffffffffffffff\r\n",
    ] {
        assert_eq!(between(&served, &format!("{head}{chunks}")).await, [200, 400], "{chunks:?}");
    }
}

#[tokio::test]
async fn a_chunked_request_is_answered_and_the_connection_kept() {
    let served = served().await;
    let json = body(&disc_png(64, 48), &one_click());
    let mut bytes = format!(
        "POST {SEGMENT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for piece in json.as_bytes().chunks(100) {
        bytes += &format!("{:x};a=b\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap());
    }
    bytes += "0\r\nX-Trailer: y\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let answers = served.raw(bytes.as_bytes()).await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 200], "{answers:?}");
}

#[tokio::test]
async fn too_large_heads_are_431_with_a_problem() {
    let served = served().await;
    let many = "X: a\r\n".repeat(101);
    let long = format!("X: {}\r\n", "a".repeat(40_000));
    for headers in [many, long] {
        let head = format!("GET /livez HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        let answers = served.raw(head.as_bytes()).await;
        assert_eq!((answers[0].status, &*answers[0].code()), (431, "head_too_large"));
    }
}

#[tokio::test]
async fn an_expected_100_comes_before_the_body_is_read() {
    let served = served().await;
    let json = body(&disc_png(64, 48), &one_click());
    let headers = [("Content-Type", "application/json"), ("Expect", "100-continue")];
    let head = request("POST", SEGMENT, &headers, Some(json.len()));
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&head).await.unwrap();
    let mut first = [0; 25];
    let wait = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut first));
    wait.await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(json.as_bytes()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 200"), "{rest}");
}

#[tokio::test]
async fn http_1_0_is_answered_and_an_upgrade_is_not_taken() {
    let served = served().await;
    let old = served.raw(b"GET /livez HTTP/1.0\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(old[0].status, 200);
    let upgrade =
        b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
                    Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    let answers = served.raw(upgrade).await;
    assert_eq!(answers[0].status, 200);
    let nameless = served.raw(b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n").await;
    assert_eq!(nameless[0].code(), "invalid_request");
}
