//! The editor page and the JavaScript client, carried inside the binary.
//!
//! The files beside this one are served as they lie: plain modules, no build step, so what is
//! reviewed is what runs. `GET /` is the page, `/editor/...` its parts, `/client.js` the client of
//! `clients/js`, which the page uses like any other editor.
//!
//! Invariants:
//! 1. The page works with the box alone: its Content-Security-Policy lets it load from, and talk
//!    to, nothing else, and run nothing that is not one of these files.
//! 2. A browser asks each time and is told 304 by the strong ETag, so a new version of the box
//!    never runs with parts of an old page.
//!
//! What it doesn't do: decide who may ask ([`super::guard`]). These files are open to everybody
//! who may reach the box; the page asks for a token itself.

use super::wire::reply::Reply;
use super::wire::stored::none_match;
use crate::domain::key::Sum;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use std::sync::LazyLock;

/// `trusted-types 'none'` makes the browser refuse any string that would become markup or code;
/// `form-action 'none'` and `frame-ancestors 'none'` keep the token from being phished out.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'none'; base-uri 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// A file, and where it is found.
struct File {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

macro_rules! part {
    ($name:literal, $content_type:expr) => {
        File {
            path: concat!("/editor/", $name),
            content_type: $content_type,
            body: include_bytes!($name),
        }
    };
}

const FILES: [File; 22] = [
    File { path: "/", content_type: HTML, body: include_bytes!("index.html") },
    File {
        path: "/client.js",
        content_type: SCRIPT,
        body: include_bytes!("../../../clients/js/client.js"),
    },
    part!("api.js", SCRIPT),
    part!("app.js", SCRIPT),
    part!("canvas.js", SCRIPT),
    part!("dialogs.js", SCRIPT),
    part!("dicom.js", SCRIPT),
    part!("editor.css", STYLE),
    part!("export.js", SCRIPT),
    part!("i18n.js", SCRIPT),
    part!("icon.svg", SVG),
    part!("keys.js", SCRIPT),
    part!("mask.js", SCRIPT),
    part!("outline.js", SCRIPT),
    part!("panel.js", SCRIPT),
    part!("picture.js", SCRIPT),
    part!("png.js", SCRIPT),
    part!("segment.js", SCRIPT),
    part!("series.js", SCRIPT),
    part!("state.js", SCRIPT),
    part!("tools.js", SCRIPT),
    part!("words.js", SCRIPT),
];

static ETAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let sum = |file: &File| Sum::of(file.body).to_hex();
    FILES.iter().map(|file| format!("\"{}\"", sum(file).get(..32).unwrap_or_default())).collect()
});

/// Is there a file of the page at this path?
#[must_use]
pub fn has(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

/// The file at a path, or 304 for whoever has it; `None` where there is none.
#[must_use]
pub fn respond(path: &str, request: &HeaderMap) -> Option<Response<Reply>> {
    let (file, etag) = FILES.iter().zip(ETAGS.iter()).find(|(file, _)| file.path == path)?;
    let mut response = Response::new(Reply::empty());
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_str(etag).ok()?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if none_match(request, etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Some(response);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    *response.body_mut() = Reply::from(Bytes::from_static(file.body));
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::IF_NONE_MATCH;
    use std::path::Path;

    fn fetch(path: &str) -> Response<Reply> {
        respond(path, &HeaderMap::new()).unwrap()
    }

    fn text(path: &str) -> String {
        let pieces = fetch(path).into_body().into_pieces();
        pieces.iter().map(|piece| std::str::from_utf8(piece).unwrap()).collect()
    }

    #[test]
    fn every_file_of_the_page_is_served() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http/editor");
        let mut count = 1; // the client
        for entry in folder.read_dir().unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = match &*name {
                "mod.rs" => continue,
                "index.html" => "/".to_owned(),
                _ => format!("/editor/{name}"),
            };
            assert!(has(&path), "{path} is missing from the table");
            count += 1;
        }
        assert_eq!(count, FILES.len());
    }

    #[test]
    fn what_the_page_and_its_modules_ask_for_is_there() {
        for file in &FILES {
            let body = std::str::from_utf8(file.body).unwrap();
            let folder = if file.path == "/" { "/" } else { "/editor/" };
            let named = body.split(['"', '\'']).filter_map(|word| {
                let below = word.strip_prefix("./").map(|name| format!("{folder}{name}"));
                let above = word.strip_prefix("../").map(|name| format!("/{name}"));
                let part = word.starts_with("editor/").then(|| format!("/{word}"));
                below.or(above).or(part)
            });
            for path in named.filter(|_| file.path != "/client.js") {
                assert!(has(&path), "{} asks for {path}", file.path);
            }
        }
    }

    #[test]
    fn the_page_may_load_from_and_talk_to_its_own_box_only() {
        for file in &FILES {
            let response = fetch(file.path);
            let policy = response.headers()["content-security-policy"].to_str().unwrap().to_owned();
            assert!(policy.starts_with("default-src 'none';"), "{policy}");
            for word in policy.split([' ', ';']).filter(|word| !word.is_empty()) {
                let lax = ["*", "'unsafe-inline'", "'unsafe-eval'", "http:", "https:", "data:"];
                assert!(!lax.contains(&word), "{word}");
            }
        }
        // The policy would block them: they must not be there in the first place.
        let page = text("/");
        for inline in [" style=", "<style", " onclick=", "javascript:", "http://", "https://"] {
            assert!(!page.contains(inline), "{inline}");
        }
    }

    #[test]
    fn a_browser_that_has_the_file_is_told_so_and_one_that_has_another_gets_it() {
        let first = fetch("/editor/app.js");
        assert_eq!(first.headers()["content-type"], "text/javascript; charset=utf-8");
        assert_eq!(first.headers()["cache-control"], "no-cache");
        let etag = first.headers()["etag"].clone();
        let mut request = HeaderMap::new();
        request.insert(IF_NONE_MATCH, etag.clone());
        let again = respond("/editor/app.js", &request).unwrap();
        assert_eq!((again.status(), again.body().len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(again.headers()["etag"], etag);
        let other = respond("/editor/api.js", &request).unwrap();
        assert_eq!(other.status(), StatusCode::OK);
        assert!(!other.body().is_empty());
    }

    #[test]
    fn what_is_no_file_of_the_page_is_nothing() {
        for path in
            ["", "/editor", "/editor/", "/index.html", "/editor/mod.rs", "/editor/../client.js"]
        {
            assert!(!has(path) && respond(path, &HeaderMap::new()).is_none(), "{path}");
        }
    }
}
