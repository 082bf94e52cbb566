//! The body of every response: a few shared pieces of bytes, sent as they lie.
//!
//! An answer's base64 may be a mapped cache entry; it is put between a JSON head and tail without
//! being copied. The length is known from the start, so every response carries `Content-Length`.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Pieces of a response body, in order.
#[derive(Debug, Default)]
pub struct Reply {
    pieces: VecDeque<Bytes>,
}

impl Reply {
    /// From pieces in order; empty ones are left out.
    #[must_use]
    pub fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self { pieces: pieces.into_iter().filter(|piece| !piece.is_empty()).collect() }
    }

    /// Nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self::default()
    }

    /// Bytes not sent yet.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }

    /// The pieces as they lie.
    #[must_use]
    pub fn into_pieces(self) -> Vec<Bytes> {
        self.pieces.into()
    }

    /// Is there nothing (more) to send?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }
}

impl From<Bytes> for Reply {
    fn from(bytes: Bytes) -> Self {
        Self::new([bytes])
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self::new([Bytes::from(text)])
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}
