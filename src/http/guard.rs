//! Who may ask what, decided from the head of a request before any of its body is read.
//!
//! In order: is the box asked under a name of its own (421), by a page that may (403), by somebody
//! who may (401, 403)? And before the first socket opens: [`may_listen`].
//!
//! Invariants:
//! 1. A page of another host can't ask, even with the box's address hidden behind a name of its own
//!    (DNS rebinding): both Host and Origin must be known.
//! 2. An address that strangers can reach is never opened by default.
//! 3. Forwarding headers count only from `http.trusted_proxies`.
//! 4. Where tokens are asked for, being on this machine is no reason to be let in: what a proxy
//!    forwards comes from this machine too. `http.anonymous_networks` can name it.

use super::network::client_address;
use super::options::Options;
use super::routes::Route;
use super::wire::problem::{Code, Problem};
use crate::access::keeper::{Keeper, Recall};
use crate::access::throttle::Throttle;
use crate::access::{Grant, Options as AccessOptions};
use http::header::{AUTHORIZATION, HOST, ORIGIN, WWW_AUTHENTICATE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Uri};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// argon2 runs at a time: each takes a core for tens of milliseconds, and 19 MiB.
const MAX_PROOFS: usize = 2;

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Who connected.
    pub peer: SocketAddr,
    /// The address of ours that was reached.
    pub local: SocketAddr,
    /// SHA-256 of the client's certificate, where it showed one and `tls.client_ca` vouches for it.
    pub certificate: Option<[u8; 32]>,
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
    let open = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback());
    match open {
        Some(&address) if !ruled => Err(OpenAddress { address }),
        _ => Ok(()),
    }
}

/// Who is asking, as far as it matters to what they may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// May ask everything: shows a certificate, is of a named network, or everybody may, or on this machine while no tokens
    /// are asked for.
    Known,
    /// Showed a right token.
    Holder(Grant),
    /// Showed nothing: may ask the open routes only.
    Stranger,
    /// Showed something that is no right token: no more than a stranger.
    Mistaken,
    /// Showed wrong tokens too often: this one was not looked at.
    Throttled(Duration),
}

impl Caller {
    /// May they know more than that the box is there?
    #[must_use]
    pub fn is_let_in(&self) -> bool {
        matches!(self, Self::Known | Self::Holder(_))
    }
}

/// What the guard found out about a request that it let pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Passed {
    /// Who asks, as far as their address tells.
    pub caller: Caller,
    /// Their address.
    pub client: IpAddr,
    /// The Origin, when there is one; it is allowed.
    pub origin: Option<HeaderValue>,
}

/// The rules, read once.
#[derive(Clone, Debug)]
pub struct Guard {
    options: Options,
    hosts: Vec<HostRule>,
    origins: Vec<Origin>,
    keeper: Option<Keeper>,
    throttle: Arc<Throttle>,
    proofs: Arc<Semaphore>,
}

/// One entry of `http.allowed_hosts`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum HostRule {
    /// Loopback names, and whatever address of ours was reached.
    Auto,
    /// A name, on one port or any.
    Name(String, Option<u16>),
}

impl Guard {
    /// `names` are the box's own, which `auto` includes.
    #[must_use]
    pub fn new(options: &Options, names: &[String]) -> Self {
        let mut hosts = Vec::new();
        for host in &options.allowed_hosts {
            if host == "auto" {
                hosts.push(HostRule::Auto);
                hosts.extend(names.iter().map(|name| HostRule::Name(folded(name), None)));
            } else if let Ok(authority) = host.parse::<Authority>() {
                let name = folded(authority.host());
                hosts.push(HostRule::Name(name, authority.port_u16()));
            }
        }
        let origins = options.allowed_origins.iter().filter_map(|o| Origin::parse(o)).collect();
        Self {
            options: options.clone(),
            hosts,
            origins,
            keeper: None,
            throttle: Arc::new(Throttle::new(AccessOptions::default().max_failures_per_minute)),
            proofs: Arc::new(Semaphore::new(MAX_PROOFS)),
        }
    }

    /// Asks for tokens too.
    #[must_use]
    pub fn with_tokens(mut self, keeper: Keeper, max_failures_per_minute: u32) -> Self {
        self.keeper = Some(keeper);
        self.throttle = Arc::new(Throttle::new(max_failures_per_minute));
        self
    }

