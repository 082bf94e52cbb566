//! Letting a body in: bounded in bytes (each and all together) and in time.
//!
//! Invariants:
//! 1. No byte is kept beyond `max_body_bytes`, and none that [`Budget`] has not granted.
//! 2. A grant is given back when the last [`Bytes`] made from the body is dropped, however the
//!    request ended.
//! 3. One address has its share of that at most, but for a proxy, which speaks for many.
//! 4. Nobody waits for memory: what doesn't fit now is refused, so that a client with a slow link
//!    can't hold others up.

use super::network::Cidr;
use super::options::Options;
use super::wire::problem::{Code, Problem};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use std::collections::HashMap;
use std::error::Error;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// The semaphore counts blocks of this size, since its permits are counted in 32 bits.
const BLOCK_BYTES: usize = 1024;

/// Memory for all bodies together, `http.max_inflight_bytes`.
#[derive(Clone, Debug)]
pub struct Budget {
    blocks: Arc<Semaphore>,
    size: usize,
    clients: Arc<Clients>,
    /// Against whose share a grant counts.
    client: Option<IpAddr>,
}

/// Blocks that were granted to each address.
#[derive(Debug, Default)]
struct Clients {
    max: usize,
    unlimited: Vec<Cidr>,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

impl Budget {
    /// Of this many bytes, for whoever comes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let size = (bytes / BLOCK_BYTES).min(Semaphore::MAX_PERMITS);
        let blocks = Arc::new(Semaphore::new(size));
        Self { blocks, size, clients: Arc::default(), client: None }
    }

    /// As the options say, with a share for each client.
    #[must_use]
    pub fn shared(options: &Options) -> Self {
        let clients = Clients {
            max: options.max_inflight_bytes_per_client / BLOCK_BYTES,
            unlimited: options.trusted_proxies.clone(),
            taken: Mutex::default(),
        };
        Self { clients: Arc::new(clients), ..Self::new(options.max_inflight_bytes) }
    }

    /// The same, with grants that count against this client's share.
    #[must_use]
    pub fn of(&self, client: IpAddr) -> Self {
        let limited = !self.clients.unlimited.iter().any(|proxy| proxy.contains(client));
        Self { client: limited.then_some(client), ..self.clone() }
    }

    /// Bytes granted at the moment.
    #[must_use]
    pub fn in_use(&self) -> usize {
        (self.size - self.blocks.available_permits()) * BLOCK_BYTES
    }

    fn grant(&self, blocks: usize) -> Result<OwnedSemaphorePermit, IntakeError> {
        let count = u32::try_from(blocks).map_err(|_| IntakeError::Full)?;
        let acquire = || {
            Arc::clone(&self.blocks).try_acquire_many_owned(count).map_err(|_| IntakeError::Full)
        };
        let Some(client) = self.client.filter(|_| blocks > 0) else { return acquire() };
        let mut taken = self.clients.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.get(&client).copied().unwrap_or(0) + blocks;
        if own > self.clients.max {
            return Err(IntakeError::ClientFull);
        }
        let granted = acquire()?;
        taken.insert(client, own);
        Ok(granted)
    }

    /// A client's share is as large again as before a grant.
    fn give_back(&self, blocks: usize) {
        let Some(client) = self.client else { return };
        let mut taken = self.clients.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&client).copied().unwrap_or(0).saturating_sub(blocks);
        if left > 0 {
            taken.insert(client, left);
        } else {
            // An address that left must not be remembered: there are very many of them.
            taken.remove(&client);
        }
    }
}

/// Why a body was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// 411: neither Content-Length nor chunks.
    #[error("the request needs a body with Content-Length")]
    NoLength,
    /// 413.
    #[error("the body is larger than {limit} bytes, the most that is accepted")]
    TooLarge {
        /// `http.max_body_bytes`.
        limit: usize,
    },
    /// 503: other uploads fill the memory set aside for them.
    #[error("the box is taking in as many uploads as it can; try again in a moment")]
    Full,
    /// 429: this client's uploads fill its share.
    #[error("this address is sending as much at a time as one may; wait for an upload to end")]
    ClientFull,
    /// 408.
    #[error("the body came too slowly")]
    TooSlow,
    /// 400: a bad chunk, or the connection ended early.
    #[error("the body ended early or is malformed")]
    Broken,
}

