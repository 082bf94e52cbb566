//! The contract over real sockets, against the real service on the tiny seeded engine.

mod answers;
mod audit;
mod errors;
mod guard;
mod limits;
mod privacy;
mod raw;
mod segmentation;
mod tls;
mod tokens;

use crate::support::engine::load_seeded;
use crate::support::wire::Served;
use crate::support::{Setup, service};
use base64_simd::STANDARD;
use sam2d::http::Options;
use serde_json::{Value, json};

const SEGMENT: &str = "/api/segmentation/sam2";

async fn served() -> Served {
    Served::start(service(Setup::default(), load_seeded).await, Options::default()).await
}

fn base64(bytes: &[u8]) -> String {
    STANDARD.encode_to_string(bytes)
}

/// A JSON request of an image and whatever else.
fn body(image: &[u8], more: &Value) -> String {
    let mut body = json!({ "image_data": base64(image), "image_type": "auto" });
    let members = body.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn one_click() -> Value {
    json!({ "click_points": [{ "x": 32, "y": 24, "label": 1 }] })
}