    /// Looks at the head of a request; `route` is `None` where there is nothing.
    ///
    /// # Errors
    /// 400 for a Host that is none, 421, 403.
    pub fn check(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Passed, Problem> {
        let host = self.host(uri, headers, connection)?;
        if !self.is_ours(&host, connection) {
            return Err(Problem::new(
                Code::WrongHost,
                "the box is not known by this host name; its operator can add the name to http.allowed_hosts",
            ));
        }
        let origin = self.origin(&host, headers)?;
        let client = client_address(connection.peer.ip(), headers, &self.options.trusted_proxies);
        let caller = match connection.certificate {
            Some(_) => Caller::Known,
            None => self.caller(client),
        };
        Ok(Passed { caller, client, origin })
    }

    /// Who it is, with the token they show. Costs one comparison, but for a token's first use.
    pub async fn identify(&self, passed: &Passed, headers: &HeaderMap) -> Caller {
        let Some(keeper) = self.keeper.as_ref().filter(|keeper| keeper.is_on()) else {
            return passed.caller.clone();
        };
        if passed.caller == Caller::Known {
            return Caller::Known;
        }
        let shown = match bearer(headers) {
            Shown::Nothing => return Caller::Stranger,
            Shown::Token(text) => text,
            Shown::Unclear => "",
        };
        let client = passed.client;
        let unproven = match keeper.recall(shown) {
            Recall::Right(grant) => return Caller::Holder(grant),
            Recall::Wrong => None,
            Recall::Unproven(token) => Some(token),
        };
        // SECURITY: before any argon2, or a guesser would have the box compute for it.
        if let Some(wait) = self.throttle.wait(client, Instant::now()) {
            return Caller::Throttled(wait);
        }
        if let (Some(token), Ok(_permit)) = (unproven, self.proofs.acquire().await) {
            let keeper = keeper.clone();
            let proof = tokio::task::spawn_blocking(move || keeper.prove(&token)).await;
            if let Ok(Some(grant)) = proof {
                return Caller::Holder(grant);
            }
        }
        self.throttle.failed(client, Instant::now());
        Caller::Mistaken
    }

    /// May this caller ask this route?
    ///
    /// # Errors
    /// 401, 403, 429.
    pub fn admit(&self, caller: &Caller, route: Route) -> Result<(), Problem> {
        if route.is_open() {
            return Ok(());
        }
        let wanted = route.scope();
        let challenge = |problem: Problem, value: &'static str| {
            problem.with_header(WWW_AUTHENTICATE, HeaderValue::from_static(value))
        };
        match caller {
            Caller::Known => Ok(()),
            Caller::Holder(grant) if grant.allows(wanted) => Ok(()),
            Caller::Holder(_) => Err(challenge(
                Problem::new(
                    Code::Forbidden,
                    format!("this token is not good for this; it would need the scope {wanted}"),
                ),
                "Bearer realm=\"sam2d\", error=\"insufficient_scope\"",
            )),
            Caller::Throttled(wait) => Err(Problem::new(
                Code::RateLimited,
                "too many wrong tokens from this address; try again later",
            )
            .with_retry_after(*wait)),
            Caller::Mistaken => Err(challenge(
                Problem::new(
                    Code::Unauthorized,
                    "this token is not valid here (any more); ask whoever runs the box",
                ),
                "Bearer realm=\"sam2d\", error=\"invalid_token\"",
            )),
            Caller::Stranger if self.asks_for_tokens() => Err(challenge(
                Problem::new(Code::Unauthorized, "a token is needed; ask whoever runs the box"),
                "Bearer realm=\"sam2d\"",
            )),
            Caller::Stranger => Err(Problem::new(
                Code::Forbidden,
                "this address may not ask here; the operator lists those that may in http.anonymous_networks",
            )),
        }
    }

    fn asks_for_tokens(&self) -> bool {
        self.keeper.as_ref().is_some_and(Keeper::is_on)
    }

    /// Who asks, by their address alone.
    fn caller(&self, client: IpAddr) -> Caller {
        let named = || self.options.anonymous_networks.iter().any(|net| net.contains(client));
        let here = || client.is_loopback() && !self.asks_for_tokens();
        if self.options.allow_anonymous || here() || named() {
            Caller::Known
        } else {
            Caller::Stranger
        }
    }

