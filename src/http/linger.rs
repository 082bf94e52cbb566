//! A body that nobody reads to its end is still taken in for a moment.
//!
//! HTTP/2 resets a stream whose answer is complete while its request is not, and some clients (curl
//! 7.88) then give up the answer that they already have: seen as error 92 in place of a 401, about
//! once in fifty. So what is left of a refused upload is swallowed: [`Lingering`]. And closing an HTTP/1.1
//! connection with unread bytes would reset it under its last answer: [`linger`].

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How long the rest of an unread body is swallowed.
pub const LINGER: Duration = Duration::from_secs(2);

/// Ends a connection so that what was written last arrives.
pub async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let _ = stream.shutdown().await;
    let mut rest = [0; 8 << 10];
    let swallow = async { while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(LINGER, swallow).await;
}

/// Swallows what is left of the body when it is dropped.
pub struct Lingering<B: Body<Data = Bytes> + Send + 'static>(Option<Pin<Box<B>>>);

impl<B: Body<Data = Bytes> + Send + 'static> Lingering<B> {
    /// Around a body.
    #[must_use]
    pub fn new(body: B) -> Self {
        Self(Some(Box::pin(body)))
    }
}

impl<B: Body<Data = Bytes> + Send + 'static> Body for Lingering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match &mut self.0 {
            Some(body) => body.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
    }
}

impl<B: Body<Data = Bytes> + Send + 'static> Drop for Lingering<B> {
    fn drop(&mut self) {
        let Some(mut body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let swallow = async { while let Some(Ok(_)) = body.frame().await {} };
            let _ = tokio::time::timeout(LINGER, swallow).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::sync::mpsc;

    /// A body that comes through a channel.
    struct Coming(mpsc::Receiver<Bytes>);

    impl Body for Coming {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
        }
    }

    #[tokio::test]
    async fn what_nobody_reads_is_swallowed_to_its_end() {
        let (sender, coming) = mpsc::channel(1);
        drop(Lingering::new(Coming(coming)));
        // Without anybody to take them in, the second would find no room, or nobody at all.
        for _ in 0..5 {
            sender.send(Bytes::from_static(b"abc")).await.unwrap();
        }
        let whole = Lingering::new(http_body_util::Full::new(Bytes::new()));
        assert!(whole.is_end_stream());
    }
}
