//! What browsers want to hear before and after a page of another origin asks. Which origins may is
//! [`super::guard`]'s decision; here every origin is already allowed.

use super::routes::Route;
use super::wire::reply::Reply;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ALLOW,
    CACHE_CONTROL, VARY,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

/// What scripts of other origins may read of a response.
pub const EXPOSED: &str = "Retry-After, ETag, X-Request-Id, X-Confidence-Score, X-Cached, \
                           X-Processing-Time-Ms, X-Bounding-Box, X-Mask-Id";
/// What they may send beyond what needs no permission.
const ALLOWED: &str = "Authorization, Content-Type, If-None-Match, If-Range, Range";
/// How long a browser may remember: ten minutes, the most that all of them honour.
const MAX_AGE_S: &str = "600";

/// The answer to OPTIONS: to a preflight, or to whoever wants to know the methods.
#[must_use]
pub fn options(route: Route, request: &HeaderMap) -> Response<Reply> {
    let mut response = Response::new(Reply::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(route.allow()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(route.allow()));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(ALLOWED));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE_S));
    }
    response
}

/// Marks a response as readable by the page that asked.
pub fn mark(headers: &mut HeaderMap, origin: Option<HeaderValue>) {
    // Said always, since a cache in between must not keep an answer for the wrong asker.
    headers.insert(VARY, HeaderValue::from_static("Origin, Accept"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preflight_is_told_methods_headers_and_how_long() {
        let mut request = HeaderMap::new();
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        let response = options(Route::Segment, &request);
        assert_eq!(response.status(), 204);
        let headers = response.headers();
        assert_eq!(headers["access-control-allow-methods"], "POST, OPTIONS");
        assert!(
            headers["access-control-allow-headers"].to_str().unwrap().contains("Authorization")
        );
        assert_eq!(headers["access-control-max-age"], "600");
        let plain = options(Route::Mask, &HeaderMap::new());
        assert_eq!(plain.headers()["allow"], "GET, HEAD, OPTIONS");
        assert!(!plain.headers().contains_key("access-control-allow-methods"));
    }

    #[test]
    fn every_response_varies_by_origin_and_only_allowed_pages_may_read_it() {
        let mut headers = HeaderMap::new();
        mark(&mut headers, None);
        assert_eq!(headers["vary"], "Origin, Accept");
        assert!(!headers.contains_key("access-control-allow-origin"));
        mark(&mut headers, Some(HeaderValue::from_static("https://a")));
        assert_eq!(headers["access-control-allow-origin"], "https://a");
        for exposed in ["Retry-After", "ETag", "X-Request-Id", "X-Mask-Id", "X-Bounding-Box"] {
            let all = headers["access-control-expose-headers"].to_str().unwrap();
            assert!(all.split(", ").any(|name| name == exposed), "{exposed} in {all}");
        }
    }
}
