//! What is found out about a request on its way: for its log line, its response's headers, and the
//! audit trail.
//!
//! The trail alone names patients; nothing of [`Trace`] goes anywhere else, but for `who`.

use super::guard::{Caller, Connection};
use super::routes::Route;
use super::wire::problem::Code;
use crate::access::Grant;
use crate::audit::{Event, Kind};
use crate::domain::key::Sum;
use http::HeaderValue;
use std::net::IpAddr;
use std::time::Instant;

/// What is found out about a request on the way, for its log line and its response's headers.
pub(super) struct Course {
    pub(super) id: String,
    pub(super) started: Instant,
    pub(super) route: Option<Route>,
    pub(super) origin: Option<HeaderValue>,
    /// What the audit trail will say.
    pub(super) trace: Trace,
    /// Is there still something of the request that nobody has read?
    pub(super) unread: bool,
}

/// What the audit trail will say of a request.
#[derive(Default)]
pub(super) struct Trace {
    /// Who; nothing where nobody got that far.
    pub(super) who: Option<String>,
    pub(super) client: Option<IpAddr>,
    pub(super) mistaken: bool,
    /// The work that was let in.
    pub(super) work: Option<Kind>,
    pub(super) patient: Option<String>,
    pub(super) image: Option<String>,
}

impl Trace {
    /// Who asks, as the guard found out.
    pub(super) fn identified(&mut self, caller: &Caller, client: IpAddr, ends: &Connection) {
        self.client = Some(client);
        self.mistaken = matches!(caller, Caller::Mistaken | Caller::Throttled(_));
        self.who = Some(match (caller, ends.certificate) {
            (Caller::Holder(Grant { id, .. }), _) => format!("token:{id}"),
            (Caller::Known, Some(sum)) => format!("certificate:{}", Sum(sum).to_hex()),
            (Caller::Known, None) => "network".to_owned(),
            _ => "stranger".to_owned(),
        });
    }

    /// Work of any outcome, and whatever was refused to whom it is not for.
    pub(super) fn event(
        &mut self,
        code: Option<Code>,
        ends: &Connection,
        id: &str,
    ) -> Option<Event> {
        let refused = matches!(
            code,
            Some(Code::Unauthorized | Code::Forbidden | Code::WrongHost | Code::RateLimited)
        );
        let kind = match (self.work, refused) {
            (Some(kind), _) => kind,
            (None, true) if self.mistaken => Kind::LoginFailure,
            (None, true) => Kind::Refusal,
            (None, false) => return None,
        };
        Some(Event {
            kind,
            who: self.who.clone().unwrap_or_else(|| "stranger".to_owned()),
            from: Some(self.client.unwrap_or_else(|| ends.peer.ip().to_canonical()).to_string()),
            patient: self.patient.take(),
            image: self.image.take(),
            outcome: code.map_or("ok", Code::as_str).to_owned(),
            request_id: Some(id.to_owned()),
            detail: None,
        })
    }
}

/// What of the routes is work on somebody's pictures.
pub(super) fn work(route: Route) -> Option<Kind> {
    match route {
        Route::Segment | Route::OldSegment => Some(Kind::Segment),
        Route::Embed => Some(Kind::Embed),
        Route::Preview => Some(Kind::Preview),
        Route::Mask => Some(Kind::Mask),
        _ => None,
    }
}
