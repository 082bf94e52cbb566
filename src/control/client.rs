//! The asking side, for the command line; blocking.

use super::{Asked, Hello, Reply, Request};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A daemon that is silent this long is taken for dead. Verifying sends nothing while it reads:
/// 16 GiB from a slow card are a few minutes.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Why a daemon could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It can't be reached although there is a socket: usually the wrong user.
    #[error("the control socket {} can't be used: {source}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It closed the connection or sent something else.
    #[error("the daemon's answer broke off: {0}")]
    Broken(#[source] io::Error),
    /// It said no, or could not.
    #[error("{0}")]
    Failed(String),
}

/// A daemon that answers.
#[derive(Debug)]
pub struct Daemon {
    stream: BufReader<UnixStream>,
    hello: Hello,
}

impl Daemon {
    /// The first daemon that answers on one of these sockets; `None` when none of them has one.
    ///
    /// # Errors
    /// `Refused` when there is one that doesn't talk to us; `Failed` with its reason when it says it.
    pub fn find(paths: &[PathBuf]) -> Result<Option<Self>, AskError> {
        for path in paths {
            match UnixStream::connect(path) {
                Ok(stream) => return Self::greet(stream).map(Some),
                Err(error) if is_nobody(&error) => {}
                Err(source) => return Err(AskError::Refused { path: path.clone(), source }),
            }
        }
        Ok(None)
    }

    fn greet(stream: UnixStream) -> Result<Self, AskError> {
        stream.set_read_timeout(Some(PATIENCE)).map_err(AskError::Broken)?;
        let mut stream = BufReader::new(stream);
        let line = line(&mut stream)?;
        match serde_json::from_str(&line) {
            Ok(hello) => Ok(Self { stream, hello }),
            Err(_) => match reply(&line)? {
                Reply::Failed { what } => Err(AskError::Failed(what)),
                _ => Err(AskError::Broken(io::ErrorKind::InvalidData.into())),
            },
        }
    }

    /// Who it is.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// True when its cache is that folder.
    #[must_use]
    pub fn has_cache(&self, folder: &Path) -> bool {
        let real = |path: &Path| path.canonicalize().ok();
        self.hello.cache_dir.as_deref().is_some_and(|own| {
            own == folder || real(own).is_some_and(|own| real(folder) == Some(own))
        })
    }

    /// Asks, and shows each reply to `visit`.
    ///
    /// # Errors
    /// `Failed` when the daemon could not do it, `Broken` when it didn't finish.
    pub fn ask(mut self, request: Request, visit: &mut dyn FnMut(Reply)) -> Result<(), AskError> {
        let mut text = serde_json::to_vec(&Asked { request }).unwrap_or_default();
        text.push(b'\n');
        self.stream.get_mut().write_all(&text).map_err(AskError::Broken)?;
        loop {
            match reply(&line(&mut self.stream)?)? {
                Reply::End => return Ok(()),
                Reply::Failed { what } => return Err(AskError::Failed(what)),
                other => visit(other),
            }
        }
    }
}

fn line(stream: &mut BufReader<UnixStream>) -> Result<String, AskError> {
    let mut line = String::new();
    match stream.read_line(&mut line) {
        Ok(0) => Err(AskError::Broken(io::ErrorKind::UnexpectedEof.into())),
        Ok(_) => Ok(line),
        Err(error) => Err(AskError::Broken(error)),
    }
}

fn reply(line: &str) -> Result<Reply, AskError> {
    serde_json::from_str(line).map_err(|error| AskError::Broken(error.into()))
}

/// No socket, or one that a daemon left behind when it was killed.
fn is_nobody(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotADirectory, NotFound};
    // InvalidInput: the path is longer than a socket's may be, so no daemon has it.
    matches!(error.kind(), NotFound | NotADirectory | ConnectionRefused | InvalidInput)
}
