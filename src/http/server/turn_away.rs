//! What is said to a connection for which there is no seat.

use crate::http::linger::{LINGER, linger};
use crate::http::request_id;
use crate::http::seats::NoSeat;
use crate::http::wire::problem::{Code, MEDIA_TYPE, Problem};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Tells a client that there is no seat, without reading anything of what it wants.
pub(super) async fn turn_away(mut stream: TcpStream, full: NoSeat) {
    let problem = match full {
        NoSeat::Full => {
            let wait = Duration::from_secs(1);
            Problem::overloaded("the box has as many connections as it takes; try again", wait)
        }
        NoSeat::ClientFull => Problem::new(
            Code::RateLimited,
            "this address has as many connections as one may; close some, or try again",
        )
        .with_retry_after(Duration::from_secs(1)),
    };
    let status = problem.code().status();
    let id = request_id::new();
    tracing::warn!(status = status.as_u16(), request_id = %id, "a connection was turned away");
    let body = problem.json(&id);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {}\r\nRetry-After: 1\r\nX-Request-Id: {id}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        body.len(),
    );
    let write = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await
    };
    if let Ok(Ok(())) = tokio::time::timeout(LINGER, write).await {
        linger(stream).await;
    }
}
