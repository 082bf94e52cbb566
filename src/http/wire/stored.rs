//! A stored mask as a file: strong ETag, If-None-Match, one range, until it expires (RFC 9110 13
//! and 14).
//!
//! Several ranges in one request are answered with the whole file, as the RFC allows: a mask is
//! some kilobytes, and many small ranges of it are only ever an attack.

use super::problem::{Code, Problem};
use super::reply::Reply;
use crate::domain::key::Sum;
use crate::service::request::Answer;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use std::ops::Range;
use std::time::SystemTime;

/// The mask of an answer, as far as the request's headers want it.
///
/// # Errors
/// 416 for a range beyond the file; 404 once it has expired.
pub fn mask(
    answer: &Answer,
    request: &HeaderMap,
    now: SystemTime,
) -> Result<Response<Reply>, Problem> {
    let left = answer.expires.duration_since(now).unwrap_or_default().as_secs();
    // Of the bytes, not the mask_id: an engine may round otherwise after its answer expired.
    let sum = Sum::of(&answer.png).to_hex();
    let etag = format!("\"{}\"", sum.get(..32).unwrap_or(&sum));
    let mut response = Response::new(Reply::empty());
    let headers = response.headers_mut();
    put(headers, ETAG, &etag);
    put(headers, CACHE_CONTROL, &format!("private, max-age={left}"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if none_match(request, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("image/png"));
    let length = answer.png.len();
    match range(request, &etag, length) {
        Wanted::Whole => *response.body_mut() = Reply::from(answer.png.clone()),
        Wanted::Part(part) => {
            let last = part.end.saturating_sub(1);
            put(headers, CONTENT_RANGE, &format!("bytes {}-{last}/{length}", part.start));
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = Reply::from(answer.png.slice(part));
        }
        Wanted::Beyond => {
            let detail = format!("the mask has {length} bytes");
            let problem = Problem::new(Code::RangeNotSatisfiable, detail);
            let whole = HeaderValue::from_str(&format!("bytes */{length}"));
            return Err(match whole {
                Ok(whole) => problem.with_header(CONTENT_RANGE, whole),
                Err(_) => problem,
            });
        }
    }
    Ok(response)
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Does the client hold this very file? Compared weakly, as the RFC says for If-None-Match.
pub(in crate::http) fn none_match(request: &HeaderMap, etag: &str) -> bool {
    let values = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|held| held == "*" || held.strip_prefix("W/").unwrap_or(held) == etag)
}

#[derive(Debug, PartialEq)]
enum Wanted {
    Whole,
    Part(Range<usize>),
    Beyond,
}

/// What the Range header wants. A header that makes no sense is ignored, as the RFC says.
fn range(request: &HeaderMap, etag: &str, length: usize) -> Wanted {
    let current = request.get(IF_RANGE).is_none_or(|held| held.as_bytes() == etag.as_bytes());
    let range = request.get(RANGE).filter(|_| current).and_then(|value| value.to_str().ok());
    let spec = range.and_then(|range| range.strip_prefix("bytes=")).map(str::trim);
    let Some((first, last)) = spec.and_then(|spec| spec.split_once('-')) else {
        return Wanted::Whole;
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(first) || !digits(last) {
        return Wanted::Whole;
    }
    // Too many digits for a number is beyond any file.
    let number = |text: &str| text.parse::<usize>().unwrap_or(usize::MAX);
    let part = match (first, last) {
        ("", "") => return Wanted::Whole,
        ("", suffix) => length.saturating_sub(number(suffix))..length,
        (first, "") => number(first)..length,
        (first, last) if number(last) < number(first) => return Wanted::Whole,
        (first, last) => number(first)..length.min(number(last).saturating_add(1)),
    };
    if part.is_empty() { Wanted::Beyond } else { Wanted::Part(part) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::AnswerKey;
    use bytes::Bytes;
    use std::time::Duration;

    fn answer() -> Answer {
        Answer {
            key: AnswerKey(Sum([1; 32])),
            png: Bytes::from_static(b"0123456789"),
            png_base64: Bytes::new(),
            confidence: 1.0,
            bounding_box: None,
            annotation: None,
            warnings: Vec::new(),
            expires: SystemTime::UNIX_EPOCH + Duration::from_millis(90_500),
        }
    }

    fn fetch(headers: &[(HeaderName, &str)]) -> Result<Response<Reply>, Problem> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value.parse().unwrap());
        }
        mask(&answer(), &map, SystemTime::UNIX_EPOCH + Duration::from_secs(30))
    }

    fn body(response: Response<Reply>) -> Bytes {
        response.into_body().into_pieces().concat().into()
    }

    #[test]
    fn a_mask_may_be_kept_as_long_as_it_lives() {
        let response = fetch(&[]).unwrap();
        assert_eq!(response.headers()["cache-control"], "private, max-age=60");
        assert_eq!(response.headers()["content-type"], "image/png");
        assert_eq!(body(response), "0123456789");
        let late = mask(&answer(), &HeaderMap::new(), SystemTime::now()).unwrap();
        assert_eq!(late.headers()["cache-control"], "private, max-age=0");
    }

    #[test]
    fn whoever_holds_it_is_told_so() {
        let etag = fetch(&[]).unwrap().headers()["etag"].to_str().unwrap().to_owned();
        assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() == 34, "{etag}");
        let weak = format!("W/{etag}");
        let list = format!("\"x\", {etag}");
        for held in [&*etag, &weak, &list, "*"] {
            let response = fetch(&[(IF_NONE_MATCH, held)]).unwrap();
            assert_eq!(response.status(), 304, "{held}");
            assert_eq!(response.headers()["etag"], &*etag);
            assert!(response.body().is_empty());
        }
        assert_eq!(fetch(&[(IF_NONE_MATCH, "\"x\"")]).unwrap().status(), 200);
    }

    /// A strong ETag names the bytes: equal ones under another id share it, others never do.
    #[test]
    fn an_etag_follows_the_bytes() {
        let etag = |answer: &Answer| {
            let response = mask(answer, &HeaderMap::new(), SystemTime::UNIX_EPOCH).unwrap();
            response.headers()["etag"].clone()
        };
        let other = Answer { png: Bytes::from_static(b"0123456780"), ..answer() };
        assert_ne!(etag(&other), etag(&answer()));
        let renamed = Answer { key: AnswerKey(Sum([2; 32])), ..answer() };
        assert_eq!(etag(&renamed), etag(&answer()));
    }

    #[test]
    fn one_range_is_cut_out_and_odd_ones_are_ignored() {
        for (wanted, content_range, bytes) in [
            ("bytes=2-4", "bytes 2-4/10", "234"),
            ("bytes=8-", "bytes 8-9/10", "89"),
            ("bytes=-3", "bytes 7-9/10", "789"),
            ("bytes=-99", "bytes 0-9/10", "0123456789"),
            ("bytes=9-99999999999999999999999", "bytes 9-9/10", "9"),
            ("bytes=0-0", "bytes 0-0/10", "0"),
        ] {
            let response = fetch(&[(RANGE, wanted)]).unwrap();
            assert_eq!(response.status(), 206, "{wanted}");
            assert_eq!(response.headers()["content-range"], content_range);
            assert_eq!(body(response), bytes);
        }
        for ignored in [
            "bytes=4-2",
            "bytes=a-b",
            "lines=1-2",
            "bytes=1-2,4-5",
            "bytes=-",
            "bytes=",
            "bytes=+1-2",
        ] {
            assert_eq!(fetch(&[(RANGE, ignored)]).unwrap().status(), 200, "{ignored}");
        }
        for beyond in ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999999999999999-"] {
            let problem = fetch(&[(RANGE, beyond)]).unwrap_err();
            assert_eq!(problem.code(), Code::RangeNotSatisfiable, "{beyond}");
            let response = problem.into_response("");
            assert_eq!(response.headers()["content-range"], "bytes */10");
        }
    }

    #[test]
    fn a_range_of_another_version_is_the_whole_of_this_one() {
        let etag = fetch(&[]).unwrap().headers()["etag"].to_str().unwrap().to_owned();
        let same = fetch(&[(RANGE, "bytes=1-2"), (IF_RANGE, &etag)]).unwrap();
        assert_eq!(same.status(), 206);
        let other = fetch(&[(RANGE, "bytes=1-2"), (IF_RANGE, "\"old\"")]).unwrap();
        assert_eq!(other.status(), 200);
    }
}
