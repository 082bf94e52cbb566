//! Networks named in the configuration, and whose address a request really comes from.
//!
//! Invariant: a forwarding header is believed only from a peer in `http.trusted_proxies`.

use http::HeaderMap;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A network in CIDR notation, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

/// Why a text is not a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Neither `ADDRESS` nor `ADDRESS/BITS`.
    #[error("\"{0}\" is not a network; write it as 10.1.2.0/24 or 10.1.2.3")]
    Malformed(String),
    /// `10.1.2.3/24`: most likely another network is meant than the one that would be used.
    #[error("\"{given}\" has address bits beyond its prefix; the network is {network}")]
    HostBits {
        /// As written.
        given: String,
        /// The network that contains it.
        network: Cidr,
    },
}

impl Cidr {
    /// Is the address in this network? IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)) => {
                masked(address.to_canonical(), self.bits) == self.address
            }
            _ => false,
        }
    }
}

/// The address with all bits beyond the prefix cleared.
fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let malformed = || CidrError::Malformed(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|b| *b <= most).ok_or_else(malformed)?,
            None => most,
        };
        let network = Self { address: masked(address, bits), bits };
        if network.address != address {
            return Err(CidrError::HostBits { given: text.to_owned(), network });
        }
        Ok(network)
    }
}

impl TryFrom<String> for Cidr {
    type Error = CidrError;

    fn try_from(text: String) -> Result<Self, CidrError> {
        text.parse()
    }
}

impl From<Cidr> for String {
    fn from(network: Cidr) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Who is asking: the peer, or, where the peer is a trusted proxy, the last address in
/// `X-Forwarded-For` that is none. Anything to the left of that may be the client's invention.
#[must_use]
pub fn client_address(peer: IpAddr, headers: &HeaderMap, trusted_proxies: &[Cidr]) -> IpAddr {
    let trusted = |address: IpAddr| trusted_proxies.iter().any(|proxy| proxy.contains(address));
    let mut client = peer.to_canonical();
    let forwarded: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for hop in forwarded.into_iter().rev() {
        if !trusted(client) {
            break;
        }
        match hop.trim().parse::<IpAddr>() {
            Ok(address) => client = address.to_canonical(),
            // A hop that is no address says nothing of who is asking.
            Err(_) => break,
        }
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_holds_its_own_addresses_and_no_others() {
        let net = cidr("10.1.2.0/23");
        for inside in ["10.1.2.0", "10.1.3.255", "::ffff:10.1.2.7"] {
            assert!(net.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["10.1.1.255", "10.1.4.0", "::1", "fe80::1"] {
            assert!(!net.contains(outside.parse().unwrap()), "{outside}");
        }
        assert!(cidr("0.0.0.0/0").contains("8.8.8.8".parse().unwrap()));
        assert!(!cidr("0.0.0.0/0").contains("::1".parse().unwrap()));
        assert!(cidr("fd00::/8").contains("fdab::1".parse().unwrap()));
        assert!(cidr("10.1.2.3").contains("10.1.2.3".parse().unwrap()));
        assert!(!cidr("10.1.2.3").contains("10.1.2.4".parse().unwrap()));
    }

    #[test]
    fn a_network_that_is_none_is_refused_with_what_to_write() {
        for text in ["", "10.1.2", "10.1.2.0/33", "10.1.2.0/-1", "10.1.2.0/", "box/8", "::/129"] {
            assert!(matches!(text.parse::<Cidr>(), Err(CidrError::Malformed(_))), "{text}");
        }
        let error = "10.1.2.3/24".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().ends_with("the network is 10.1.2.0/24"), "{error}");
    }

    #[test]
    fn forwarding_headers_are_believed_only_from_trusted_proxies() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", HeaderValue::from_static("1.1.1.1, 10.0.0.9, 10.0.0.2"));
        let ask = |peer: &str, trusted: &[Cidr]| {
            client_address(peer.parse().unwrap(), &headers, trusted).to_string()
        };
        assert_eq!(ask("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(ask("10.0.0.1", &[cidr("10.0.0.1")]), "10.0.0.2");
        assert_eq!(ask("10.0.0.1", &[cidr("10.0.0.0/30")]), "10.0.0.9");
        assert_eq!(ask("192.168.0.1", &[cidr("10.0.0.0/8")]), "192.168.0.1");
    }
}
