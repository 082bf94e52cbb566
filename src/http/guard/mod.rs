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

mod names;
mod reach;

pub use names::{Origin, machine_names};
pub use reach::{IN_CLEAR, IN_CLEAR_REMEDY, OpenAddress, is_open, may_listen};

use super::network::client_address;
use super::options::Options;
use super::routes::Route;
use super::wire::problem::{Code, Problem};
use crate::access::keeper::{Keeper, Recall};
use crate::access::throttle::Throttle;
use crate::access::{Grant, Options as AccessOptions};
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Uri};
use names::Names;
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

/// Who is asking, as far as it matters to what they may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// May ask everything: shows a certificate, is of a named network, or everybody may, or is on
    /// this machine while no tokens are asked for.
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
    names: Names,
    keeper: Option<Keeper>,
    throttle: Arc<Throttle>,
    proofs: Arc<Semaphore>,
}

impl Guard {
    /// `names` are the box's own, which `auto` includes.
    #[must_use]
    pub fn new(options: &Options, names: &[String]) -> Self {
        Self {
            options: options.clone(),
            names: Names::new(options, names),
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
        let host = self.names.host(uri, headers, connection.peer.ip())?;
        if !self.names.is_ours(&host, connection.local.ip()) {
            return Err(Problem::new(
                Code::WrongHost,
                "the box is not known by this host name; its operator can add the name to http.allowed_hosts",
            ));
        }
        let origin = self.names.origin(&host, headers)?;
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

#[cfg(test)]
mod tests;
