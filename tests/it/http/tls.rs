//! TLS over real sockets: who is spoken to, in which protocol, and what a new certificate changes.

use super::{SEGMENT, body, one_click};
use crate::support::engine::load_seeded;
use crate::support::{Setup, disc_png, service};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sam2d::access::certificate::{AUTHORITY, CERTIFICATE, FOLDER, KEY, Wanted, issue};
use sam2d::access::keeper::Keeper;
use sam2d::access::{self, Tokens};
use sam2d::http::Options;
use sam2d::http::server::Server;
use sam2d::http::tls::{self, ClientCertificates, Tls};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const LOCAL: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

struct Secured {
    address: SocketAddr,
    home: TempDir,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<bool>,
}

fn certificate(home: &Path, renew: bool) {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    let wanted = Wanted { names, days: 90, renew, new_authority: false };
    issue(&home.join(FOLDER), &wanted).unwrap();
}

impl Secured {
    async fn start(http: Options, options: tls::Options) -> Self {
        let home = tempfile::tempdir().unwrap();
        certificate(home.path(), false);
        Self::start_in(home, http, options).await
    }

    async fn start_in(home: TempDir, http: Options, options: tls::Options) -> Self {
        let options = tls::Options { listen: vec![LOCAL.into()], ..options };
        let tls = Tls::open(&options, home.path()).unwrap();
        let http = Options { listen: vec![LOCAL.into()], ..http };
        // Tokens are on, and there are none: a certificate is the only way in.
        let access = access::Options { tokens: Tokens::On, ..access::Options::default() };
        let keeper = Keeper::open(&access, &home.path().join("tokens.toml")).unwrap();
        let server = Server::bind(&http).await.unwrap().with_tokens(keeper, &access);
        let server = server.with_tls(tls).await.unwrap();
        let address = server.tls_addresses()[0];
        let service = service(Setup::default(), load_seeded).await;
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(server.serve(service, async {
            let _ = stopped.await;
        }));
        Self { address, home, stop, ended }
    }