    /// The name under which the box is asked.
    fn host(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        connection: &Connection,
    ) -> Result<Authority, Problem> {
        let malformed = || Problem::invalid("the request needs exactly one valid Host header");
        let mut hosts = headers.get_all(HOST).iter();
        let (header, second) = (hosts.next(), hosts.next());
        if second.is_some() {
            return Err(malformed());
        }
        let proxy = connection.peer.ip();
        let believed = self.options.trusted_proxies.iter().any(|net| net.contains(proxy));
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

    fn is_ours(&self, host: &Authority, connection: &Connection) -> bool {
        let name = folded(host.host());
        self.hosts.iter().any(|rule| match rule {
            HostRule::Name(known, port) => {
                *known == name && port.is_none_or(|port| host.port_u16() == Some(port))
            }
            // SECURITY: a page that rebinds its own name to this address sends that name here, not
            // the address. The reached address itself is therefore safe, any other one unknown.
            HostRule::Auto => match name.parse::<IpAddr>() {
                Ok(address) => {
                    address.is_loopback() || address == connection.local.ip().to_canonical()
                }
                Err(_) => name == "localhost",
            },
        })
    }

    /// The Origin, if any, when its page may ask.
    fn origin(
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

/// What a request shows of a token.
enum Shown<'a> {
    Nothing,
    Token(&'a str),
    /// An Authorization that is none of ours, or several: treated as a wrong token.
    Unclear,
}

/// The token in `Authorization: Bearer`. It counts nowhere else: a query string ends in logs and
/// histories, and a cookie would be sent along by any page.
fn bearer(headers: &HeaderMap) -> Shown<'_> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (None, _) => Shown::Nothing,
        (Some(value), None) => {
            let words = value.to_str().ok().and_then(|text| text.split_once(' '));
            match words {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    Shown::Token(token.trim_matches(' '))
                }
                _ => Shown::Unclear,
            }
        }
        (Some(_), Some(_)) => Shown::Unclear,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options { allowed_origins: vec!["https://editor.example".to_owned()], ..Options::default() }
    }

    fn connection(peer: &str, local: &str) -> Connection {
        Connection { peer: peer.parse().unwrap(), local: local.parse().unwrap(), certificate: None }
    }

    fn ask(
        options: &Options,
        peer: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Passed, Code> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let guard = Guard::new(options, &["Box7".to_owned()]);
        let connection = connection(peer, "10.0.0.5:8642");
        guard.check(&Uri::from_static("/"), &map, &connection).map_err(|problem| problem.code())
    }

    fn host(options: &Options, host: &str) -> Result<Passed, Code> {
        ask(options, "127.0.0.1:9", &[("host", host)])
    }

    #[test]
    fn only_names_of_the_box_are_served() {
        let auto = options();
        for good in [
            "localhost",
            "LOCALHOST:8642",
            "localhost.",
            "127.0.0.1:8642",
            "127.8.9.1",
            "[::1]:1",
            "10.0.0.5",
            "10.0.0.5:99",
            "box7",
            "BOX7:8642",
            "[::ffff:10.0.0.5]",
        ] {
            assert!(host(&auto, good).is_ok(), "{good}");
        }
        for bad in
            ["evil.example", "10.0.0.6", "localhost.evil.example", "box7.evil", "box", "xbox7"]
        {
            assert_eq!(host(&auto, bad), Err(Code::WrongHost), "{bad}");
        }
        for malformed in ["", "localhost@evil.example", "a b", "evil.example@localhost", "[::1"] {
            assert_eq!(host(&auto, malformed), Err(Code::InvalidRequest), "{malformed}");
        }
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(ask(&auto, "127.0.0.1:9", &twice), Err(Code::InvalidRequest));
        assert_eq!(ask(&auto, "127.0.0.1:9", &[]), Err(Code::InvalidRequest));
    }

    #[test]
    fn a_list_of_hosts_replaces_the_automatic_ones() {
        let hosts = vec!["sam2.example".to_owned(), "other:81".to_owned()];
        let options = Options { allowed_hosts: hosts, ..options() };
        for good in ["sam2.example", "sam2.example:1", "other:81"] {
            assert!(host(&options, good).is_ok(), "{good}");
        }
        for bad in ["localhost", "10.0.0.5", "box7", "other", "other:82"] {
            assert_eq!(host(&options, bad), Err(Code::WrongHost), "{bad}");
        }
    }

    #[test]
    fn an_absolute_target_counts_instead_of_the_header() {
        let guard = Guard::new(&options(), &[]);
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        let uri = Uri::from_static("http://evil.example/");
        let problem = guard.check(&uri, &headers, &connection("127.0.0.1:9", "127.0.0.1:1"));
        assert_eq!(problem.unwrap_err().code(), Code::WrongHost);
    }