impl From<IntakeError> for Problem {
    fn from(error: IntakeError) -> Self {
        let code = match error {
            IntakeError::NoLength => Code::LengthRequired,
            IntakeError::TooLarge { .. } => Code::TooLarge,
            IntakeError::Full => {
                return Self::overloaded(error.to_string(), Duration::from_secs(1));
            }
            IntakeError::ClientFull => {
                return Self::new(Code::RateLimited, error.to_string())
                    .with_retry_after(Duration::from_secs(1));
            }
            IntakeError::TooSlow => Code::RequestTimeout,
            IntakeError::Broken => Code::InvalidRequest,
        };
        Self::new(code, error.to_string())
    }
}

/// Bounds for one body.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `http.max_body_bytes`.
    pub max_bytes: usize,
    /// `http.body_idle_timeout_s`.
    pub idle: Duration,
    /// When the whole body must be here.
    pub deadline: Instant,
}

/// A body on its way in.
#[derive(Debug)]
pub struct Intake<B> {
    body: B,
    limits: Limits,
    received: usize,
    declared: usize,
    share: Arc<Share>,
    idle: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
}

/// What one body holds of the budget.
#[derive(Debug)]
struct Share {
    budget: Budget,
    granted: Mutex<OwnedSemaphorePermit>,
}

impl Share {
    fn grow_to(&self, bytes: usize) -> Result<(), IntakeError> {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = bytes.div_ceil(BLOCK_BYTES);
        if needed > granted.num_permits() {
            let more = self.budget.grant(needed - granted.num_permits())?;
            granted.merge(more);
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let granted = self.granted.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.give_back(granted.num_permits());
    }
}

impl<B> Intake<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Before a byte is read: refuses by the declared length, and sets memory aside for it.
    ///
    /// # Errors
    /// `NoLength`, `TooLarge`, `Full`.
    pub fn open(
        headers: &HeaderMap,
        body: B,
        budget: &Budget,
        limits: Limits,
    ) -> Result<Self, IntakeError> {
        if body.is_end_stream() && !headers.contains_key(CONTENT_LENGTH) {
            return Err(IntakeError::NoLength);
        }
        let declared = usize::try_from(body.size_hint().exact().unwrap_or(0)).unwrap_or(usize::MAX);
        if declared > limits.max_bytes {
            return Err(IntakeError::TooLarge { limit: limits.max_bytes });
        }
        let granted = Mutex::new(budget.grant(declared.div_ceil(BLOCK_BYTES))?);
        Ok(Self {
            body,
            limits,
            received: 0,
            declared,
            share: Arc::new(Share { budget: budget.clone(), granted }),
            idle: Box::pin(tokio::time::sleep(limits.idle)),
            deadline: Box::pin(tokio::time::sleep_until(limits.deadline)),
        })
    }

    /// The next piece; `None` at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, IntakeError>>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
                let late = self.idle.as_mut().poll(cx).is_ready()
                    || self.deadline.as_mut().poll(cx).is_ready();
                return if late {
                    Poll::Ready(Some(Err(IntakeError::TooSlow)))
                } else {
                    Poll::Pending
                };
            };
            let Some(frame) = frame else { return Poll::Ready(None) };
            let Ok(frame) = frame else { return Poll::Ready(Some(Err(IntakeError::Broken))) };
            // Trailers mean nothing here.
            let Ok(piece) = frame.into_data() else { continue };
            self.received = self.received.saturating_add(piece.len());
            if self.received > self.limits.max_bytes {
                let limit = self.limits.max_bytes;
                return Poll::Ready(Some(Err(IntakeError::TooLarge { limit })));
            }
            if let Err(full) = self.share.grow_to(self.received) {
                return Poll::Ready(Some(Err(full)));
            }
            // A body that always has a byte ready must not outlive its deadline either.
            if self.deadline.is_elapsed() || Instant::now() >= self.limits.deadline {
                return Poll::Ready(Some(Err(IntakeError::TooSlow)));
            }
            self.idle.as_mut().reset(Instant::now() + self.limits.idle);
            return Poll::Ready(Some(Ok(piece)));
        }
    }

    /// The whole body in one buffer.
    ///
    /// # Errors
    /// Any [`IntakeError`].
    pub async fn collect(mut self) -> Result<Upload, IntakeError> {
        let mut bytes = Vec::with_capacity(self.declared);
        while let Some(piece) = std::future::poll_fn(|cx| self.poll_piece(cx)).await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(Upload { bytes, grant: Grant { _share: self.share } })
    }
}

