//! Stands between socket and hyper: lets through only what [`super::head`] has judged, in time and
//! within its limits.
//!
//! Invariants:
//! 1. hyper sees whole heads only, and never one that was refused. In its place comes a stand-in,
//!    so that the refusal is answered after the requests before it, with a problem of ours.
//! 2. After a refusal nothing more is let through: where that request ends is anybody's guess.
//! 3. A head that started to come is whole within `timeout`, however its bytes are dripped.

use super::head::{self, Chunks, Framing, Refusal};
use bytes::{Buf, BytesMut};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How much is read from the socket at a time where it must be looked at.
const PIECE_BYTES: usize = 8 << 10;

/// Bounds for heads.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// `http.max_head_bytes`.
    pub max_bytes: usize,
    /// `http.max_headers`.
    pub max_headers: usize,
    /// `http.head_timeout_s`.
    pub timeout: Duration,
}

/// A connection that is read strictly.
#[derive(Debug)]
pub struct Strict<S> {
    socket: S,
    limits: HeadLimits,
    /// Read, not yet judged.
    incoming: BytesMut,
    /// Judged, not yet taken by hyper.
    cleared: BytesMut,
    at: At,
    timer: Option<Pin<Box<Sleep>>>,
    /// Has the connection asked for anything yet?
    began: Arc<AtomicBool>,
}

#[derive(Debug)]
enum At {
    /// In a head, of which so many bytes were searched for its end.
    Head { searched: usize },
    /// In a body with so many bytes to come.
    Body(u64),
    /// In a chunked body.
    Chunks(Chunks),
    /// Refused; nothing more is read.
    Refused,
    /// The framing of a body went wrong.
    Broken,
}

impl<S> Strict<S> {
    /// A fresh connection; the first head's time starts now.
    #[must_use]
    pub fn new(socket: S, limits: HeadLimits) -> Self {
        Self {
            socket,
            limits,
            incoming: BytesMut::new(),
            cleared: BytesMut::new(),
            at: At::Head { searched: 0 },
            timer: Some(Box::pin(tokio::time::sleep(limits.timeout))),
            began: Arc::default(),
        }
    }

    /// Becomes true with the first byte of the first head.
    #[must_use]
    pub fn began(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.began)
    }

    /// The socket.
    #[must_use]
    pub fn into_inner(self) -> S {
        self.socket
    }

    /// Judges what came in as far as it goes.
    fn judge(&mut self) {
        while !self.incoming.is_empty() {
            // RFC 9112 2.2: empty lines before a request are to be ignored.
            if matches!(self.at, At::Head { .. }) && self.incoming.starts_with(b"\r\n") {
                self.incoming.advance(2);
                self.at = At::Head { searched: 0 };
                continue;
            }
            match &mut self.at {
                At::Head { searched } => {
                    let verdict = head::end(&self.incoming, *searched).and_then(|end| match end {
                        Some(end) if end > self.limits.max_bytes => Err(Refusal::TooLarge),
                        Some(end) => {
                            let bytes = self.incoming.get(..end).unwrap_or_default();
                            head::judge(bytes, self.limits.max_headers).map(|f| Some((end, f)))
                        }
                        None if self.incoming.len() >= self.limits.max_bytes => {
                            Err(Refusal::TooLarge)
                        }
                        None => Ok(None),
                    });
                    match verdict {
                        Ok(Some((end, framing))) => self.admit(end, framing),
                        Ok(None) => {
                            *searched = self.incoming.len();
                            return;
                        }
                        Err(refusal) => return self.refuse(refusal),
                    }
                }
                At::Body(left) => {
                    let taken =
                        usize::try_from(*left).unwrap_or(usize::MAX).min(self.incoming.len());
                    *left -= taken as u64;
                    if *left == 0 {
                        self.at = At::Head { searched: 0 };
                    }
                    self.clear(taken);
                }
                At::Chunks(chunks) => match chunks.advance(&self.incoming, self.limits.max_bytes) {
                    Ok(taken) => {
                        if chunks.is_over() {
                            self.at = At::Head { searched: 0 };
                        }
                        self.clear(taken);
                    }
                    Err(_) => self.at = At::Broken,
                },
                At::Refused | At::Broken => return,
            }
        }
    }

    fn clear(&mut self, length: usize) {
        let piece = self.incoming.split_to(length);
        if self.cleared.is_empty() {
            self.cleared = piece;
        } else {
            self.cleared.extend_from_slice(&piece);
        }
    }

    fn admit(&mut self, end: usize, framing: Framing) {
        self.timer = None;
        self.clear(end);
        self.at = match framing {
            Framing::Length(0) => At::Head { searched: 0 },
            Framing::Length(length) => At::Body(length),
            Framing::Chunked => At::Chunks(Chunks::start()),
        };
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.timer = None;
        self.incoming.clear();
        self.cleared.extend_from_slice(refusal.stand_in().as_bytes());
        self.at = At::Refused;
    }
}

