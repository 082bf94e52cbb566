//! Sockets and connections: accepting, serving, and ending without losing anybody.
//!
//! Invariants:
//! 1. HTTP/1.1 (and 1.0) is read through [`Strict`](crate::http::strict::Strict); HTTP/2 there is by ALPN only.
//! 2. Connections are bounded, in all and per client; who finds no seat is told so.
//! 3. After the stop signal every request whose connection was accepted is answered: what waits in
//!    the kernel's backlog is taken in, and idle connections stay open for a moment, for the
//!    request that is already on its way.
//! 4. An answer to a request whose body was not read is not lost either: the rest of the body is
//!    swallowed for a while, since closing with unread bytes would reset the connection under it.

mod connection;
mod doors;
mod patience;
mod turn_away;

pub use doors::BindError;

use super::guard::{self, Connection};
use super::handler::Handler;
use super::options::Options;
use super::seats::Seats;
use super::security::Security;
use super::tls::Tls;
use super::wire::reply::Reply;
use crate::access::Options as AccessOptions;
use crate::access::keeper::Keeper;
use crate::audit::Audit;
use crate::service::Service;
use connection::Served;
use doors::{Arrived, Door, accept, backlog, open};
use http::{Request, Response};
use hyper::body::Incoming;
use prometheus_client::collector::Collector;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use turn_away::turn_away;

/// Refusals for want of a seat that may be written at once; more are just dropped.
const MAX_TURNED_AWAY: usize = 32;
/// Pause after an accept that failed, which would only fail again at once (no more files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Open sockets that nobody is served on yet.
#[derive(Debug)]
pub struct Server {
    doors: Vec<Door>,
    addresses: Vec<SocketAddr>,
    options: Options,
    security: Security,
    /// Who else has figures for `/metrics`.
    collector: Option<Box<dyn Collector>>,
}

impl Server {
    /// Opens every address of `http.listen`.
    ///
    /// # Errors
    /// The first that can't be opened.
    pub async fn bind(options: &Options) -> Result<Self, BindError> {
        let (doors, addresses) = open(&options.listen, None).await?;
        Ok(Self::of(doors, addresses, options))
    }

    fn of(doors: Vec<Door>, addresses: Vec<SocketAddr>, options: &Options) -> Self {
        let (options, security) = (options.clone(), Security::default());
        Self { doors, addresses, options, security, collector: None }
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

    /// Has `/metrics` tell these figures too.
    #[must_use]
    pub fn with_collector(mut self, collector: Box<dyn Collector>) -> Self {
        self.collector = Some(collector);
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

    /// Addresses without TLS that other machines can reach.
    #[must_use]
    pub fn in_clear(&self) -> Vec<SocketAddr> {
        let all = self.doors.iter().zip(&self.addresses);
        let clear = all.filter(|(door, address)| door.tls.is_none() && guard::is_open(address));
        clear.map(|(_, address)| *address).collect()
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
        Ok(Self::of(doors, addresses, options))
    }

    /// What it listens on, with the ports that the system chose.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `stop`, then drains. True when every accepted request was answered in time.
    pub async fn serve(mut self, service: Service, stop: impl Future<Output = ()>) -> bool {
        let seats = Seats::new(&self.options);
        let names = guard::machine_names();
        let seated = seats.clone();
        let security = self.security.clone();
        let collector = self.collector.take();
        let handler = Handler::secured(service, &self.options, &names, seated, security, collector);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Refusal;
    use crate::http::wire::problem::Problem;
    use http::HeaderValue;
    use http::header::CONNECTION;
    use http_body_util::BodyExt;
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    /// More than the kernel takes for a client that reads nothing.
    const BIG: usize = 32 << 20;

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
                None if path == "/big" => return Response::new(Reply::from("x".repeat(BIG))),
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
    async fn who_does_not_take_its_answer_is_let_go() {
        let server = start(Options { write_timeout_s: 1, ..options() }).await;
        let mut stream = server.connect().await;
        ask(&mut stream, "/big").await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let taken = rest(&mut stream).await;
        assert!(taken.starts_with("HTTP/1.1 200 OK") && taken.len() < BIG, "{}", taken.len());
        let mut steady = server.connect().await;
        ask(&mut steady, "/big").await;
        let head = "HTTP/1.1 200 OK".len();
        let mut all = 0;
        while all < BIG + head {
            let mut part = vec![0; 4 << 20];
            let read = steady.read(&mut part).await.unwrap();
            assert!(read > 0, "closed after {all}");
            all += read;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(server.end().await);
    }

    #[tokio::test]
    async fn a_connection_that_lies_idle_is_closed() {
        let server = start(Options { idle_timeout_s: 1, ..options() }).await;
        let mut stream = server.connect().await;
        ask(&mut stream, "/first").await;
        until(&mut stream, "/first").await;
        let closed = tokio::time::timeout(Duration::from_secs(10), rest(&mut stream)).await;
        assert_eq!(closed.expect("it was kept for ever"), "");
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
