//! Letting a body in: bounded in bytes and in time.
//!
//! Invariants:
//! 1. No byte is kept beyond `max_body_bytes`, and none that the [`Budget`] has not granted.
//! 2. A grant is given back when the last [`Bytes`] made from the body is dropped, however the
//!    request ended.

use super::budget::{Budget, Grant, NoRoom};
use super::wire::problem::{Code, Problem};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::Body;
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

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
    /// 503 or 429.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
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
            IntakeError::NoRoom(NoRoom::Full) => {
                return Self::overloaded(error.to_string(), Duration::from_secs(1));
            }
            IntakeError::NoRoom(NoRoom::ClientFull) => {
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
    grant: Grant,
    idle: Pin<Box<Sleep>>,
    deadline: Pin<Box<Sleep>>,
}

impl<B> Intake<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Before a byte is read: refuses by the declared length, and sets memory aside for it.
    ///
    /// # Errors
    /// `NoLength`, `TooLarge`, `NoRoom`.
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
        Ok(Self {
            body,
            limits,
            received: 0,
            declared,
            grant: budget.grant(declared)?,
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
            if let Err(no_room) = self.grant.grow_to(self.received) {
                return Poll::Ready(Some(Err(no_room.into())));
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
        Ok(Upload { bytes, grant: self.grant })
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
        assert_eq!(open(full, &budget, 5000).err(), Some(NoRoom::Full.into()));
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
        assert_eq!(full, Some(NoRoom::Full.into()));
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