    fn trusting(&self, alpn: &[&str], identity: Option<&Path>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        let authority = self.home.path().join(FOLDER).join(AUTHORITY);
        roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(folder) => {
                let chain = vec![CertificateDer::from_pem_file(folder.join("client.pem")).unwrap()];
                let key = PrivateKeyDer::from_pem_file(folder.join("client-key.pem")).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    async fn connect(&self, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let socket = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await
    }
}

/// Asks in clear HTTP/1.1 words over whatever stream; everything that comes back.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str) -> std::io::Result<String> {
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// An authority for clients and one client of it.
fn client_identity(folder: &Path) {
    let names = vec!["editor.example".to_owned()];
    let mut params = rcgen::CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let [authority_key, key] = [(); 2].map(|()| rcgen::KeyPair::generate().unwrap());
    let issuer = rcgen::CertifiedIssuer::self_signed(authority, authority_key).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    std::fs::write(folder.join("clients.pem"), issuer.pem()).unwrap();
    std::fs::write(folder.join("client.pem"), certificate.pem()).unwrap();
    std::fs::write(folder.join("client-key.pem"), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn http_1_and_http_2_are_spoken_by_alpn_and_answer_the_same() {
    let networks = vec!["127.0.0.1".parse().unwrap()];
    let http = Options { anonymous_networks: networks, ..Options::default() };
    let secured = Secured::start(http, tls::Options::default()).await;
    let mut first = secured.connect(secured.trusting(&["http/1.1"], None)).await.unwrap();
    assert!(ask(&mut first, "/livez").await.unwrap().starts_with("HTTP/1.1 200"));

    let stream = secured.connect(secured.trusting(&["h2", "http/1.1"], None)).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let running = tokio::spawn(connection);
    let json = body(&disc_png(64, 48), &one_click());
    let uri = format!("https://localhost:{}{SEGMENT}", secured.address.port());
    for _ in 0..3 {
        let request = Request::post(&uri)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(json.clone())))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&text).contains("mask_data"));
    }
    let evil = Request::post(uri.replace("localhost", "evil.example"))
        .body(Full::new(Bytes::new()))
        .unwrap();
    assert_eq!(sender.send_request(evil).await.unwrap().status(), 421);
    // A stop ends the idle connection too.
    let _ = secured.stop.send(());
    assert!(secured.ended.await.unwrap());
    drop(running.await);
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_the_next_and_drops_nobody() {
    let secured = Secured::start(Options::default(), tls::Options::default()).await;
    let shown = |stream: &TlsStream<TcpStream>| {
        stream.get_ref().1.peer_certificates().unwrap()[0].as_ref().to_vec()
    };
    let mut before = secured.connect(secured.trusting(&[], None)).await.unwrap();
    // A request under way while the certificate changes.
    before.write_all(b"GET /livez HTTP/1.1\r\nHost: local").await.unwrap();
    certificate(secured.home.path(), true);
    let began = Instant::now();
    loop {
        let after = secured.connect(secured.trusting(&[], None)).await.unwrap();
        if shown(&after) != shown(&before) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "the new one is never shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    before.write_all(b"host\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut all = String::new();
    before.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("HTTP/1.1 200"), "{all}");
}

#[tokio::test]
async fn a_client_certificate_lets_in_where_it_is_asked_for() {
    for (asked, without) in [
        (ClientCertificates::Off, Some("401")),
        (ClientCertificates::Optional, Some("401")),
        (ClientCertificates::Required, None),
    ] {
        let home = tempfile::tempdir().unwrap();
        certificate(home.path(), false);
        client_identity(home.path());
        let options = tls::Options {
            client_certificates: asked,
            client_ca: Some(home.path().join("clients.pem")),
            ..tls::Options::default()
        };
        let secured = Secured::start_in(home, Options::default(), options).await;
        let anonymous = secured.trusting(&[], None);
        let answered = async {
            let mut stream = secured.connect(anonymous).await.ok()?;
            ask(&mut stream, "/metrics").await.ok()
        };
        let answered = answered.await.filter(|text| !text.is_empty());
        let status = answered.as_deref().and_then(|text| text.split(' ').nth(1));
        assert_eq!(status, without, "{asked:?}");
        if asked != ClientCertificates::Off {
            let known = secured.trusting(&[], Some(secured.home.path()));
            let mut stream = secured.connect(known).await.unwrap();
            let text = ask(&mut stream, "/metrics").await.unwrap();
            assert!(text.starts_with("HTTP/1.1 200"), "{asked:?}: {text}");
            // Of another authority, with the same names.
            let stranger = tempfile::tempdir().unwrap();
            client_identity(stranger.path());
            let unknown = secured.trusting(&[], Some(stranger.path()));
            let refused = async {
                let mut stream = secured.connect(unknown).await.ok()?;
                ask(&mut stream, "/metrics").await.ok().filter(|text| !text.is_empty())
            };
            assert_eq!(refused.await, None, "{asked:?}");
        }
    }
}

#[tokio::test]
async fn a_client_that_says_nothing_or_speaks_in_clear_is_let_go() {
    let options = tls::Options { handshake_timeout_s: 1, ..tls::Options::default() };
    let secured = Secured::start(Options::default(), options).await;
    let mut clear = TcpStream::connect(secured.address).await.unwrap();
    clear.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    let _ = clear.read_to_end(&mut all).await;
    assert!(!all.starts_with(b"HTTP"), "{all:?}");
    let mut silent = TcpStream::connect(secured.address).await.unwrap();
    let began = Instant::now();
    assert_eq!(silent.read(&mut [0; 8]).await.unwrap_or(0), 0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_idle_http_2_connection_is_closed() {
    let http = Options { idle_timeout_s: 1, ..Options::default() };
    let secured = Secured::start(http, tls::Options::default()).await;
    let stream = secured.connect(secured.trusting(&["h2"], None)).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(
        TokioExecutor::new(),
        TokioIo::new(stream),
    )
    .await
    .unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), connection).await;
    assert!(ended.is_ok(), "it was kept for ever");
    drop(sender);
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [length[1], length[2], length[3], kind, flags];
    [&head[..], &stream.to_be_bytes(), payload].concat()
}

/// The next frame: kind and payload; nothing when the connection ends.
async fn next_frame(stream: &mut TlsStream<TcpStream>) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

#[tokio::test]
async fn http_2_streams_at_a_time_are_bounded() {
    let options = tls::Options { max_streams: 7, ..tls::Options::default() };
    let secured = Secured::start(Options::default(), options).await;
    let mut stream = secured.connect(secured.trusting(&["h2"], None)).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let (kind, settings) = next_frame(&mut stream).await.unwrap();
    assert_eq!(kind, SETTINGS);
    // RFC 9113 6.5.2: 3 is SETTINGS_MAX_CONCURRENT_STREAMS.
    let found = settings.chunks(6).find(|entry| entry[..2] == [0, 3]).expect("no bound at all");
    assert_eq!(found[2..], 7_u32.to_be_bytes());
}

#[tokio::test]
async fn who_opens_streams_only_to_reset_them_is_let_go() {
    let options = tls::Options { max_resets: 5, ..tls::Options::default() };
    let secured = Secured::start(Options::default(), options).await;
    let mut stream = secured.connect(secured.trusting(&["h2"], None)).await.unwrap();
    let mut all = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    // GET https://localhost/livez, in HPACK's static table and literals.
    let request = [&[0x82, 0x87, 0x04, 6][..], b"/livez", &[0x01, 9], b"localhost"].concat();
    for number in 0..200 {
        let id = 2 * number + 1;
        // End of stream and of headers.
        all.extend(frame(HEADERS, 0x5, id, &request));
        all.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    stream.write_all(&all).await.unwrap();
    let ended = async {
        while let Some((kind, payload)) = next_frame(&mut stream).await {
            if kind == GOAWAY {
                return payload[4..8].to_vec();
            }
        }
        Vec::new()
    };
    let reason = tokio::time::timeout(Duration::from_secs(10), ended).await.expect("served on");
    // RFC 9113 7: ENHANCE_YOUR_CALM.
    assert_eq!(reason, 0xb_u32.to_be_bytes());
}

#[tokio::test]
async fn an_http_2_client_that_takes_no_answer_is_let_go() {
    let http = Options { idle_timeout_s: 1, write_timeout_s: 1, ..Options::default() };
    let secured = Secured::start(http, tls::Options::default()).await;
    let stream = secured.connect(secured.trusting(&["h2"], None)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let ended = tokio::spawn(connection);
    let uri = format!("https://localhost:{}/openapi.json", secured.address.port());
    let request = Request::get(uri).body(Full::new(Bytes::new())).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
    assert!(ended.is_ok(), "it was kept for ever");
    assert!(answer.into_body().collect().await.is_err(), "nothing of it could be sent");
}

#[test]
fn the_command_line_makes_a_certificate_that_the_daemon_serves() {
    let home = tempfile::tempdir().unwrap();
    let sam2d = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sam2d"));
        command.args(arguments).arg("--state-dir").arg(home.path()).output().unwrap()
    };
    let made = sam2d(&["cert", "init", "--name", "box7.example", "--name", "10.0.0.5"]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(said.contains("box7.example, 10.0.0.5") && !said.contains("PRIVATE"), "{said}");
    assert_eq!(sam2d(&["cert", "init"]).status.code(), Some(1), "nothing is overwritten unasked");
    assert!(sam2d(&["cert", "init", "--renew"]).status.success());
    let folder = home.path().join(FOLDER);
    assert!(folder.join(CERTIFICATE).exists() && folder.join(KEY).exists());
}
