//! What the box answers when something is wrong, each with its code.

use super::{SEGMENT, base64, body, one_click, served};
use crate::support::dicom::Ct;
use crate::support::wire::{FORM, Served, request};
use crate::support::{Setup, disc_png, obedient, service};
use insta::assert_json_snapshot;
use sam2d::engine::worker::LoadError;
use sam2d::http::Options;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_by_code_and_in_words() {
    let served = served().await;
    let png = disc_png(64, 48);
    let frames = Ct { frames: 3, ..Ct::default() }.bytes();
    let deflated = {
        // The same file under a transfer syntax that nobody decodes here.
        let (from, to) = (b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4\0");
        let mut bytes = Ct::default().bytes();
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    let unknown = "00".repeat(32);
    let cases: [(&str, &[u8], Value); 12] = [
        ("no image", b"just some text, no image at all", json!({})),
        ("cut image", &png[..png.len() / 2], json!({})),
        ("transfer syntax", &deflated, json!({})),
        ("click outside", &png, json!({ "click_points": [{ "x": 65, "y": 1, "label": 1 }] })),
        ("empty box", &png, json!({ "box": { "x": 64, "y": 0, "width": 5, "height": 5 } })),
        ("negative only", &png, json!({ "click_points": [{ "x": 1, "y": 1, "label": 0 }] })),
        ("window for 8 bits", &png, json!({ "window": { "center": 1, "width": 2 } })),
        ("frame required", &frames, json!({})),
        ("frame out of range", &frames, json!({ "frame": 3 })),
        ("unknown mask", &png, json!({ "mask_input": unknown })),
        ("unknown neighbour", &png, json!({ "prompt_from": "not even an id" })),
        ("suggestion", &png, json!({ "clickPoints": [] })),
    ];
    let mut said = Vec::new();
    for (name, image, more) in cases {
        let answer = served.json(SEGMENT, &body(image, &more)).await;
        answer.code();
        said.push(json!({ "case": name, "problem": answer.value() }));
    }
    for (name, image) in [
        ("unknown image", format!("image:{unknown}")),
        ("web address", "https://example.org/a.png".to_owned()),
        ("no inbox", "file:a.png".to_owned()),
        ("outside the inbox", "file:../a.png".to_owned()),
    ] {
        let request = json!({ "image_data": image, "image_type": "L3" }).to_string();
        let answer = served.json(SEGMENT, &request).await;
        answer.code();
        said.push(json!({ "case": name, "problem": answer.value() }));
    }
    assert_json_snapshot!(said, { "[].problem.request_id" => "[id]" });
}

/// Over the wire, on an image of 64×48: each is refused before the engine is asked, by a text that
/// names what is wrong.
#[tokio::test]
async fn every_impossible_prompt_is_a_400_that_names_it() {
    let served = served().await;
    let png = disc_png(64, 48);
    let click = |x: &str, y: &str, label: u8| format!(r#"{{"x":{x},"y":{y},"label":{label}}}"#);
    let clicks = |clicks: &[String]| format!(r#""click_points":[{}]"#, clicks.join(","));
    let one = |x, y| clicks(&[click(x, y, 1)]);
    let bounds = |x: &str, y: &str, width: &str, height: &str| {
        format!(r#""box":{{"x":{x},"y":{y},"width":{width},"height":{height}}}"#)
    };
    let mask = |bytes: &[u8]| format!(r#""mask_input":"{}""#, base64(bytes));
    let colour = {
        let size = sam2d::domain::slice::Size { width: 64, height: 48 };
        sam2d::imaging::png::encode_rgb(&[200; 3 * 64 * 48], size)
    };
    let cases = [
        (one("-1", "5"), "click_points[0].x = -1 lies outside the image (0 to 64)"),
        (one("5", "48.5"), "click_points[0].y = 48.5 lies outside the image (0 to 48)"),
        (one("1e999", "5"), "click_points[0].x must be a number"),
        (one("NaN", "5"), "not valid JSON"),
        (one("null", "5"), "click_points[0].x is missing"),
        (clicks(&[click("5", "5", 0)]), "no click with label 1"),
        (
            clicks(&[click("5", "5", 1), click("9", "9", 1), click("5", "5", 0)]),
            "click_points[0] and click_points[2] mark the same pixel as in and out",
        ),
        (clicks(&vec![click("5", "5", 1); 65]), "click_points must be an array"),
        (bounds("64", "0", "5", "5"), "box is empty"),
        (bounds("5", "5", "-3", "5"), "box is empty"),
        (bounds("5", "5", "5", "0"), "box is empty"),
        (bounds("5", "5", "1e999", "5"), "box.width must be a number"),
        (mask(&disc_png(63, 48)), "mask_input is 63×48 pixels; the image has 64×48"),
        (mask(&colour), "mask_input must be an 8-bit grey PNG"),
        (mask(&png[..png.len() / 2]), "mask_input can't be read"),
        (mask(b"no picture at all"), "mask_input must be an 8-bit grey PNG"),
    ];
    let decoded = "sam2d_engine_prompts_total";
    let before = served.metric(decoded).await;
    for (member, said) in cases {
        let text = format!(r#"{{"image_data":"{}","image_type":"auto",{member}}}"#, base64(&png));
        let answer = served.json(SEGMENT, &text).await;
        let detail = answer.value()["detail"].as_str().unwrap().to_owned();
        assert_eq!(answer.status, 400, "{member}: {detail}");
        assert!(detail.contains(said), "{member}: {detail}");
    }
    assert_eq!(served.metric(decoded).await, before, "the engine was asked");
    // The same picture with a prompt that is possible.
    let right = served.json(SEGMENT, &body(&png, &one_click())).await;
    assert_eq!(right.status, 200, "{}", right.text());
    assert!(served.metric(decoded).await > before);
}

#[tokio::test]
async fn what_http_itself_refuses_is_a_problem_too() {
    let served = served().await;
    let json = ("Content-Type", "application/json");
    const EMBED: &str = "/api/segmentation/sam2/embed";
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, &str, Headers<'_>, u16, &str); 15] = [
        ("GET", "/nothing", &[], 404, "not_found"),
        ("GET", "/api/segmentation/masks/xyz.png", &[], 404, "unknown_mask"),
        ("GET", SEGMENT, &[], 405, "method_not_allowed"),
        ("DELETE", "/livez", &[], 405, "method_not_allowed"),
        ("BREW", "/", &[], 405, "method_not_allowed"),
        ("POST", SEGMENT, &[json, ("Accept", "text/html")], 406, "not_acceptable"),
        ("POST", EMBED, &[json, ("Accept", "application/dicom")], 406, "not_acceptable"),
        ("POST", SEGMENT, &[], 415, "unsupported_media_type"),
        ("POST", SEGMENT, &[("Content-Type", "text/plain")], 415, "unsupported_media_type"),
        ("POST", SEGMENT, &[json, ("Content-Encoding", "gzip")], 415, "unsupported_media_type"),
        ("POST", "/segment", &[json], 415, "unsupported_media_type"),
        ("POST", SEGMENT, &[json], 400, "invalid_request"),
        ("POST", SEGMENT, &[("Content-Type", FORM)], 400, "invalid_request"),
        ("GET", "/livez", &[("Host", "evil.example")], 421, "wrong_host"),
        ("GET", "/livez", &[("Origin", "null")], 403, "forbidden"),
    ];
    for (method, path, headers, status, code) in cases {
        let answer = served.ask(method, path, headers, b"").await;
        assert_eq!((answer.status, &*answer.code()), (status, code), "{method} {path} {headers:?}");
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        if status == 405 {
            assert!(answer.header("allow").unwrap().contains("OPTIONS"), "{answer:?}");
        }
    }
    // Neither a length nor chunks.
    let lengthless = request("POST", SEGMENT, &[json], None);
    let answers = served.raw(&lengthless).await;
    assert_eq!((answers[0].status, &*answers[0].code()), (411, "length_required"));
}

#[tokio::test]
async fn without_an_engine_the_box_says_so_and_makes_no_mask() {
    let broken = || Err(LoadError::NotConfigured("/some/folder is broken".to_owned()));
    let service = service(Setup::default(), broken).await;
    let served = Served::start(service, Options::default()).await;
    let request = body(&disc_png(64, 48), &one_click());
    let answer = served.json(SEGMENT, &request).await;
    assert_eq!((answer.status, &*answer.code()), (503, "engine_unavailable"));
    assert!(!answer.text().contains("folder"), "{}", answer.text());
    let health = served.get("/api/segmentation/sam2/health").await;
    assert_eq!(health.status, 200);
    assert_eq!(health.value()["mode"], "manual-only");
    assert_eq!(health.value()["available"], false);
    assert!(!health.text().contains("folder"), "{}", health.text());
    let old = served.get("/health").await;
    assert_eq!((old.status, &old.value()["status"]), (503, &json!("unhealthy")));
    for path in ["/readyz", "/v2/health/ready"] {
        let ready = served.get(path).await;
        assert_eq!(ready.status, 503);
        assert!(!ready.value()["reasons"].as_array().unwrap().is_empty());
    }
    assert_eq!(served.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_failing_engine_is_503_and_never_a_mask() {
    let (service, orders) = obedient().await;
    let served = Served::start(service, Options::default()).await;
    orders.fail.store(true, Ordering::SeqCst);
    let request = body(&disc_png(64, 48), &one_click());
    let answer = served.json(SEGMENT, &request).await;
    assert_eq!((answer.status, &*answer.code()), (503, "inference_failed"));
    assert!(!answer.text().contains("told to fail"), "{}", answer.text());
    let outcome =
        "sam2d_requests_total{route=\"/api/segmentation/sam2\",outcome=\"inference_failed\"}";
    assert_eq!(served.metric(outcome).await, 1.0);
}

#[tokio::test]
async fn too_slow_is_504_once_and_503_at_once_from_then_on() {
    let (service, orders) = obedient().await;
    let served =
        Served::start(service, Options { request_timeout_s: 1, ..Options::default() }).await;
    // A fifth of it is what the engine expects of the next one, which is more than the deadline.
    orders.encode_ms.store(6000, Ordering::SeqCst);
    let request = |width| body(&disc_png(width, 48), &one_click());
    let first = served.json(SEGMENT, &request(64)).await;
    assert_eq!((first.status, &*first.code()), (504, "timeout"));
    tokio::time::sleep(std::time::Duration::from_millis(5500)).await;
    // Now it is known how long an encode takes.
    let started = std::time::Instant::now();
    let second = served.json(SEGMENT, &request(65)).await;
    assert_eq!((second.status, &*second.code()), (503, "overloaded"));
    assert!(second.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert!(started.elapsed().as_millis() < 900, "{:?}", started.elapsed());
}
