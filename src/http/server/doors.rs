//! Sockets that listen: opened, adopted, accepted from, and emptied at the end.

use crate::http::tls::Tls;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;
use tokio::net::{TcpListener, TcpStream};

/// A socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}: {}", cause(source, *address))]
pub struct BindError {
    /// As configured.
    pub address: SocketAddr,
    /// The system's word.
    pub source: io::Error,
}

fn cause(error: &io::Error, address: SocketAddr) -> String {
    let next = SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(8642));
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "the port is taken (by another sam2d?); choose another one with --listen {next}"
        ),
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; choose one of its own with --listen".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE, or choose another one with --listen"
                .to_owned()
        }
        _ => error.to_string(),
    }
}

/// A socket, and whether what comes through it is secured.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) tls: Option<Tls>,
}

/// A connection that nobody serves yet.
pub(super) struct Arrived {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) tls: Option<Tls>,
}

/// Opens these addresses, with TLS on them or without.
pub(super) async fn open(
    addresses: &[SocketAddr],
    tls: Option<&Tls>,
) -> Result<(Vec<Door>, Vec<SocketAddr>), BindError> {
    let (mut doors, mut opened) = (Vec::new(), Vec::new());
    for &address in addresses {
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        opened.push(listener.local_addr().map_err(failed)?);
        doors.push(Door { listener, tls: tls.cloned() });
    }
    Ok((doors, opened))
}

/// The next connection of any listener.
pub(super) async fn accept(doors: &[Door]) -> io::Result<Arrived> {
    poll_fn(|cx| {
        for door in doors {
            if let Poll::Ready(accepted) = door.listener.poll_accept(cx) {
                let tls = door.tls.clone();
                return Poll::Ready(accepted.map(|(stream, peer)| Arrived { stream, peer, tls }));
            }
        }
        Poll::Pending
    })
    .await
}

/// What the kernel accepted for us and nobody has taken yet; closing the socket would reset it.
pub(super) fn backlog(doors: Vec<Door>) -> Vec<Arrived> {
    let mut waiting = Vec::new();
    for Door { listener, tls } in doors {
        let Ok(listener) = listener.into_std() else { continue };
        // The socket is non-blocking: an empty backlog is an error.
        while let Ok((stream, peer)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            let arrived = |stream| Arrived { stream, peer, tls: tls.clone() };
            waiting.extend(stream.ok().map(arrived));
        }
    }
    waiting
}