    #[test]
    fn only_pages_of_the_box_and_of_listed_origins_may_ask() {
        let origin = |host: &str, origin: &str| {
            ask(&options(), "127.0.0.1:9", &[("host", host), ("origin", origin)])
        };
        for (host, good) in [
            ("localhost:8642", "http://localhost:8642"),
            ("localhost", "https://localhost"),
            ("localhost:443", "https://LOCALHOST"),
            ("box7", "http://box7:80"),
            ("box7", "https://editor.example"),
            ("box7", "https://editor.example:443"),
        ] {
            assert_eq!(origin(host, good).unwrap().origin.unwrap(), good);
        }
        for (host, bad) in [
            ("localhost:8642", "http://localhost"),
            ("localhost:8642", "http://localhost:8643"),
            ("localhost:8642", "http://127.0.0.1:8642"),
            ("box7", "http://editor.example"),
            ("box7", "https://editor.example.evil"),
            ("box7", "https://editor.example/x"),
            ("box7", "https://a@editor.example"),
            ("box7", "null"),
            ("box7", ""),
            ("box7", "box7"),
            ("box7", "file://box7"),
        ] {
            assert_eq!(origin(host, bad), Err(Code::Forbidden), "{bad}");
        }
        let twice =
            [("host", "box7"), ("origin", "http://box7"), ("origin", "http://evil.example")];
        assert_eq!(ask(&options(), "127.0.0.1:9", &twice), Err(Code::Forbidden));
        let without = ask(&options(), "127.0.0.1:9", &[("host", "box7")]).unwrap();
        assert_eq!(without.origin, None);
    }

    #[test]
    fn strangers_ask_open_routes_only_and_named_networks_everything() {
        let networks = vec!["10.1.0.0/16".parse().unwrap()];
        let named = Options { anonymous_networks: networks, ..options() };
        let everybody = Options { allow_anonymous: true, ..options() };
        let caller =
            |options: &Options, peer: &str| ask(options, peer, &[("host", "box7")]).unwrap().caller;
        assert_eq!(caller(&named, "10.1.2.3:9"), Caller::Known);
        assert_eq!(caller(&named, "127.0.0.1:9"), Caller::Known);
        assert_eq!(caller(&named, "10.2.0.1:9"), Caller::Stranger);
        assert_eq!(caller(&everybody, "10.2.0.1:9"), Caller::Known);
        assert_eq!(caller(&options(), "10.2.0.1:9"), Caller::Stranger);
        let guard = Guard::new(&named, &[]);
        for route in Route::all() {
            let open =
                matches!(route.template(), "/livez" | "/readyz" | "/health" | "/openapi.json")
                    || matches!(route.template(), "/" | "/client.js" | "/editor/{file}")
                    || route.template().starts_with("/v2/")
                    || route.template().ends_with("/sam2/health");
            assert_eq!(guard.admit(&Caller::Stranger, route).is_ok(), open, "{route:?}");
            assert!(guard.admit(&Caller::Known, route).is_ok());
        }
    }

    #[test]
    fn a_proxy_s_word_counts_only_where_it_is_trusted() {
        let proxied = [
            ("host", "10.0.0.5"),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-for", "10.2.0.1"),
        ];
        let passed = ask(&options(), "127.0.0.1:9", &proxied).unwrap();
        assert_eq!(passed.client.to_string(), "127.0.0.1");
        let trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        let trusting = Options { trusted_proxies, ..options() };
        assert_eq!(ask(&trusting, "127.0.0.1:9", &proxied), Err(Code::WrongHost));
        let honest = [("host", "x"), ("x-forwarded-host", "box7"), ("x-forwarded-for", "10.2.0.1")];
        let passed = ask(&trusting, "127.0.0.1:9", &honest).unwrap();
        assert_eq!(
            (passed.client.to_string(), passed.caller),
            ("10.2.0.1".into(), Caller::Stranger)
        );
    }

    #[test]
    fn an_open_address_needs_a_rule_for_who_may() {
        let loopback: SocketAddr = "127.0.0.1:8642".parse().unwrap();
        let off = Keeper::off().unwrap();
        let mapped: SocketAddr = "[::ffff:127.0.0.1]:8642".parse().unwrap();
        assert_eq!(may_listen(&options(), &[loopback, mapped], &off), Ok(()));
        for open in ["0.0.0.0:8642", "[::]:8642", "10.0.0.5:1", "[fe80::1]:1"] {
            let address = open.parse().unwrap();
            let refused = may_listen(&options(), &[loopback, address], &off).unwrap_err();
            assert_eq!(refused.address, address);
            assert!(refused.to_string().contains("http.anonymous_networks"), "{refused}");
            let everybody = Options { allow_anonymous: true, ..options() };
            assert_eq!(may_listen(&everybody, &[address], &off), Ok(()));
            let networks = vec!["10.1.2.3".parse().unwrap()];
            let named = Options { anonymous_networks: networks, ..options() };
            assert_eq!(may_listen(&named, &[address], &off), Ok(()));
        }
    }
}
