//! A client that doesn't take what it asked for is not waited for without end.
//!
//! The time runs while the socket takes nothing more, and begins anew with every [`ENOUGH`] bytes
//! taken, so that a slow network is served and one that takes a byte now and then is not. Beneath
//! TLS, so that it holds for handshakes and farewells too.
//!
//! What the kernel has taken for the client is not seen here: such a connection is idle to us, and
//! ends as idle ones do.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// What a client must take within its time: with 30 s, 2 KiB/s.
const ENOUGH: usize = 64 << 10;

/// A stream whose writes fail when they wait for too long.
pub(super) struct Patient<S> {
    stream: S,
    patience: Duration,
    waiting: Option<Waiting>,
}

struct Waiting {
    until: Pin<Box<Sleep>>,
    taken: usize,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waiting: None }
    }

    /// What a write came to; while it waits, the time runs.
    fn wrote(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let patience = self.patience;
        match (written, &mut self.waiting) {
            (Poll::Pending, waiting) => {
                let until = || Waiting { until: Box::pin(sleep(patience)), taken: 0 };
                ready!(waiting.get_or_insert_with(until).until.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            (Poll::Ready(Ok(bytes)), Some(waiting)) => {
                waiting.taken += bytes;
                if waiting.taken >= ENOUGH {
                    self.waiting = None;
                }
                Poll::Ready(Ok(bytes))
            }
            (ready, _) => ready,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buffer);
        self.wrote(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.wrote(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Whoever writes flushes when nothing is left to write: all was taken.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.waiting = None;
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const PATIENCE: Duration = Duration::from_millis(400);

    #[tokio::test]
    async fn who_takes_nothing_is_given_up() {
        let (stream, client) = duplex(1000);
        let began = Instant::now();
        let written = Patient::new(stream, PATIENCE).write_all(&[0; 5000]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= PATIENCE);
        drop(client);
    }

    #[tokio::test]
    async fn a_byte_now_and_then_is_not_enough() {
        let (stream, mut client) = duplex(1000);
        let trickle = tokio::spawn(async move {
            while client.read_u8().await.is_ok() {
                sleep(PATIENCE / 8).await;
            }
        });
        let began = Instant::now();
        let written = Patient::new(stream, PATIENCE).write_all(&[0; 5000]).await;
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() < 10 * PATIENCE, "{:?}", began.elapsed());
        trickle.abort();
    }

    #[tokio::test]
    async fn who_takes_slowly_but_steadily_gets_everything() {
        let (stream, mut client) = duplex(ENOUGH);
        let whole = 6 * ENOUGH;
        let reading = tokio::spawn(async move {
            let (mut all, mut part) = (0, vec![0; ENOUGH]);
            while all < whole {
                sleep(PATIENCE / 2).await;
                client.read_exact(&mut part).await.unwrap();
                all += part.len();
            }
        });
        let mut stream = Patient::new(stream, PATIENCE);
        stream.write_all(&vec![0; whole]).await.unwrap();
        reading.await.unwrap();
    }

    #[tokio::test]
    async fn a_flush_is_the_end_of_waiting() {
        let (stream, mut client) = duplex(1000);
        let mut stream = Patient::new(stream, PATIENCE);
        let mut all = [0; 1500];
        for _ in 0..3 {
            let (written, read) =
                tokio::join!(stream.write_all(&[0; 1500]), client.read_exact(&mut all));
            written.unwrap();
            read.unwrap();
            stream.flush().await.unwrap();
            sleep(PATIENCE * 3 / 4).await;
        }
    }
}
