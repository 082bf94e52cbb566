//! A small HTTP client for commands that ask a running daemon. Clear text only.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longer than a daemon takes for any one request.
const TIMEOUT: Duration = Duration::from_secs(40);
/// An answer with a mask and its outline has less.
const MAX_BYTES: usize = 64 << 20;

/// What came back.
#[derive(Debug)]
pub(super) struct Answered {
    /// Status.
    pub(super) status: StatusCode,
    /// The body as JSON; null when it is none.
    pub(super) json: serde_json::Value,
}

/// A daemon's address, with what must be shown to it.
#[derive(Clone, Debug)]
pub(super) struct Daemon {
    authority: String,
    prefix: String,
    token: Option<String>,
}

impl Daemon {
    /// `url` without a path, or with the prefix that a proxy adds.
    pub(super) fn new(url: &str, token: Option<String>) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("http://");
        let rest = rest.ok_or_else(|| anyhow::anyhow!("the address must start with http://"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { authority: authority.to_owned(), prefix, token })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Answered> {
        self.ask("GET", path, None).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<Answered> {
        self.ask("POST", path, Some((content_type, body))).await
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> anyhow::Result<Answered> {
        tokio::time::timeout(TIMEOUT, self.ask_patiently(method, path, body))
            .await
            .unwrap_or_else(|_| anyhow::bail!("no answer within {} s", TIMEOUT.as_secs()))
    }

    async fn ask_patiently(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, Vec<u8>)>,
    ) -> anyhow::Result<Answered> {
        let has_port =
            self.authority.rsplit_once(':').is_some_and(|(_, p)| p.parse::<u16>().is_ok());
        let port = if has_port { "" } else { ":80" };
        let stream = TcpStream::connect(format!("{}{port}", self.authority)).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header("host", &self.authority);
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let bytes = match body {
            None => Vec::new(),
            Some((content_type, bytes)) => {
                request = request.header("content-type", content_type);
                bytes
            }
        };
        let answer = sender.send_request(request.body(Full::new(Bytes::from(bytes)))?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok(Answered { status, json: serde_json::from_slice(&body).unwrap_or_default() })
    }
}
