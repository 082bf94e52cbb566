//! Everything that can go wrong, as the client sees it: `application/problem+json` (RFC 9457).
//!
//! Invariants:
//! 1. A problem is a 4xx or 5xx of [`Code`]; `code` is stable and part of the contract.
//! 2. `detail` is what editors show. It names fields and limits, never a path and never a value
//!    that may be patient data.
//! 3. What only the operator may see is logged where the problem arises, not carried here.

use super::reply::Reply;
use crate::domain::prompt::PromptError;
use crate::service::error::ServiceError;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use std::borrow::Cow;
use std::time::Duration;

/// The media type of every error.
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($name:ident = $status:literal, $code:literal, $title:literal;)*) => {
        /// The stable name of a kind of failure.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $(#[doc = concat!($status, " `", $code, "`: ", $title, ".")] $name,)*
        }

        impl Code {
            /// Every one, in the order of the contract.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The HTTP status it goes with.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let number: u16 = match self { $(Self::$name => $status,)* };
                StatusCode::from_u16(number).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// As on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// A short text that is the same for every occurrence.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    InvalidRequest = 400, "invalid_request", "The request is not valid";
    UnsupportedFormat = 400, "unsupported_format", "The image format is not supported";
    UnreadableImage = 400, "unreadable_image", "The image can't be read";
    UnsupportedTransferSyntax = 400, "unsupported_transfer_syntax", "The DICOM transfer syntax is not supported";
    PromptOutOfBounds = 400, "prompt_out_of_bounds", "The prompt lies outside the image";
    FrameRequired = 400, "frame_required", "The file has several frames";
    FrameOutOfRange = 400, "frame_out_of_range", "The frame does not exist";
    Unauthorized = 401, "unauthorized", "A token is needed";
    Forbidden = 403, "forbidden", "Not allowed";
    NotFound = 404, "not_found", "There is nothing here";
    UnknownImage = 404, "unknown_image", "The image is not known here";
    UnknownMask = 404, "unknown_mask", "The mask is not known here";
    MethodNotAllowed = 405, "method_not_allowed", "The method is not allowed here";
    NotAcceptable = 406, "not_acceptable", "No answer in an accepted format";
    RequestTimeout = 408, "request_timeout", "The request came too slowly";
    LengthRequired = 411, "length_required", "The length of the body is needed";
    TooLarge = 413, "too_large", "The request or its image is too large";
    UnsupportedMediaType = 415, "unsupported_media_type", "The body's format is not supported";
    RangeNotSatisfiable = 416, "range_not_satisfiable", "The range lies outside the file";
    WrongHost = 421, "wrong_host", "This host name is not served here";
    RateLimited = 429, "rate_limited", "Too much from one client";
    HeadTooLarge = 431, "head_too_large", "The request's headers are too large";
    Internal = 500, "internal", "Internal error";
    Overloaded = 503, "overloaded", "The box is busy";
    EngineUnavailable = 503, "engine_unavailable", "Automatic segmentation is not available";
    InferenceFailed = 503, "inference_failed", "The engine failed on this request";
    AuditUnavailable = 503, "audit_unavailable", "The audit trail can't be written";
    DecoderUnavailable = 503, "decoder_unavailable", "The image decoder is not available";
    Timeout = 504, "timeout", "No answer within the deadline";
}

