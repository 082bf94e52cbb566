//! One connection, from its first byte to its last: TLS where the door has it, then HTTP/1.1 or
//! HTTP/2, until it is idle for too long, or the server stops.

use super::doors::Arrived;
use super::patience::Patient;
use crate::http::guard::Connection;
use crate::http::linger::linger;
use crate::http::options::Options;
use crate::http::seats::Seat;
use crate::http::strict::{HeadLimits, Strict};
use crate::http::tls;
use crate::http::wire::reply::Reply;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use sha2::{Digest, Sha256};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

/// hyper's own default for its read buffer.
const BODY_BUFFER_BYTES: usize = 400 << 10;

/// What one connection needs.
pub(super) struct Served<H> {
    handler: H,
    draining: watch::Receiver<bool>,
    head: HeadLimits,
    idle: Duration,
    patience: Duration,
    grace: Duration,
}

impl<H, F> Served<H>
where
    H: Fn(Request<Incoming>, Connection) -> F + Clone + Send + Unpin + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    pub(super) fn new(options: &Options, handler: H, draining: watch::Receiver<bool>) -> Self {
        Self {
            handler,
            draining,
            head: HeadLimits {
                max_bytes: options.max_head_bytes,
                max_headers: options.max_headers,
                timeout: Duration::from_secs(options.head_timeout_s),
            },
            idle: Duration::from_secs(options.idle_timeout_s),
            patience: Duration::from_secs(options.write_timeout_s),
            grace: Duration::from_millis(options.drain_grace_ms),
        }
    }

    pub(super) async fn serve(self, arrived: Arrived, _seat: Seat) {
        let Arrived { stream, peer, tls } = arrived;
        let Ok(local) = stream.local_addr() else { return };
        // Answers are written whole: waiting for more to fill a packet only costs time.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, self.patience);
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

    async fn http2<S>(self, stream: S, ends: Connection, options: &tls::Options)
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
            let stopping = async {
                drop(draining.wait_for(|draining| *draining).await);
                // A request that is on its way already is still answered.
                tokio::time::sleep(self.grace).await;
            };
            tokio::select! {
                biased;
                _ = connection.as_mut() => return,
                () = stopping, if !closing => {}
                () = busy.idle(self.idle), if !closing => {}
                // All was answered, yet the client doesn't let the answers through to itself.
                () = busy.idle(self.idle + self.patience), if closing => return,
            }
            closing = true;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// How far a connection is on its way to its end.
enum Stage {
    Serving,
    Grace,
    Closing,
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

    /// Waits until there was nothing to do for so long.
    async fn idle(&self, long: Duration) {
        loop {
            let left = long.saturating_sub(self.idle_for());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
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
