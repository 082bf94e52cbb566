//! A small HTTP client for commands that ask a running daemon, in clear or by TLS.

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

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
    tls: Option<Arc<ClientConfig>>,
}

impl Daemon {
    /// `url` without a path, or with the prefix that a proxy adds.
    /// An https one is believed if its certificate comes from the authority in the file `ca`.
    pub(super) fn new(url: &str, token: Option<String>, ca: Option<&Path>) -> anyhow::Result<Self> {
        let (rest, tls) = match (url.strip_prefix("http://"), url.strip_prefix("https://"), ca) {
            (Some(rest), ..) => (rest, None),
            (None, Some(rest), Some(ca)) => {
                (rest, Some(trusting(ca).with_context(|| ca.display().to_string())?))
            }
            (None, Some(_), None) => anyhow::bail!("an https address needs --ca, its authority"),
            (None, None, _) => anyhow::bail!("the address must start with http:// or https://"),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.trim_end_matches('/');
        let prefix = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { authority: authority.to_owned(), prefix, token, tls })
    }

    /// The same address without TLS.
    pub(super) fn in_clear(&self) -> Self {
        Self { tls: None, ..self.clone() }
    }

    /// Does it speak TLS?
    pub(super) fn is_secured(&self) -> bool {
        self.tls.is_some()
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
        let told = self.authority.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let host = told.map_or(&*self.authority, |(host, _)| host);
        let port = match (told, &self.tls) {
            (Some(_), _) => "",
            (None, Some(_)) => ":443",
            (None, None) => ":80",
        };
        let stream = TcpStream::connect(format!("{}{port}", self.authority)).await?;
        let mut sender = match &self.tls {
            None => started(stream).await?,
            Some(tls) => {
                let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
                started(TlsConnector::from(Arc::clone(tls)).connect(name, stream).await?).await?
            }
        };
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

/// An HTTP/1.1 connection on that stream.
async fn started<S>(stream: S) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Believes certificates of the authorities in this file alone.
fn trusting(ca: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
