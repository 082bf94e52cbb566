//! Sockets and connections: accepting, serving, and ending without losing anybody.
//!
//! Invariants:
//! 1. HTTP/1.1 (and 1.0) is read through [`Strict`]; HTTP/2 there is by ALPN only.
//! 2. Connections are bounded, in all and per client; who finds no seat is told so.
//! 3. After the stop signal every request whose connection was accepted is answered: what waits in
//!    the kernel's backlog is taken in, and idle connections stay open for a moment, for the
//!    request that is already on its way.
//! 4. An answer to a request whose body was not read is not lost either: the rest of the body is
//!    swallowed for a while, since closing with unread bytes would reset the connection under it.

use super::guard::{self, Connection};
use super::handler::Handler;
use super::linger::LINGER;
use super::options::Options;
use super::seats::{NoSeat, Seat, Seats};
use super::security::Security;
use super::strict::{HeadLimits, Strict};
use super::tls::Tls;
use super::wire::problem::{Code, Problem};
use super::wire::reply::Reply;
use crate::access::Options as AccessOptions;
use crate::access::keeper::Keeper;
use crate::audit::Audit;
use crate::service::Service;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Refusals for want of a seat that may be written at once; more are just dropped.
const MAX_TURNED_AWAY: usize = 32;
/// Pause after an accept that failed, which would only fail again at once (no more files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}: {}", cause(source, *address))]
pub struct BindError {
    /// As configured.
    pub address: SocketAddr,
    /// The system's word.
    pub source: io::Error,
}

fn cause(error: &io::Error, address: SocketAddr) -> String {
    let next = SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(8642));
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "the port is taken (by another sam2d?); choose another one with --listen {next}"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose one of its own with --listen".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, or choose another one with --listen"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// Open sockets that nobody is served on yet.
#[derive(Debug)]
pub struct Server {
    doors: Vec<Door>,
    addresses: Vec<SocketAddr>,
    options: Options,
    security: Security,
}

/// A socket, and whether what comes through it is secured.
#[derive(Debug)]
struct Door {
    listener: TcpListener,
    tls: Option<Tls>,
}

impl Server {
    /// Opens every address of `http.listen`.
    ///
    /// # Errors
    /// The first that can't be opened.
    pub async fn bind(options: &Options) -> Result<Self, BindError> {
        let (doors, addresses) = open(&options.listen, None).await?;
        Ok(Self { doors, addresses, options: options.clone(), security: Security::default() })
    }

    /// Asks for tokens, and looks at their file again and again while it serves.
    #[must_use]
    pub fn with_tokens(mut self, keeper: Keeper, options: &AccessOptions) -> Self {
        self.security.tokens = Some((keeper, options.clone()));
        self
    }

    /// Records who did what.
    #[must_use]
    pub fn with_audit(mut self, audit: Audit) -> Self {
        self.security.audit = Some(audit);
        self
    }

    /// Opens every address of `tls.listen` too.
    ///
    /// # Errors
    /// The first that can't be opened.
    pub async fn with_tls(mut self, tls: Tls) -> Result<Self, BindError> {
        let (doors, addresses) = open(&tls.options().listen, Some(&tls)).await?;
        self.doors.extend(doors);
        self.addresses.extend(addresses);
        self.security.tls = Some(tls);
        Ok(self)
    }

    /// Tokens, certificate and trail, for whoever wants them reloaded or told.
    #[must_use]
    pub fn security(&self) -> Security {
        self.security.clone()
    }

    /// What it listens on with TLS.
    #[must_use]
    pub fn tls_addresses(&self) -> Vec<SocketAddr> {
        let all = self.doors.iter().zip(&self.addresses);
        all.filter(|(door, _)| door.tls.is_some()).map(|(_, address)| *address).collect()
    }

    /// Serves sockets that someone else opened, whatever `http.listen` says: systemd keeps them over
    /// our restarts, so that nobody is refused meanwhile.
    ///
    /// # Errors
    /// When one of them is no listening socket.
    pub fn adopt(sockets: Vec<std::net::TcpListener>, options: &Options) -> io::Result<Self> {
        let (mut doors, mut addresses) = (Vec::new(), Vec::new());
        for socket in sockets {
            addresses.push(socket.local_addr()?);
            socket.set_nonblocking(true)?;
            doors.push(Door { listener: TcpListener::from_std(socket)?, tls: None });
        }
        Ok(Self { doors, addresses, options: options.clone(), security: Security::default() })
    }

