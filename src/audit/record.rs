//! One record, and its line.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A segmentation was asked for.
    Segment,
    /// An embedding was asked for.
    Embed,
    /// A preview was asked for.
    Preview,
    /// A stored mask was asked for.
    Mask,
    /// Somebody was refused who may not ask this.
    Refusal,
    /// Somebody showed a token that is not right.
    LoginFailure,
    /// The daemon started; `detail` has its version and a sum of its configuration.
    Start,
    /// The daemon ended.
    Stop,
    /// Another engine serves; `detail` names it.
    Engine,
    /// The configuration is another one than before.
    Configuration,
    /// Tokens; `detail` has the ids that are there, came or went.
    Tokens,
    /// The TLS certificate is another one.
    Certificate,
    /// The trail itself: files removed, lines lost, a cut found.
    Trail,
}

/// What is recorded of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: Kind,
    /// Who: `token:ID`, `certificate:SUM`, `network` or `stranger`; `box` for the daemon itself.
    pub who: String,
    /// The address it came from.
    pub from: Option<String>,
    /// The `patient_id`, in clear; only its keyed hash is written.
    pub patient: Option<String>,
    /// `image.id`: a sum over the pixels and their window.
    pub image: Option<String>,
    /// `ok`, or the problem's code.
    pub outcome: String,
    /// Our id of the request.
    pub request_id: Option<String>,
    /// Words of ours.
    pub detail: Option<String>,
}

impl Event {
    /// Of the daemon itself.
    #[must_use]
    pub fn own(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            who: "box".to_owned(),
            from: None,
            patient: None,
            image: None,
            outcome: "ok".to_owned(),
            request_id: None,
            detail: Some(detail.into()),
        }
    }
}

/// A record as it is written, without its seal.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Record {
    /// Counts from 1, without gaps.
    pub seq: u64,
    /// UTC, to the millisecond, by the box's clock.
    pub time: String,
    /// What happened.
    pub event: Kind,
    /// See [`Event::who`].
    pub who: String,
    /// See [`Event::from`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// 32 hex digits: the keyed hash of the `patient_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patient: Option<String>,
    /// See [`Event::image`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// See [`Event::outcome`].
    pub outcome: String,
    /// See [`Event::request_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// See [`Event::detail`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Record {
    /// The record of an event; `patient` is hashed already.
    #[must_use]
    pub fn new(seq: u64, time: DateTime<Utc>, event: &Event, patient: Option<String>) -> Self {
        Self {
            seq,
            time: time.to_rfc3339_opts(SecondsFormat::Millis, true),
            event: event.kind,
            who: event.who.clone(),
            from: event.from.clone(),
            patient,
            image: event.image.clone(),
            outcome: event.outcome.clone(),
            request_id: event.request_id.clone(),
            detail: event.detail.clone(),
        }
    }

    /// As JSON in one line.
    #[must_use]
    pub fn json(&self) -> String {
        // Plain data with text keys: this can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}
