//! In which format an answer is wanted (RFC 9110 12.5.1), and in which a body comes (415).

use super::problem::{Code, Problem};
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_ENCODING, CONTENT_TYPE};

/// A format that answers come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerFormat {
    /// `application/json`.
    Json,
    /// `image/png`.
    Png,
    /// `application/dicom`: a DICOM Segmentation.
    Dicom,
}

impl AnswerFormat {
    fn media_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Json => ("application", "json"),
            Self::Png => ("image", "png"),
            Self::Dicom => ("application", "dicom"),
        }
    }
}

/// The first of `offered` that the client likes best; no Accept header likes everything.
///
/// # Errors
/// 406 when it wants none of them.
pub fn negotiate(headers: &HeaderMap, offered: &[AnswerFormat]) -> Result<AnswerFormat, Problem> {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let values: Vec<_> = values.filter(|value| !value.trim().is_empty()).collect();
    let accepted: Vec<_> = values.iter().flat_map(|value| value.split(',')).collect();
    let mut best: Option<(f32, AnswerFormat)> = None;
    for &format in offered {
        let quality = if values.is_empty() { 1.0 } else { quality(&accepted, format.media_type()) };
        if quality > best.map_or(0.0, |(quality, _)| quality) {
            best = Some((quality, format));
        }
    }
    best.map(|(_, format)| format).ok_or_else(|| {
        let names: Vec<_> = offered
            .iter()
            .map(|format| format.media_type())
            .map(|(kind, sort)| format!("{kind}/{sort}"))
            .collect();
        Problem::new(
            Code::NotAcceptable,
            format!("the answer comes as {} only", names.join(" or ")),
        )
    })
}

/// How much the most specific range that covers a type likes it.
fn quality(accepted: &[&str], (kind, sort): (&str, &str)) -> f32 {
    let mut found = (0, 0.0);
    for range in accepted {
        let mut parts = range.split(';').map(str::trim);
        let Some((range_kind, range_sort)) = parts.next().and_then(|range| range.split_once('/'))
        else {
            continue;
        };
        let specific = match (range_kind, range_sort) {
            ("*", "*") => 1,
            (k, "*") if k.eq_ignore_ascii_case(kind) => 2,
            (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(sort) => 3,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        if specific > found.0 {
            found = (specific, weight);
        }
    }
    found.1
}

/// The format of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    /// `application/json`.
    Json,
    /// `multipart/form-data`.
    Form {
        /// Between its parts.
        boundary: String,
    },
}

/// Which format a body comes in.
///
/// # Errors
/// 415 for any other, and for any Content-Encoding: what is compressed has no size that could be
/// checked before it is unpacked.
pub fn body_format(headers: &HeaderMap) -> Result<BodyFormat, Problem> {
    let unsupported = |detail| Problem::new(Code::UnsupportedMediaType, detail);
    let encodings = headers.get_all(CONTENT_ENCODING);
    if encodings.iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(unsupported("a body with Content-Encoding is not accepted; send it as it is"));
    }
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = text.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match &*essence {
        "application/json" => Ok(BodyFormat::Json),
        "multipart/form-data" => match multer::parse_boundary(text) {
            Ok(boundary) => Ok(BodyFormat::Form { boundary }),
            Err(_) => Err(unsupported("Content-Type: multipart/form-data needs a boundary")),
        },
        _ => Err(unsupported("Content-Type must be application/json or multipart/form-data")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn accept(value: Option<&'static str>) -> Result<AnswerFormat, Code> {
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(ACCEPT, HeaderValue::from_static(value));
        }
        negotiate(&headers, &[AnswerFormat::Json, AnswerFormat::Png]).map_err(|p| p.code())
    }

    #[test]
    fn the_answer_comes_as_the_client_likes_it_best() {
        use AnswerFormat::{Json, Png};
        for (value, format) in [
            (None, Json),
            (Some(""), Json),
            (Some("*/*"), Json),
            (Some("application/json, text/plain, */*"), Json),
            (Some("image/png"), Png),
            (Some("IMAGE/PNG;q=0.5"), Png),
            (Some("image/*"), Png),
            (Some("application/json;q=0.5, image/png"), Png),
            (Some("image/png;q=0.1, */*;q=0.2"), Json),
            (Some("application/json;q=0, */*"), Png),
            (Some("text/html, image/png; charset=x ;q=0.3"), Png),
        ] {
            assert_eq!(accept(value), Ok(format), "{value:?}");
        }
        for value in ["text/html", "image/jpeg", "application/json;q=0", ",", "application/dicom"] {
            assert_eq!(accept(Some(value)), Err(Code::NotAcceptable), "{value}");
        }
    }

    #[test]
    fn bodies_come_as_json_or_form_and_never_compressed() {
        let format = |content_type: &'static str, encoding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            body_format(&headers).map_err(|problem| problem.code())
        };
        assert_eq!(format("application/json", None), Ok(BodyFormat::Json));
        assert_eq!(
            format("Application/JSON; charset=utf-8", Some("identity")),
            Ok(BodyFormat::Json)
        );
        let form = BodyFormat::Form { boundary: "ab".to_owned() };
        assert_eq!(format("multipart/form-data; boundary=ab", None), Ok(form));
        for (content_type, encoding) in [
            ("", None),
            ("text/plain", None),
            ("application/jsonx", None),
            ("multipart/form-data", None),
            ("multipart/mixed; boundary=ab", None),
            ("application/x-www-form-urlencoded", None),
            ("application/json", Some("gzip")),
            ("application/json", Some("")),
        ] {
            let refused = format(content_type, encoding);
            assert_eq!(refused, Err(Code::UnsupportedMediaType), "{content_type} {encoding:?}");
        }
    }
}