impl<S: AsyncRead + Unpin> Strict<S> {
    /// Bytes of a body need no looking at: they go to hyper as they come.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        left: u64,
    ) -> Poll<io::Result<()>> {
        let room = usize::try_from(left).unwrap_or(usize::MAX);
        let read = if room >= buf.remaining() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
            buf.filled().len() - before
        } else {
            // Not a byte of the next request may get past the judge.
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
            read
        };
        let left = left.saturating_sub(read as u64);
        self.at = if left == 0 { At::Head { searched: 0 } } else { At::Body(left) };
        Poll::Ready(Ok(()))
    }

    /// Takes in another piece and judges it; false at the end of the stream.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [0; PIECE_BYTES];
        let mut piece = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut piece))?;
        if piece.filled().is_empty() {
            return Poll::Ready(Ok(false));
        }
        self.began.store(true, Ordering::Relaxed);
        self.incoming.extend_from_slice(piece.filled());
        self.judge();
        let in_head = matches!(self.at, At::Head { .. }) && !self.incoming.is_empty();
        if in_head && self.timer.is_none() {
            self.timer = Some(Box::pin(tokio::time::sleep(self.limits.timeout)));
        }
        Poll::Ready(Ok(true))
    }

    /// The head's time is up?
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Strict<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.cleared.is_empty() {
                let length = this.cleared.len().min(buf.remaining());
                buf.put_slice(this.cleared.get(..length).unwrap_or_default());
                this.cleared.advance(length);
                return Poll::Ready(Ok(()));
            }
            match this.at {
                At::Body(left) if this.incoming.is_empty() => return this.poll_body(cx, buf, left),
                At::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                // hyper closes after the stand-in's answer; an end of stream here would make it
                // give up before.
                At::Refused => return Poll::Pending,
                At::Head { .. } | At::Body(_) | At::Chunks(_) => {}
            }
            match this.poll_more(cx) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    ready!(this.poll_late(cx));
                    if this.incoming.is_empty() {
                        // Nothing was ever asked: an end is all there is to say.
                        return Poll::Ready(Ok(()));
                    }
                    this.refuse(Refusal::TooSlow);
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Strict<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LIMITS: HeadLimits =
        HeadLimits { max_bytes: 200, max_headers: 10, timeout: Duration::from_millis(60) };

    /// What hyper gets to see of what a client sends, in pieces of `step` bytes.
    async fn seen(sent: &str, step: usize) -> String {
        let (mut client, server) = tokio::io::duplex(64);
        let mut strict = Strict::new(server, LIMITS);
        let sent = sent.to_owned();
        let sending = tokio::spawn(async move {
            for piece in sent.as_bytes().chunks(step) {
                if client.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            // Held open: an end of stream is another matter.
            tokio::time::sleep(Duration::from_millis(300)).await;
        });
        let mut got = Vec::new();
        let mut buffer = [0; 50];
        while let Ok(Ok(read)) =
            tokio::time::timeout(Duration::from_millis(150), strict.read(&mut buffer)).await
        {
            if read == 0 {
                got.extend_from_slice(b"<end>");
                break;
            }
            got.extend_from_slice(&buffer[..read]);
        }
        sending.abort();
        String::from_utf8(got).unwrap()
    }

    #[tokio::test]
    async fn good_requests_pass_unchanged_one_after_the_other() {
        let requests = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n\
                        POST /b HTTP/1.1\r\nContent-Length: 11\r\n\r\nGET / \n\n\n\r\n\
                        POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\0\r\n\r\n0\r\n\r\n\
                        HEAD /d HTTP/1.1\r\n\r\n";
        for step in [1, 2, 7, 33, 1000] {
            assert_eq!(seen(requests, step).await, requests, "{step}");
        }
    }

    #[tokio::test]
    async fn a_refused_head_is_replaced_and_nothing_after_it_passes() {
        let good = "GET /a HTTP/1.1\r\n\r\n";
        let both = "POST /b HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        let smuggled = format!("{good}{both}0\r\n\r\nGET /secret HTTP/1.1\r\n\r\n");
        let expected = format!("{good}{}", Refusal::Ambiguous.stand_in());
        for step in [1, 5, 1000] {
            assert_eq!(seen(&smuggled, step).await, expected, "{step}");
        }
        let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(200));
        assert_eq!(seen(&long, 1000).await, Refusal::TooLarge.stand_in());
        assert_eq!(seen(&long, 9).await, Refusal::TooLarge.stand_in());
        // One without an end is refused by what has come of it, not when its time is up.
        let endless = format!("GET /{}", "a".repeat(300));
        assert_eq!(seen(&endless, 1000).await, Refusal::TooLarge.stand_in());
    }

    #[tokio::test]
    async fn a_bad_chunk_ends_the_connection() {
        let head = "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        let sent = format!("{head}3\r\nabcdGET / HTTP/1.1\r\n\r\n");
        let passed = seen(&sent, 1).await;
        assert_eq!(passed, format!("{head}3\r\nabc"));
        assert_eq!(seen(&sent, 1000).await, head);
    }

    #[tokio::test]
    async fn a_dripping_head_is_refused_and_a_silent_client_just_left() {
        let dripped = seen("GET /a HTTP/1.1\r\nHost", 1000).await;
        assert_eq!(dripped, Refusal::TooSlow.stand_in());
        assert_eq!(seen("", 1).await, "<end>");
        let good = "GET /a HTTP/1.1\r\n\r\n";
        let second = seen(&format!("{good}GET"), 1000).await;
        assert_eq!(second, format!("{good}{}", Refusal::TooSlow.stand_in()));
        // Between requests time is not ours to measure.
        assert_eq!(seen(good, 1000).await, good);
    }

    #[tokio::test]
    async fn empty_lines_before_a_request_are_skipped() {
        let good = "GET /a HTTP/1.1\r\n\r\n";
        for step in [1, 1000] {
            assert_eq!(seen(&format!("\r\n{good}\r\n\r\n{good}"), step).await, good.repeat(2));
        }
    }
}
