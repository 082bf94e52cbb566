//! Sockets that systemd opened for us (`sam2d.socket`), by sd_listen_fds(3).
//!
//! They are ours alone: a decoder child that inherited one could answer in our name, so each is
//! closed on exec (by listenfd) before any child is started; a test looks into the children.

use listenfd::ListenFd;
use std::io;
use std::net::TcpListener;

/// What was handed over can't be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "systemd handed over socket {index}, which can't be served: {source}; sam2d.socket takes ListenStream= with addresses and ports only"
)]
pub(super) struct SocketError {
    index: usize,
    source: io::Error,
}

/// All that was handed over, in the socket unit's order; none without socket activation.
pub(super) fn inherited() -> Result<Vec<TcpListener>, SocketError> {
    let mut handed = ListenFd::from_env();
    let mut listeners = Vec::new();
    for index in 0..handed.len() {
        let failed = |source| SocketError { index, source };
        let listener = handed.take_tcp_listener(index).map_err(failed)?;
        if let Some(listener) = listener {
            listeners.push(listener);
        }
    }
    Ok(listeners)
}
