//! Why a request has no answer: what the client is told of it, and what the log.
//!
//! Invariants:
//! 1. A client is told its own faults and HTTP's limits in full, and of a failure of ours only that
//!    there was one.
//! 2. A failure of ours is logged here, once, with all its causes.

use super::head::Refusal;
use super::wire::problem::{Code, Problem};
use crate::service::error::ServiceError;
use std::error::Error;
use std::time::Duration;

/// Why a request has no answer.
pub(super) enum Failure {
    /// The request's fault, or HTTP's own limits.
    Problem(Problem),
    /// The service's word.
    Service(ServiceError),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::Service(error)
    }
}

/// What `audit.when_full = "stop"` makes of a trail that can't be written.
pub(super) fn not_recorded() -> Problem {
    Problem::new(
        Code::AuditUnavailable,
        "who asks can't be recorded at the moment, and without that the box does not work; its operator was told",
    )
}

/// What `http.max_requests_per_client` is told with.
pub(super) fn too_many() -> Problem {
    let detail = "this address asks for as much at a time as one may; wait for an answer";
    Problem::new(Code::RateLimited, detail).with_retry_after(Duration::from_secs(1))
}

/// What a client is told whose request could not be read.
pub(super) fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Malformed => Problem::invalid("the request is not valid HTTP/1.1"),
        Refusal::Ambiguous => Problem::invalid(
            "the request says twice how long its body is (Content-Length, Transfer-Encoding)",
        ),
        Refusal::TooSlow => {
            Problem::new(Code::RequestTimeout, "the head of the request came too slowly")
        }
        Refusal::TooLarge => {
            Problem::new(Code::HeadTooLarge, "the request has too many or too long headers")
        }
    }
}

/// The problem for the client; what only the operator may see goes to the log, once.
pub(super) fn told(failure: &Failure, request_id: &str) -> Problem {
    let error = match failure {
        Failure::Problem(problem) => return problem.clone(),
        Failure::Service(error) => error,
    };
    match error {
        ServiceError::Internal(_) | ServiceError::DecoderUnavailable(_) => {
            tracing::error!(request_id, causes = causes(error), "{error}");
        }
        ServiceError::InferenceFailed(_) | ServiceError::Timeout => {
            tracing::warn!(request_id, causes = causes(error), "{error}");
        }
        _ => {}
    }
    Problem::from(error)
}

/// What lies behind an error, outermost first.
fn causes(error: &dyn Error) -> String {
    let mut causes = Vec::new();
    let mut next = error.source();
    while let Some(cause) = next {
        causes.push(cause.to_string());
        next = cause.source();
    }
    causes.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_failure_of_ours_is_logged_with_all_its_causes() {
        let engine = crate::engine::BackendError::DeviceLost("ECC".to_owned());
        let error = ServiceError::InferenceFailed(Arc::new(engine));
        assert_eq!(causes(&error), "the device is lost: ECC");
    }
}
