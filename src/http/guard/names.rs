//! Under which name the box is asked, and from a page of which origin.
//!
//! Invariant: a page of another host can't ask, even with the box's address hidden behind a name of
//! its own (DNS rebinding): both Host and Origin must be known.

use crate::http::network::Cidr;
use crate::http::options::Options;
use crate::http::wire::problem::{Code, Problem};
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri};
use std::net::IpAddr;

/// The names that are known.
#[derive(Clone, Debug)]
pub(super) struct Names {
    hosts: Vec<HostRule>,
    origins: Vec<Origin>,
    proxies: Vec<Cidr>,
}

/// One entry of `http.allowed_hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostRule {
    /// Loopback names, and whatever address of ours was reached.
    Auto,
    /// A name, on one port or any.
    Name(String, Option<u16>),
}

impl Names {
    /// As configured; `own` are the box's own, which `auto` includes.
    pub(super) fn new(options: &Options, own: &[String]) -> Self {
        let mut hosts = Vec::new();
        for host in &options.allowed_hosts {
            if host == "auto" {
                hosts.push(HostRule::Auto);
                hosts.extend(own.iter().map(|name| HostRule::Name(folded(name), None)));
            } else if let Ok(authority) = host.parse::<Authority>() {
                let name = folded(authority.host());
                hosts.push(HostRule::Name(name, authority.port_u16()));
            }
        }
        let origins = options.allowed_origins.iter().filter_map(|o| Origin::parse(o)).collect();
        Self { hosts, origins, proxies: options.trusted_proxies.clone() }
    }

    /// The name under which the box is asked.
    pub(super) fn host(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        peer: IpAddr,
    ) -> Result<Authority, Problem> {
        let malformed = || Problem::invalid("the request needs exactly one valid Host header");
        let mut hosts = headers.get_all(HOST).iter();
        let (header, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(malformed());
        }
        let believed = self.proxies.iter().any(|net| net.contains(peer));
        let forwarded = headers.get("x-forwarded-host").filter(|_| believed);
        let text = match (forwarded, uri.authority(), header) {
            (Some(forwarded), _, _) => forwarded.to_str().ok(),
            // RFC 9112 3.2.2: an absolute target's authority counts, not the header.
            (None, Some(authority), _) => Some(authority.as_str()),
            (None, None, Some(header)) => header.to_str().ok(),
            (None, None, None) => None,
        };
        let authority: Authority = text.ok_or_else(malformed)?.parse().map_err(|_| malformed())?;
        // SECURITY: `localhost@evil.example` must not pass for either of its halves.
        if authority.as_str().contains('@') { Err(malformed()) } else { Ok(authority) }
    }

    /// Is it a name of the box, or the address of ours that was reached?
    pub(super) fn is_ours(&self, host: &Authority, reached: IpAddr) -> bool {
        let name = folded(host.host());
        self.hosts.iter().any(|rule| match rule {
            HostRule::Name(known, port) => {
                *known == name && port.is_none_or(|port| host.port_u16() == Some(port))
            }
            // SECURITY: a page that rebinds its own name to this address sends that name here, not
            // the address. The reached address itself is therefore safe, any other one unknown.
            HostRule::Auto => match name.parse::<IpAddr>() {
                Ok(address) => address.is_loopback() || address == reached.to_canonical(),
                Err(_) => name == "localhost",
            },
        })
    }

    /// The Origin, if any, when its page may ask.
    pub(super) fn origin(
        &self,
        host: &Authority,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, Problem> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let Some(header) = origins.next() else { return Ok(None) };
        let origin = header.to_str().ok().and_then(Origin::parse);
        let allowed = origin.is_some_and(|origin| {
            origins.next().is_none() && (origin.is_of(host) || self.origins.contains(&origin))
        });
        if allowed {
            Ok(Some(header.clone()))
        } else {
            Err(Problem::new(
                Code::Forbidden,
                "pages of this origin may not ask; the operator lists those that may in http.allowed_origins",
            ))
        }
    }
}

/// A web origin: scheme, host, port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// From `scheme://host[:port]`; `null` and anything with a path is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default = default_port(&scheme)?;
        let authority: Authority = rest.parse().ok()?;
        if authority.as_str().contains('@') || authority.as_str() != rest {
            return None;
        }
        let port = authority.port_u16().unwrap_or(default);
        Some(Self { scheme, host: folded(authority.host()), port })
    }

    /// Is it the origin of pages that this host serves?
    fn is_of(&self, host: &Authority) -> bool {
        let port = host.port_u16().or_else(|| default_port(&self.scheme));
        self.host == folded(host.host()) && port == Some(self.port)
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A host in the form in which two that mean the same are equal.
fn folded(host: &str) -> String {
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase(),
    }
}

/// The names of this machine: its host name, that without its domain, and as found by mDNS.
#[must_use]
pub fn machine_names() -> Vec<String> {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let first = node.split('.').next().unwrap_or_default().to_owned();
    let local = format!("{first}.local");
    let mut names = vec![node, first, local];
    names.retain(|name| !name.is_empty() && !name.starts_with('.'));
    names
}
