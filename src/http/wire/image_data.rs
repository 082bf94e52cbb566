//! What `image_data` may hold: base64, a `data:` URL, or a reference to an image the box already
//! has. Web addresses are refused: the box fetches nothing.

use super::problem::Problem;
use crate::domain::key::{ImageKey, Sum};
use base64_simd::STANDARD;
use bytes::Bytes;

/// Longest `file:NAME`; Linux allows 4096 for a whole path.
const MAX_NAME_BYTES: usize = 1024;

/// What a text in `image_data` is, before anything is decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageText<'a> {
    /// `file:NAME`, the name checked to stay inside a folder.
    File(&'a str),
    /// `image:ID`.
    Image(ImageKey),
    /// Base64, without any `data:` prefix; not yet decoded.
    Base64(&'a str),
}

/// Tells references, data URLs and base64 apart.
///
/// # Errors
/// 400 for web addresses, unsafe names and data URLs that are not base64; 404 `unknown_image` for an
/// `image:` that never was an id of ours (ids are opaque: a client can't tell the difference).
pub fn classify(text: &str) -> Result<ImageText<'_>, Problem> {
    let text = text.trim_ascii();
    let scheme = text.get(..text.len().min(32)).unwrap_or("").split_once(':').map(|(s, _)| s);
    let rest = scheme.and_then(|scheme| text.get(scheme.len() + 1..)).unwrap_or("");
    match scheme.map(str::to_ascii_lowercase).as_deref() {
        None if text.is_empty() => Err(Problem::invalid("image_data is empty")),
        None => Ok(ImageText::Base64(text)),
        Some("file") => file_name(rest).map(ImageText::File),
        Some("image") => match Sum::from_hex(rest) {
            Some(sum) => Ok(ImageText::Image(ImageKey(sum))),
            None => Err(Problem::from(&crate::service::error::ServiceError::UnknownImage)),
        },
        Some("data") => match rest.split_once(',') {
            Some((head, data)) if is_base64(head) => Ok(ImageText::Base64(data)),
            _ => Err(Problem::invalid(
                "image_data: a data: URL must be base64 (data:image/png;base64,…)",
            )),
        },
        Some(_) => Err(Problem::invalid(
            "image_data: web addresses are not fetched; send the image itself as base64, or file:NAME or image:ID",
        )),
    }
}

fn is_base64(head: &str) -> bool {
    head.rsplit(';').next().is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case("base64"))
        && head.contains(';')
}

/// A name that can't leave the folder it is looked up in. Links are the opener's business.
fn file_name(name: &str) -> Result<&str, Problem> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    // SECURITY: path traversal. No absolute path, no `..`, no drive, stream or UNC names of other
    // systems, nothing that a terminal or a log would interpret.
    let safe = name.len() <= MAX_NAME_BYTES
        && name.split('/').all(plain)
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control);
    if safe {
        Ok(name)
    } else {
        Err(Problem::invalid(
            "image_data: file:NAME takes a name below the inbox folder, without \"..\" and not absolute",
        ))
    }
}

/// Decodes base64 in the buffer it lies in: standard alphabet, ASCII white space ignored, padding
/// required. Returns how many bytes at the buffer's start are the result.
///
/// # Errors
/// 400 naming the field.
pub fn decode_in_place(buffer: &mut [u8], field: &str) -> Result<usize, Problem> {
    let kept = squeeze(buffer);
    let text = buffer.get_mut(..kept).unwrap_or_default();
    match STANDARD.decode_inplace(text) {
        Ok(decoded) => Ok(decoded.len()),
        Err(_) => Err(Problem::invalid(format!(
            "{field} is not valid base64 (standard alphabet, with padding)"
        ))),
    }
}

/// Moves everything but ASCII white space to the front; returns how much that is.
fn squeeze(buffer: &mut [u8]) -> usize {
    // Most have none, and the least byte is found many bytes at a time.
    if buffer.iter().fold(u8::MAX, |least, byte| least.min(*byte)) > b' ' {
        return buffer.len();
    }
    let Some(first) = buffer.iter().position(u8::is_ascii_whitespace) else {
        return buffer.len();
    };
    let mut kept = first;
    for at in first..buffer.len() {
        if buffer.get(at).is_some_and(|byte| !byte.is_ascii_whitespace()) {
            buffer.swap(kept, at);
            kept += 1;
        }
    }
    kept
}

/// Decodes a text of base64 into bytes of its own.
///
/// # Errors
/// 400 naming the field.
pub fn decode(text: String, field: &str) -> Result<Bytes, Problem> {
    let mut buffer = text.into_bytes();
    let length = decode_in_place(&mut buffer, field)?;
    buffer.truncate(length);
    Ok(Bytes::from(buffer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::wire::problem::Code;

    #[test]
    fn base64_is_standard_padded_and_may_hold_white_space() {
        let good = |text: &str| decode(text.to_owned(), "image_data").unwrap();
        assert_eq!(good("aGk="), "hi");
        assert_eq!(good(" aG\r\nk\t= "), "hi");
        assert_eq!(good("+/+/"), &[0xfb, 0xff, 0xbf][..]);
        for bad in ["aGk", "aGk==", "-_-_", "a", "aGk=aGk=", "aG\u{a0}k=", "aGl="] {
            let problem = decode(bad.to_owned(), "image_data").unwrap_err();
            assert!(problem.detail().starts_with("image_data is not valid base64"), "{bad}");
        }
    }

    #[test]
    fn references_are_told_from_data() {
        let id = "ab".repeat(32);
        assert_eq!(classify("file:a/b.dcm").unwrap(), ImageText::File("a/b.dcm"));
        assert_eq!(classify("FILE:b c.dcm").unwrap(), ImageText::File("b c.dcm"));
        let known = ImageText::Image(ImageKey(Sum::from_hex(&id).unwrap()));
        assert_eq!(classify(&format!("image:{id}")).unwrap(), known);
        assert_eq!(classify("data:image/png;base64,aGk=").unwrap(), ImageText::Base64("aGk="));
        assert_eq!(classify("data:;BASE64,aGk=").unwrap(), ImageText::Base64("aGk="));
        assert_eq!(classify(" aGk=\n").unwrap(), ImageText::Base64("aGk="));
    }

    #[test]
    fn names_that_leave_the_inbox_and_web_addresses_are_refused() {
        for bad in [
            "file:",
            "file:/etc/passwd",
            "file:../x",
            "file:a/../x",
            "file:a/./x",
            "file:a//x",
            "file:///x",
            "file:a\\x",
            "file:c:x",
            "file:a\0x",
            "file:a\nx",
            "file:..",
            "http://10.0.0.1/a.png",
            "https://x/a.png",
            "ftp://x/y",
            "data:image/png,abc",
            "data:base64,aGk=",
            "data:image/png;base64",
            "",
        ] {
            let problem = classify(bad).unwrap_err();
            assert_eq!(problem.code(), Code::InvalidRequest, "{bad}");
        }
        let long = format!("file:{}", "a".repeat(MAX_NAME_BYTES + 1));
        assert!(classify(&long).is_err());
        assert_eq!(classify("image:abc").unwrap_err().code(), Code::UnknownImage);
    }
}
