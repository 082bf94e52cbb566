//! Which addresses may be opened, decided before the first socket is.
//!
//! Invariant: an address that strangers can reach is never opened by default.

use crate::access::keeper::Keeper;
use crate::http::options::Options;
use std::net::SocketAddr;

/// Why an address without TLS that other machines can reach is worth a word.
pub const IN_CLEAR: &str = "other machines can reach this address, and it has no TLS: whoever listens on the network between reads tokens, pictures and masks";
/// What to do about it.
pub const IN_CLEAR_REMEDY: &str = "unless only a proxy with TLS asks there: `sam2d cert init`, tls.listen = [\"0.0.0.0:8443\"], http.listen = [\"127.0.0.1:8642\"]";

/// Can other machines reach it?
#[must_use]
pub fn is_open(address: &SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Serving this address would let strangers in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} can be reached from other machines, and nothing says who may ask. Create a token (`sam2d token create`), or set http.anonymous_networks to the addresses that may (for example [\"10.1.2.3/32\"]), or http.allow_anonymous = true to let everybody in, or listen on 127.0.0.1"
)]
pub struct OpenAddress {
    /// The first such address.
    pub address: SocketAddr,
}

/// May these addresses (configured, or of inherited sockets) be served under these rules?
///
/// # Errors
/// [`OpenAddress`] for an address beyond loopback while nothing says who may ask.
pub fn may_listen(
    options: &Options,
    addresses: &[SocketAddr],
    keeper: &Keeper,
) -> Result<(), OpenAddress> {
    let named = options.allow_anonymous || !options.anonymous_networks.is_empty();
    let ruled = named || keeper.is_on();
    let open = addresses.iter().find(|address| is_open(address));
    match open {
        Some(&address) if !ruled => Err(OpenAddress { address }),
        _ => Ok(()),
    }
}
