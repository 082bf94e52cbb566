//! The control socket: how `sam2d …` on this machine asks a running daemon to do something.
//!
//! A Unix socket in the runtime folder. A client sends one [`Request`] as a line of JSON; the daemon
//! says who it is ([`Hello`]), sends [`Reply`] lines, and ends with [`Reply::End`] or
//! [`Reply::Failed`]. What came without one of these came in part.
//!
//! Invariants:
//! 1. Only root and the daemon's own user are answered: the kernel says who asks (`SO_PEERCRED`).
//!    The socket's mode (0600) keeps others from asking at all.
//! 2. No failure here stops the daemon or an answer to an editor: without a socket it serves on, and
//!    says so once.
//! 3. Clients, the length of a request and the time for it are bounded; a client that leaves ends
//!    the work for it.
//! 4. A socket that another daemon answers on is never taken from it.
//!
//! It knows what can be asked, not how it is done: whoever serves brings that along.

pub mod client;
mod options;
pub mod server;
pub mod wire;

pub use options::Options;
pub use wire::{Asked, CacheEntry, CacheStat, Hello, Reply, Request};

/// A request names a verb; it needs no more.
const MAX_REQUEST_BYTES: u64 = 4096;
