//! The answering side: a task beside the HTTP server.

use super::{Asked, Hello, MAX_REQUEST_BYTES, Options, Reply, Request};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Lines that wait for a client: it is slower than the disk, or busy.
const LINES: usize = 256;

/// Does what a request asks; blocking, on a thread of its own.
pub type Answer = dyn Fn(Request, &Replies) -> Result<(), String> + Send + Sync;

/// Where an answer goes.
#[derive(Debug)]
pub struct Replies(mpsc::Sender<Reply>);

impl Replies {
    /// Sends a line; `Break` once the client (or the daemon) is gone and the rest is for nothing.
    pub fn send(&self, reply: Reply) -> ControlFlow<()> {
        match self.0.blocking_send(reply) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// As [`Replies::send`], without anything to send.
    pub fn go_on(&self) -> ControlFlow<()> {
        if self.0.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error(
        "another daemon answers on {}: choose another one for this (control.socket)",
        path.display()
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The system said no.
    #[error("the control socket {} can't be made: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// A bound socket; gone from the folder when dropped.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode: a socket that has replaced ours is not ours to remove.
    id: Option<(u64, u64)>,
    options: Options,
}

impl Server {
    /// Makes the socket. Within a runtime.
    ///
    /// # Errors
    /// `Taken` for the operator; `Io` when the folder or the socket can't be made.
    pub fn bind(options: &Options, path: &Path) -> Result<Self, BindError> {
        let at = |source| BindError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            let mut make = std::fs::DirBuilder::new();
            make.recursive(true).mode(0o700).create(folder).map_err(at)?;
        }
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // One that nobody answers on was left by a daemon that was killed.
                match std::os::unix::net::UnixStream::connect(path) {
                    Ok(_) => return Err(BindError::Taken { path: path.to_owned() }),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                        std::fs::remove_file(path).map_err(at)?;
                        UnixListener::bind(path).map_err(at)?
                    }
                    Err(error) => return Err(at(error)),
                }
            }
            bound => bound.map_err(at)?,
        };
        let closed = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(path, closed).map_err(at)?;
        Ok(Self { listener, id: id(path), path: path.to_owned(), options: options.clone() })
    }

    /// Answers until dropped.
    pub async fn serve(self, hello: Hello, answer: Arc<Answer>) {
        let seats = Arc::new(Semaphore::new(self.options.max_clients));
        let patience = Duration::from_secs(self.options.timeout_s);
        loop {
            let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a client of the control socket was lost");
                    // Out of files, usually: without a pause this would spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (hello, answer) = (hello.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                if let Err(error) = converse(stream, &hello, answer, patience).await {
                    tracing::debug!(%error, "a client of the control socket left");
                }
                drop(seat);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.id.is_some() && id(&self.path) == self.id {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

/// One client: who, what, the answer.
async fn converse(
    mut stream: UnixStream,
    hello: &Hello,
    answer: Arc<Answer>,
    patience: Duration,
) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    if !may_ask(peer, own) {
        tracing::warn!(peer, "another user asked on the control socket: refused");
        let what = format!("only root and user {own} are answered here, not user {peer}");
        return send(&mut stream, &Reply::Failed { what }, patience).await;
    }
    send(&mut stream, hello, patience).await?;
    let request = match timeout(patience, request(&mut stream)).await {
        Ok(Ok(request)) => request,
        Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
            let what = format!("not a request of this version: {error}");
            return send(&mut stream, &Reply::Failed { what }, patience).await;
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    tracing::info!(?request, peer, "asked on the control socket");
    let (replies, mut lines) = mpsc::channel(LINES);
    let work = tokio::task::spawn_blocking(move || answer(request, &Replies(replies)));
    while let Some(line) = lines.recv().await {
        send(&mut stream, &line, patience).await?;
    }
    let last = match work.await {
        Ok(Ok(())) => Reply::End,
        Ok(Err(what)) => Reply::Failed { what },
        Err(_) => Reply::Failed { what: "a bug: see the daemon's log".to_owned() },
    };
    send(&mut stream, &last, patience).await
}

/// Root may do everything anyway; any other user but our own has no business here.
fn may_ask(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

async fn request(stream: &mut UnixStream) -> io::Result<Request> {
    let mut line = Vec::new();
    let mut stream = BufReader::new(stream).take(MAX_REQUEST_BYTES);
    if stream.read_until(b'\n', &mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let asked = serde_json::from_slice::<Asked>(&line);
    asked
        .map(|asked| asked.request)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

async fn send(
    stream: &mut UnixStream,
    line: &impl serde::Serialize,
    patience: Duration,
) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    match timeout(patience, stream.write_all(&text)).await {
        Ok(written) => written,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::client::{AskError, Daemon};

    fn hello() -> Hello {
        Hello { sam2d: "0".to_owned(), pid: 1, cache_dir: None }
    }

    /// Answers a purge with as many lines as can be sent, and the rest as asked.
    fn bind(folder: &Path, options: &Options) -> (PathBuf, Result<Server, BindError>) {
        let path = folder.join("deep/control.sock");
        let server = Server::bind(options, &path);
        (path, server)
    }

    fn endless() -> Arc<Answer> {
        Arc::new(|request, replies: &Replies| match request {
            Request::CacheStat => Err("no cache here".to_owned()),
            Request::CachePurge => replies_until_gone(replies),
            Request::CacheList | Request::CacheVerify => Ok(()),
        })
    }

    fn replies_until_gone(replies: &Replies) -> Result<(), String> {
        let mut files = 0;
        while replies.send(Reply::CachePurged { files }).is_continue() {
            files += 1;
        }
        Ok(())
    }

    async fn asked(path: &Path, request: Request) -> Result<Vec<Reply>, AskError> {
        let paths = [path.to_owned()];
        tokio::task::spawn_blocking(move || {
            let daemon = Daemon::find(&paths)?.unwrap();
            let mut replies = vec![];
            daemon.ask(request, &mut |reply| replies.push(reply)).map(|()| replies)
        })
        .await
        .unwrap()
    }

    #[test]
    fn root_and_our_own_user_may_ask_and_nobody_else() {
        assert!(may_ask(0, 1000) && may_ask(1000, 1000) && may_ask(0, 0));
        assert!(!may_ask(1001, 1000) && !may_ask(1000, 0));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_ends_with_end_or_with_why_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, server) = bind(folder.path(), &Options::default());
        let serving = tokio::spawn(server.unwrap().serve(hello(), endless()));
        assert_eq!(asked(&path, Request::CacheList).await.unwrap(), []);
        let failed = asked(&path, Request::CacheStat).await.unwrap_err();
        assert_eq!(failed.to_string(), "no cache here");
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        serving.abort();
        let _ = serving.await;
        assert!(!path.exists(), "a daemon that ends takes its socket along");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (path, first) = bind(folder.path(), &Options::default());
        let mut first = first.unwrap();
        first.id = None; // as if it had been killed
        let (_, second) = bind(folder.path(), &Options::default());
        assert!(matches!(second, Err(BindError::Taken { .. })), "{second:?}");
        drop(first);
        assert!(path.exists());
        let (_, third) = bind(folder.path(), &Options::default());
        tokio::spawn(third.unwrap().serve(hello(), endless()));
        assert_eq!(asked(&path, Request::CacheVerify).await.unwrap(), []);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_is_silent_talks_nonsense_or_leaves_takes_no_seat_for_long() {
        use std::io::{BufRead as _, BufReader as StdReader, Read as _, Write as _};
        let folder = tempfile::tempdir().unwrap();
        let options = Options { max_clients: 1, timeout_s: 1, ..Options::default() };
        let (path, server) = bind(folder.path(), &options);
        tokio::spawn(server.unwrap().serve(hello(), endless()));
        let odd = path.clone();
        let nonsense = tokio::task::spawn_blocking(move || {
            let connect = || std::os::unix::net::UnixStream::connect(&odd).unwrap();
            let mut silent = connect();
            silent.read_to_end(&mut vec![]).unwrap();
            let mut long = connect();
            // Refused after the first 4096 bytes; the rest may not be taken any more.
            let _ = long.write_all(&[b'x'; 100_000]);
            let mut text = String::new();
            let _ = long.read_to_string(&mut text);
            let mut leaving = connect();
            leaving.write_all(b"{\"do\":\"cache-purge\"}\n").unwrap();
            StdReader::new(&leaving).read_line(&mut String::new()).unwrap();
            drop(leaving);
            let mut odd = connect();
            odd.write_all(b"{\"do\":\"cache-purge\",\"all\":true}\n").unwrap();
            let mut text = String::new();
            odd.read_to_string(&mut text).unwrap();
            text
        });
        let text = nonsense.await.unwrap();
        assert!(text.contains("failed") && text.contains("not a request"), "{text}");
        assert_eq!(asked(&path, Request::CacheVerify).await.unwrap(), []);
    }
}