/// A failure on its way to the client.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    code: Code,
    detail: Cow<'static, str>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// With the words that the user sees.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), headers: Vec::new() }
    }

    /// 400 `invalid_request`; `detail` names the field.
    #[must_use]
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// 405 with what is allowed.
    #[must_use]
    pub fn method_not_allowed(allow: &'static str) -> Self {
        Self::new(Code::MethodNotAllowed, format!("only {allow} are answered here"))
            .with_header(ALLOW, HeaderValue::from_static(allow))
    }

    /// 503 `overloaded` with Retry-After.
    #[must_use]
    pub fn overloaded(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(Code::Overloaded, detail).with_retry_after(retry_after)
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds Retry-After, in whole seconds rounded up, at least 1.
    #[must_use]
    pub fn with_retry_after(self, wait: Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds.max(1)))
    }

    /// The stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the user sees.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The body, for a request of ours.
    #[must_use]
    pub fn json(&self, request_id: &str) -> String {
        #[derive(serde::Serialize)]
        struct Wire<'a> {
            r#type: String,
            title: &'a str,
            status: u16,
            detail: &'a str,
            code: &'a str,
            request_id: &'a str,
        }
        let wire = Wire {
            r#type: format!("urn:sam2d:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            request_id,
        };
        serde_json::to_string(&wire).unwrap_or_default()
    }

    /// The response.
    #[must_use]
    pub fn into_response(self, request_id: &str) -> Response<Reply> {
        let mut response = Response::new(Reply::from(self.json(request_id)));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.extend(self.headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

impl From<&ServiceError> for Problem {
    /// One arm per failure of the service, so that a new one can't be forgotten here.
    fn from(error: &ServiceError) -> Self {
        let code = match error {
            ServiceError::Invalid(_) => Code::InvalidRequest,
            ServiceError::UnsupportedFormat => Code::UnsupportedFormat,
            ServiceError::Unreadable(_) => Code::UnreadableImage,
            ServiceError::UnsupportedTransferSyntax { .. } => Code::UnsupportedTransferSyntax,
            ServiceError::Prompt(PromptError::OutOfBounds { .. }) => Code::PromptOutOfBounds,
            ServiceError::Prompt(_) => Code::InvalidRequest,
            ServiceError::FrameRequired { .. } => Code::FrameRequired,
            ServiceError::FrameOutOfRange { .. } => Code::FrameOutOfRange,
            ServiceError::NotDicom => Code::NotAcceptable,
            ServiceError::TooLarge(_) => Code::TooLarge,
            ServiceError::UnknownImage => Code::UnknownImage,
            ServiceError::UnknownMask => Code::UnknownMask,
            ServiceError::Overloaded { .. } => Code::Overloaded,
            ServiceError::EngineUnavailable { .. } => Code::EngineUnavailable,
            ServiceError::InferenceFailed(_) => Code::InferenceFailed,
            ServiceError::DecoderUnavailable(_) => Code::DecoderUnavailable,
            ServiceError::Timeout => Code::Timeout,
            ServiceError::Internal(_) => Code::Internal,
        };
        let problem = Self::new(code, error.to_string());
        match error {
            ServiceError::Overloaded { retry_after } => problem.with_retry_after(*retry_after),
            _ => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::slice::Size;

    #[test]
    fn a_problem_has_the_contract_s_members_in_order() {
        let problem = Problem::invalid("window.width must be at least 1");
        insta::assert_snapshot!(problem.json("0f3a"), @r#"{"type":"urn:sam2d:problem:invalid_request","title":"The request is not valid","status":400,"detail":"window.width must be at least 1","code":"invalid_request","request_id":"0f3a"}"#);
        let response = problem.into_response("0f3a");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
    }

    #[test]
    fn every_code_is_an_error_status_and_unique() {
        let mut seen = std::collections::HashSet::new();
        for code in Code::ALL {
            assert!(code.status().is_client_error() || code.status().is_server_error());
            assert!(seen.insert(code.as_str()), "{code:?} twice");
        }
    }

    #[test]
    fn a_busy_box_says_when_to_come_back_in_whole_seconds() {
        for (wait_ms, header) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (9500, "10")] {
            let error = ServiceError::Overloaded { retry_after: Duration::from_millis(wait_ms) };
            let response = Problem::from(&error).into_response("");
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()["retry-after"], header, "{wait_ms} ms");
        }
    }

    #[test]
    fn prompts_outside_the_image_and_impossible_ones_have_different_codes() {
        let size = Size { width: 4, height: 4 };
        let outside =
            PromptError::OutOfBounds { field: "click_points[0].x".into(), value: 9.0, limit: 4 };
        assert_eq!(Problem::from(&ServiceError::Prompt(outside)).code(), Code::PromptOutOfBounds);
        let empty = PromptError::EmptyBox { size };
        assert_eq!(Problem::from(&ServiceError::Prompt(empty)).code(), Code::InvalidRequest);
    }

    #[test]
    fn what_only_the_operator_may_see_stays_out_of_the_body() {
        let error =
            ServiceError::Internal(std::sync::Arc::new(std::io::Error::other("/secret/place")));
        let text = Problem::from(&error).json("");
        assert!(!text.contains("secret"), "{text}");
    }
}
