//! What one client can take of the box, and what the box takes from itself when it stops.

use super::{SEGMENT, body, one_click};
use crate::support::engine::load_seeded;
use crate::support::wire::{Served, request};
use crate::support::{Setup, disc_png, obedient, service};
use sam2d::http::Options;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const JSON: (&str, &str) = ("Content-Type", "application/json");

async fn with(options: Options) -> Served {
    Served::start(service(Setup::default(), load_seeded).await, options).await
}

#[tokio::test]
async fn a_body_too_large_is_413_by_its_length_or_as_it_comes() {
    let served = with(Options { max_body_bytes: 1000, ..Options::default() }).await;
    let declared = request("POST", SEGMENT, &[JSON], Some(1001));
    let answers = served.raw(&declared).await;
    assert_eq!((answers[0].status, &*answers[0].code()), (413, "too_large"));
    let mut chunked = request("POST", SEGMENT, &[JSON, ("Transfer-Encoding", "chunked")], None);
    for _ in 0..3 {
        chunked.extend_from_slice(format!("200\r\n{}\r\n", "x".repeat(512)).as_bytes());
    }
    let answers = served.raw(&chunked).await;
    assert_eq!((answers[0].status, &*answers[0].code()), (413, "too_large"));
    let mut fits = request("POST", SEGMENT, &[JSON], Some(1000));
    fits.extend_from_slice(&[b'x'; 1000]);
    assert_eq!(served.raw(&fits).await[0].code(), "invalid_request");
    assert_eq!(served.metric("sam2d_upload_bytes").await, 0.0);
}

#[tokio::test]
async fn a_body_that_trickles_is_408() {
    let served = with(Options { body_idle_timeout_s: 1, ..Options::default() }).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(&request("POST", SEGMENT, &[JSON], Some(1000))).await.unwrap();
    stream.write_all(b"{").await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 408") && all.contains("request_timeout"), "{all}");
}

#[tokio::test]
async fn uploads_together_are_bounded_and_what_does_not_fit_is_refused_at_once() {
    let options =
        Options { max_body_bytes: 1 << 20, max_inflight_bytes: 2 << 20, ..Options::default() };
    let served = with(options).await;
    let mut slow = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(&request("POST", SEGMENT, &[JSON], Some(1 << 20))).await.unwrap();
        stream.write_all(b"{").await.unwrap();
        slow.push(stream);
    }
    while served.metric("sam2d_upload_bytes").await < f64::from(2 << 20) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let started = Instant::now();
    let answer = served.json(SEGMENT, &body(&disc_png(64, 48), &one_click())).await;
    assert_eq!((answer.status, &*answer.code()), (503, "overloaded"));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert!(started.elapsed() < Duration::from_secs(5));
    drop(slow);
    // Their memory comes back when they are gone.
    while served.metric("sam2d_upload_bytes").await > 0.0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let answer = served.json(SEGMENT, &body(&disc_png(64, 48), &one_click())).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn one_client_s_uploads_leave_room_for_the_others() {
    let options = Options {
        max_body_bytes: 1 << 20,
        max_inflight_bytes: 4 << 20,
        max_inflight_bytes_per_client: 1 << 20,
        ..Options::default()
    };
    let served = with(options).await;
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(&request("POST", SEGMENT, &[JSON], Some(1 << 20))).await.unwrap();
    slow.write_all(b"{").await.unwrap();
    while served.metric("sam2d_upload_bytes").await < f64::from(1 << 20) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let json = body(&disc_png(64, 48), &one_click());
    let refused = served.json(SEGMENT, &json).await;
    assert_eq!((refused.status, &*refused.code()), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let mut whole = request("POST", SEGMENT, &[JSON], Some(json.len()));
    whole.extend_from_slice(json.as_bytes());
    let other = served.raw_from([127, 0, 0, 2], &whole).await;
    assert_eq!(other[0].status, 200, "{}", other[0].text());
}

#[tokio::test]
async fn one_client_s_requests_leave_room_for_the_others() {
    let (service, orders) = obedient().await;
    let options = Options { max_requests_per_client: 1, ..Options::default() };
    let served = Served::start(service, options).await;
    let whole = |width: u32| {
        let json = body(&disc_png(width, 48), &one_click());
        let mut whole = request("POST", SEGMENT, &[JSON], Some(json.len()));
        whole.extend_from_slice(json.as_bytes());
        whole
    };
    orders.encode_ms.store(1500, Ordering::SeqCst);
    let mut slow = TcpStream::connect(served.address).await.unwrap();
    slow.write_all(&whole(64)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let refused = served.json(SEGMENT, &body(&disc_png(65, 48), &one_click())).await;
    assert_eq!((refused.status, &*refused.code()), (429, "rate_limited"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    // What is no work goes on, and so does the work of others.
    assert_eq!(served.get("/livez").await.status, 200);
    orders.encode_ms.store(0, Ordering::SeqCst);
    assert_eq!(served.raw_from([127, 0, 0, 2], &whole(66)).await[0].status, 200);
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // It was answered: its seat is free again.
    let next = served.json(SEGMENT, &body(&disc_png(65, 48), &one_click())).await;
    assert_eq!(next.status, 200, "{}", next.text());
}

#[tokio::test]
async fn a_stop_under_load_answers_every_accepted_request() {
    let (service, orders) = obedient().await;
    let served = Served::start(service, Options::default()).await;
    orders.encode_ms.store(40, Ordering::SeqCst);
    let address = served.address;
    let mut clients = Vec::new();
    for client in 0..12_u32 {
        clients.push(tokio::spawn(async move {
            let json = body(&disc_png(64 + client, 48), &one_click());
            let mut whole = request("POST", SEGMENT, &[JSON], Some(json.len()));
            whole.extend_from_slice(json.as_bytes());
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&whole).await.unwrap();
            let mut all = String::new();
            stream.read_to_string(&mut all).await.unwrap();
            all
        }));
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopped = served.stop().await;
    for client in clients {
        let answer = client.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("mask_data"));
    }
    assert!(stopped);
    assert!(TcpStream::connect(address).await.is_err());
}
