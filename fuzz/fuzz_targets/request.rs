//! Bodies of requests, JSON or a form: the first byte says which, and whether only an image is wanted.
#![no_main]

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_LENGTH};
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;
use sam2d::http::budget::Budget;
use sam2d::http::intake::{Intake, Limits, Upload};
use sam2d::http::wire::form::{self, FormLimits};
use sam2d::http::wire::json::{self, Shape};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

const BOUNDARY: &str = "X";

/// The whole body, as hyper would hand it over.
fn uploaded(bytes: &[u8], budget: &Budget) -> Upload {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_LENGTH, bytes.len().into());
    let now = Instant::now();
    let limits = Limits {
        max_bytes: 1 << 26,
        idle: Duration::from_secs(60),
        deadline: now + Duration::from_secs(60),
    };
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let body = Full::new(Bytes::copy_from_slice(bytes));
            Intake::open(&headers, body, budget, limits).unwrap().collect().await.unwrap()
        })
    })
}

fuzz_target!(|bytes: &[u8]| {
    let [kind, body @ ..] = bytes else { return };
    let shape = if kind & 1 == 0 { Shape::Segment } else { Shape::Image };
    let budget = Budget::new(1 << 27);
    let upload = uploaded(body, &budget);
    let limits = FormLimits { max_parts: 32, max_text_bytes: 1 << 20 };
    let fields = if kind & 2 == 0 {
        json::read(upload, shape)
    } else {
        form::read(upload, BOUNDARY, shape, limits)
    };
    match fields {
        Ok(fields) => {
            let _ = fields.finish(std::time::Instant::now());
        }
        // No answer repeats what was sent.
        Err(problem) => assert!(!format!("{problem:?}").is_empty()),
    }
    assert_eq!(budget.in_use(), 0, "a body's share of the memory came back");
});