    /// What it listens on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `stop`, then drains. True when every accepted request was answered in time.
    pub async fn serve(self, service: Service, stop: impl Future<Output = ()>) -> bool {
        let seats = Seats::new(&self.options);
        let names = guard::machine_names();
        let seated = seats.clone();
        let security = self.security.clone();
        let handler = Handler::secured(service, &self.options, &names, seated, security);
        // Ends with this function, however that ends.
        let mut watching = JoinSet::new();
        watching.spawn(self.security.clone().watch());
        let respond = move |request, ends| {
            let handler = handler.clone();
            async move { handler.respond(request, ends).await }
        };
        self.run(respond, seats, stop).await
    }

    /// Serves until `stop`, then drains. True when every accepted request was answered in time.
    async fn run<H, F>(self, handler: H, seats: Seats, stop: impl Future<Output = ()>) -> bool
    where
        H: Fn(Request<Incoming>, Connection) -> F + Clone + Send + Unpin + 'static,
        F: Future<Output = Response<Reply>> + Send + 'static,
    {
        let (drain, draining) = watch::channel(false);
        let turned_away = Arc::new(Semaphore::new(MAX_TURNED_AWAY));
        let mut connections = JoinSet::new();
        let serve =
            |connections: &mut JoinSet<()>, arrived: Arrived| match seats.take(arrived.peer.ip()) {
                Ok(seat) => {
                    let served = Served::new(&self.options, handler.clone(), draining.clone());
                    connections.spawn(served.serve(arrived, seat));
                }
                // Whoever speaks TLS could not read a refusal in clear.
                Err(_) if arrived.tls.is_some() => {}
                Err(full) => {
                    let stream = arrived.stream;
                    if let Ok(permit) = Arc::clone(&turned_away).try_acquire_owned() {
                        connections.spawn(async move {
                            turn_away(stream, full).await;
                            drop(permit);
                        });
                    }
                }
            };
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = accept(&self.doors) => match accepted {
                    Ok(arrived) => serve(&mut connections, arrived),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        for arrived in backlog(self.doors) {
            serve(&mut connections, arrived);
        }
        drain.send_replace(true);
        let patience = Duration::from_secs(self.options.drain_timeout_s);
        let all = async { while connections.join_next().await.is_some() {} };
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

/// A connection that nobody serves yet.
struct Arrived {
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Tls>,
}

async fn open(
    addresses: &[SocketAddr],
    tls: Option<&Tls>,
) -> Result<(Vec<Door>, Vec<SocketAddr>), BindError> {
    let (mut doors, mut opened) = (Vec::new(), Vec::new());
    for &address in addresses {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        opened.push(listener.local_addr().map_err(failed)?);
        doors.push(Door { listener, tls: tls.cloned() });
    }
    Ok((doors, opened))
}

/// The next connection of any listener.
async fn accept(doors: &[Door]) -> io::Result<Arrived> {
    poll_fn(|cx| {
        for door in doors {
            if let Poll::Ready(accepted) = door.listener.poll_accept(cx) {
                let tls = door.tls.clone();
                return Poll::Ready(accepted.map(|(stream, peer)| Arrived { stream, peer, tls }));
            }
        }
        Poll::Pending
    })
    .await
}

/// What the kernel accepted for us and nobody has taken yet; closing the socket would reset it.
fn backlog(doors: Vec<Door>) -> Vec<Arrived> {
    let mut waiting = Vec::new();
    for Door { listener, tls } in doors {
        let Ok(listener) = listener.into_std() else { continue };
        // The socket is non-blocking: an empty backlog is an error.
        while let Ok((stream, peer)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            let arrived = |stream| Arrived { stream, peer, tls: tls.clone() };
            waiting.extend(stream.ok().map(arrived));
        }
    }
    waiting
}

/// What one connection needs.
struct Served<H> {
    handler: H,
    draining: watch::Receiver<bool>,
    head: HeadLimits,
    idle: Duration,
    grace: Duration,
}

impl<H, F> Served<H>
where
    H: Fn(Request<Incoming>, Connection) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    fn new(options: &Options, handler: H, draining: watch::Receiver<bool>) -> Self {
        Self {
            handler,
            draining,
            head: HeadLimits {
                max_bytes: options.max_head_bytes,
                max_headers: options.max_headers,
                timeout: Duration::from_secs(options.head_timeout_s),
            },
            idle: Duration::from_secs(options.idle_timeout_s),
            grace: Duration::from_millis(options.drain_grace_ms),
        }
    }

    async fn serve(self, arrived: Arrived, _seat: Seat) {
        let Arrived { stream, peer, tls } = arrived;
        let Ok(local) = stream.local_addr() else { return };
        // Answers are written whole: waiting for more to fill a packet only costs time.
        let _ = stream.set_nodelay(true);
        let mut ends = Connection { peer, local, certificate: None };
        let Some(tls) = tls else { return self.http1(stream, ends).await };
        let patience = Duration::from_secs(tls.options().handshake_timeout_s);
        let handshake = TlsAcceptor::from(tls.config()).accept(stream);
        // Its errors are all the client's, or a scanner's.
        let Ok(Ok(stream)) = tokio::time::timeout(patience, handshake).await else { return };
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(<[_]>::first);
        ends.certificate = shown.map(|certificate| Sha256::digest(certificate).into());
        if session.alpn_protocol() == Some(b"h2") {
            self.http2(stream, ends, tls.options()).await;
        } else {
            self.http1(stream, ends).await;
        }
    }

    async fn http1<S>(self, stream: S, ends: Connection)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let strict = Strict::new(stream, self.head);
        let began = strict.began();
        let (handler, draining) = (self.handler, self.draining.clone());
        let service = service_fn(move |request| {
            let (answer, draining) = (handler(request, ends), draining.clone());
            Box::pin(async move {
                let mut response = answer.await;
                if *draining.borrow() {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                Ok::<_, Infallible>(response)
            })
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.idle)
            .max_headers(self.head.max_headers)
            .max_buf_size(BODY_BUFFER_BYTES.max(self.head.max_bytes * 2))
            .serve_connection(TokioIo::new(strict), service);
        let mut draining = self.draining;
        let mut stage = Stage::Serving;
        loop {
            let next = async {
                match stage {
                    Stage::Serving => drop(draining.wait_for(|draining| *draining).await),
                    Stage::Grace => tokio::time::sleep(self.grace).await,
                    Stage::Closing => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                // Its errors are all the client's: gone, too slow, or out of words.
                _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break,
                () = next => {}
            }
            stage = match stage {
                Stage::Serving => Stage::Grace,
                // Connected, but never asked for anything.
                _ if !began.load(Ordering::Relaxed) => return,
                _ => {
                    Pin::new(&mut connection).graceful_shutdown();
                    Stage::Closing
                }
            };
        }
        linger(connection.into_parts().io.into_inner().into_inner()).await;
    }

    async fn http2<S>(self, stream: S, ends: Connection, options: &super::tls::Options)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let busy = Arc::new(Busy::default());
        let (handler, counted) = (self.handler, Arc::clone(&busy));
        let service = service_fn(move |request| {
            let (answer, guard) = (handler(request, ends), counted.enter());
            Box::pin(async move {
                let response = answer.await;
                drop(guard);
                Ok::<_, Infallible>(response)
            })
        });
        let head_bytes = u32::try_from(self.head.max_bytes).unwrap_or(u32::MAX);
        let mut connection = pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(options.max_streams)
                .max_pending_accept_reset_streams(options.max_resets)
                .max_local_error_reset_streams(options.max_resets)
                .max_header_list_size(head_bytes)
                .keep_alive_interval(self.idle)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut draining = self.draining;
        let mut closing = false;
        loop {
            let idle = async {
                loop {
                    let left = self.idle.saturating_sub(busy.idle_for());
                    if left.is_zero() {
                        return;
                    }
                    tokio::time::sleep(left).await;
                }
            };
            let stopping = async {
                drop(draining.wait_for(|draining| *draining).await);
                // A request that is on its way already is still answered.
                tokio::time::sleep(self.grace).await;
            };
            tokio::select! {
                biased;
                _ = connection.as_mut() => return,
                () = stopping, if !closing => {}
                () = idle, if !closing => {}
            }
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// Requests of one HTTP/2 connection under way, and when the last one ended.
#[derive(Default)]
struct Busy(Mutex<(usize, Option<Instant>)>);

/// One of them.
struct Entered(Arc<Busy>);

impl Busy {
    fn enter(self: &Arc<Self>) -> Entered {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 += 1;
        Entered(Arc::clone(self))
    }

    /// How long there was nothing to do; nothing while there is.
    fn idle_for(&self) -> Duration {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 > 0 {
            Duration::ZERO
        } else {
            state.1.get_or_insert_with(Instant::now).elapsed()
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut state = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= 1;
        state.1 = Some(Instant::now());
    }
}

/// hyper's own default for its read buffer.
const BODY_BUFFER_BYTES: usize = 400 << 10;

enum Stage {
    Serving,
    Grace,
    Closing,
}

/// Ends a connection so that what was written last arrives.
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let _ = stream.shutdown().await;
    let mut rest = [0; 8 << 10];
    let swallow = async { while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(LINGER, swallow).await;
}

/// Tells a client that there is no seat, without reading anything of what it wants.
async fn turn_away(mut stream: TcpStream, full: NoSeat) {
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
    let id = super::request_id::new();
    tracing::warn!(status = status.as_u16(), request_id = %id, "a connection was turned away");
    let body = problem.json(&id);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nRetry-After: 1\r\nX-Request-Id: {id}\r\n\
         Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        super::wire::problem::MEDIA_TYPE,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Refusal;
    use http_body_util::BodyExt;
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    struct Running {
        address: SocketAddr,
        stop: oneshot::Sender<()>,
        served: JoinHandle<bool>,
    }

    fn options() -> Options {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Options { listen: vec![any], drain_grace_ms: 200, ..Options::default() }
    }

    /// A server whose answers are the request's path, after so many milliseconds as it says.
    async fn start(options: Options) -> Running {
        let server = Server::bind(&options).await.unwrap();
        let address = server.addresses()[0];
        let (stop, stopped) = oneshot::channel();
        let seats = Seats::new(&options);
        let handler = |request: Request<Incoming>, _| async move {
            let path = request.uri().path().to_owned();
            if let Some(refusal) = Refusal::of(request.method(), &path) {
                let mut response = Problem::invalid(format!("{refusal:?}")).into_response("");
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                return response;
            }
            match path.strip_prefix("/wait/").and_then(|ms| ms.parse().ok()) {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None if path == "/unread" => {}
                None => drop(request.into_body().collect().await),
            }
            Response::new(Reply::from(path))
        };
        let served = tokio::spawn(server.run(handler, seats, async {
            let _ = stopped.await;
        }));
        Running { address, stop, served }
    }

    impl Running {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        async fn end(self) -> bool {
            let _ = self.stop.send(());
            self.served.await.unwrap()
        }
    }

    /// Everything that comes until the other side closes.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        String::from_utf8_lossy(&all).into_owned()
    }

    /// One response whose body ends in `end`.
    async fn until(stream: &mut TcpStream, end: &str) -> String {
        let mut all = String::new();
        let mut buffer = [0; 1000];
        while !all.ends_with(end) {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "closed after {all:?}");
            all += std::str::from_utf8(&buffer[..read]).unwrap();
        }
        all
    }

    async fn ask(stream: &mut TcpStream, path: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn a_busy_port_is_named_with_the_remedy() {
        let taken = Server::bind(&options()).await.unwrap();
        let address = taken.addresses()[0];
        let error =
            Server::bind(&Options { listen: vec![address], ..options() }).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&address.to_string()) && text.contains("--listen"), "{text}");
    }

    #[tokio::test]
    async fn connections_are_kept_and_requests_answered_in_turn() {
        let server = start(options()).await;
        let mut stream = server.connect().await;
        ask(&mut stream, "/wait/50").await;
        ask(&mut stream, "/second").await;
        let both = until(&mut stream, "/second").await;
        assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2, "{both}");
        assert!(both.find("/wait/50") < both.find("/second"));
        assert!(server.end().await);
    }

    #[tokio::test]
    async fn a_refused_request_is_answered_in_its_turn_and_the_connection_closed() {
        let server = start(options()).await;
        let mut stream = server.connect().await;
        ask(&mut stream, "/wait/50").await;
        let smuggled = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
                        0\r\n\r\nGET /secret HTTP/1.1\r\nHost: a\r\n\r\n";
        stream.write_all(smuggled.as_bytes()).await.unwrap();
        let all = rest(&mut stream).await;
        assert!(all.contains("/wait/50") && all.contains("HTTP/1.1 400"), "{all}");
        assert!(all.contains("Ambiguous") && !all.contains("/secret"), "{all}");
        assert!(server.end().await);
    }

    #[tokio::test]
    async fn a_dripping_head_is_answered_and_closed() {
        let server = start(Options { head_timeout_s: 1, ..options() }).await;
        let mut stream = server.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHo").await.unwrap();
        let all = rest(&mut stream).await;
        assert!(all.contains("TooSlow"), "{all}");
        assert!(server.end().await);
    }

    #[tokio::test]
    async fn an_answer_to_an_unread_body_arrives() {
        let server = start(options()).await;
        let mut stream = server.connect().await;
        let head = "POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        // Everything is sent before the answer is looked at, as simple clients do.
        for _ in 0..20 {
            if stream.write_all(&vec![b'x'; 1_000_000]).await.is_err() {
                break;
            }
        }
        let all = rest(&mut stream).await;
        assert!(all.contains("200 OK") && all.ends_with("/unread"), "{all}");
        assert!(server.end().await);
    }

    #[tokio::test]
    async fn who_finds_no_seat_is_told_so() {
        let options = Options { max_connections_per_client: 1, max_connections: 2, ..options() };
        let server = start(options).await;
        let mut first = server.connect().await;
        ask(&mut first, "/first").await;
        until(&mut first, "/first").await;
        let all = rest(&mut server.connect().await).await;
        assert!(all.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{all}");
        assert!(
            all.contains("\"code\":\"rate_limited\"") && all.contains("Retry-After: 1"),
            "{all}"
        );
        drop(first);
        assert!(server.end().await);
    }

    #[tokio::test]
    async fn a_stopping_server_loses_no_accepted_request() {
        let server = start(options()).await;
        let (mut busy, mut idle) = (server.connect().await, server.connect().await);
        ask(&mut busy, "/wait/400").await;
        ask(&mut idle, "/idle").await;
        until(&mut idle, "/idle").await;
        let mut silent = server.connect().await;
        // Asked, but perhaps still in the backlog when the server stops.
        let mut waiting = Vec::new();
        for _ in 0..20 {
            let mut stream = server.connect().await;
            ask(&mut stream, "/wait/100").await;
            waiting.push(stream);
        }
        let address = server.address;
        let ended = tokio::spawn(server.end());
        tokio::time::sleep(Duration::from_millis(50)).await;
        // On its way when the signal came: still answered, and told that it is the last one.
        ask(&mut idle, "/late").await;
        let late = rest(&mut idle).await;
        assert!(late.contains("200 OK") && late.contains("connection: close"), "{late}");
        let slow = rest(&mut busy).await;
        assert!(slow.ends_with("/wait/400"), "{slow}");
        for mut stream in waiting {
            assert!(rest(&mut stream).await.ends_with("/wait/100"));
        }
        assert_eq!(rest(&mut silent).await, "");
        assert!(ended.await.unwrap());
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn who_was_waiting_to_be_accepted_at_the_stop_is_answered() {
        let options = options();
        let server = Server::bind(&options).await.unwrap();
        let mut stream = TcpStream::connect(server.addresses()[0]).await.unwrap();
        stream.write_all(b"GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let handler = |_, _| async { Response::new(Reply::from("answered".to_owned())) };
        let stopped = server.run(handler, Seats::new(&options), async {});
        assert!(stopped.await);
        assert!(rest(&mut stream).await.ends_with("answered"));
    }

    #[tokio::test]
    async fn a_drain_that_takes_too_long_is_said() {
        let server = start(Options { drain_timeout_s: 1, ..options() }).await;
        let mut stream = server.connect().await;
        ask(&mut stream, "/wait/60000").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!server.end().await);
    }
}