/// A body that came in, and what it holds of the budget.
#[derive(Debug)]
pub struct Upload {
    bytes: Vec<u8>,
    grant: Grant,
}

impl Upload {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The bytes, to be decoded where they lie.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Shared from now on; the budget gets its share back with the last clone.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.grant.hold(self.bytes.into())
    }

    /// The grant, for parts of the body that are about to lie elsewhere.
    #[must_use]
    pub fn grant(&self) -> Grant {
        self.grant.clone()
    }
}

/// What one body holds of the budget, given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Grant {
    _share: Arc<Share>,
}

impl Grant {
    /// Ties bytes to this grant.
    #[must_use]
    pub fn hold(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Held { bytes, _grant: self.clone() })
    }
}

/// Bytes that count against the budget until they are dropped.
struct Held {
    bytes: Bytes,
    _grant: Grant,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use http_body::Frame;
    use std::collections::VecDeque;
    use std::convert::Infallible;

    /// A body of pieces that never ends on its own where `stalls`.
    #[derive(Debug)]
    struct Pieces {
        pieces: VecDeque<Bytes>,
        stalls: bool,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.pieces.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None if self.stalls => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    /// A byte every 5 ms, for ever.
    struct Trickle {
        next: Pin<Box<Sleep>>,
    }

    impl Body for Trickle {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            std::task::ready!(self.next.as_mut().poll(cx));
            self.next.as_mut().reset(Instant::now() + Duration::from_millis(5));
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"a")))))
        }
    }

    fn limits(max_bytes: usize) -> Limits {
        Limits {
            max_bytes,
            idle: Duration::from_secs(10),
            deadline: Instant::now() + Duration::from_secs(30),
        }
    }

    /// A body that came in whole.
    pub(crate) async fn uploaded(bytes: impl Into<Bytes>, budget: &Budget) -> Upload {
        let body = http_body_util::Full::new(bytes.into());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, body.size_hint().exact().unwrap_or_default().into());
        Intake::open(&headers, body, budget, limits(1 << 23)).unwrap().collect().await.unwrap()
    }

    fn pieces(pieces: &[&'static [u8]]) -> Pieces {
        let pieces = pieces.iter().map(|piece| Bytes::from_static(piece)).collect();
        Pieces { pieces, stalls: false }
    }

    fn open<B>(body: B, budget: &Budget, max_bytes: usize) -> Result<Intake<B>, IntakeError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        Intake::open(&HeaderMap::new(), body, budget, limits(max_bytes))
    }

    #[tokio::test]
    async fn a_declared_length_is_refused_before_a_byte_is_read() {
        let budget = Budget::new(4096);
        let full = http_body_util::Full::new(Bytes::from_static(&[0; 2000]));
        let refused = open(full.clone(), &budget, 1999).err();
        assert_eq!(refused, Some(IntakeError::TooLarge { limit: 1999 }));
        let first = open(full.clone(), &budget, 5000).unwrap();
        let second = open(full.clone(), &budget, 5000).unwrap();
        assert_eq!(budget.in_use(), 4096);
        assert_eq!(open(full, &budget, 5000).err(), Some(IntakeError::Full));
        drop((first, second));
        assert_eq!(budget.in_use(), 0);
        let empty = http_body_util::Empty::new();
        assert_eq!(open(empty, &budget, 5000).err(), Some(IntakeError::NoLength));
    }

    #[tokio::test]
    async fn an_undeclared_length_is_bounded_as_it_comes() {
        let budget = Budget::new(4096);
        let body = || pieces(&[&[0; 1500], &[0; 1500]]);
        let over = open(body(), &budget, 2999).unwrap().collect().await.err();
        assert_eq!(over, Some(IntakeError::TooLarge { limit: 2999 }));
        let held = open(body(), &budget, 3000).unwrap().collect().await.unwrap();
        assert_eq!((held.bytes().len(), budget.in_use()), (3000, 3072));
        let full = open(body(), &budget, 3000).unwrap().collect().await.err();
        assert_eq!(full, Some(IntakeError::Full));
        assert_eq!(budget.in_use(), 3072);
    }

    #[tokio::test]
    async fn a_body_that_never_pauses_ends_with_its_deadline_too() {
        let budget = Budget::new(1 << 20);
        let bounds = Limits { deadline: Instant::now(), ..limits(100) };
        let body = pieces(&[b"a", b"b"]);
        let intake = Intake::open(&HeaderMap::new(), body, &budget, bounds).unwrap();
        assert_eq!(intake.collect().await.err(), Some(IntakeError::TooSlow));
    }

    #[tokio::test]
    async fn one_client_has_its_share_and_no_more() {
        let options = Options {
            max_inflight_bytes: 8192,
            max_inflight_bytes_per_client: 4096,
            trusted_proxies: vec!["10.0.0.9".parse().unwrap()],
            ..Options::default()
        };
        let budget = Budget::shared(&options);
        let of = |client: &str| budget.of(client.parse().unwrap());
        let full = || http_body_util::Full::new(Bytes::from_static(&[0; 2000]));
        let first = open(full(), &of("10.0.0.1"), 5000).unwrap();
        let second = open(full(), &of("10.0.0.1"), 5000).unwrap().collect().await.unwrap();
        let third = open(full(), &of("10.0.0.1"), 5000).err();
        assert_eq!(third, Some(IntakeError::ClientFull));
        // What has no length counts as it comes.
        let undeclared = open(pieces(&[b"a"]), &of("10.0.0.1"), 5000).unwrap();
        assert_eq!(undeclared.collect().await.err(), Some(IntakeError::ClientFull));
        let other = open(full(), &of("10.0.0.2"), 5000).unwrap();
        drop(first);
        let fourth = open(full(), &of("10.0.0.1"), 5000).unwrap();
        drop((second, fourth, other));
        assert!(budget.clients.taken.lock().unwrap().is_empty());
        let proxied: Vec<_> =
            (0..4).map(|_| open(full(), &of("10.0.0.9"), 5000).unwrap()).collect();
        assert_eq!(open(full(), &of("10.0.0.9"), 5000).err(), Some(IntakeError::Full));
        // Who was refused for want of memory has nothing of its share taken.
        assert_eq!(open(full(), &of("10.0.0.1"), 5000).err(), Some(IntakeError::Full));
        drop(proxied);
        assert_eq!(budget.in_use(), 0);
        assert!(budget.clients.taken.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn memory_is_given_back_with_the_last_bytes_made_from_it() {
        let budget = Budget::new(1 << 20);
        let upload = open(pieces(&[b"abcdef"]), &budget, 100).unwrap().collect().await.unwrap();
        let part = upload.into_bytes().slice(2..4);
        assert_eq!((&part[..], budget.in_use()), (&b"cd"[..], 1024));
        drop(part);
        assert_eq!(budget.in_use(), 0);
    }

    #[tokio::test]
    async fn a_body_that_stalls_or_trickles_is_too_slow() {
        let budget = Budget::new(1 << 20);
        let bounds = |idle_ms, deadline_ms| Limits {
            max_bytes: 100,
            idle: Duration::from_millis(idle_ms),
            deadline: Instant::now() + Duration::from_millis(deadline_ms),
        };
        let headers = HeaderMap::new();

        let mut body = pieces(&[b"a"]);
        body.stalls = true;
        let started = Instant::now();
        let stalled = Intake::open(&headers, body, &budget, bounds(30, 60_000)).unwrap();
        assert_eq!(stalled.collect().await.err(), Some(IntakeError::TooSlow));
        assert!(started.elapsed() < Duration::from_secs(30));

        let next = Box::pin(tokio::time::sleep(Duration::from_millis(5)));
        let trickled =
            Intake::open(&headers, Trickle { next }, &budget, bounds(60_000, 100)).unwrap();
        assert_eq!(trickled.collect().await.err(), Some(IntakeError::TooSlow));
        assert!(started.elapsed() < Duration::from_secs(30));
        assert_eq!(budget.in_use(), 0);
    }
}
