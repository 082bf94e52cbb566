//! What the box answers when all is well.

use super::{SEGMENT, base64, body, one_click, served};
use crate::support::dicom::Ct;
use crate::support::disc_png;
use insta::assert_json_snapshot;
use serde_json::{Value, json};

fn decoded(base64: &Value) -> Vec<u8> {
    base64_simd::STANDARD.decode_to_vec(base64.as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn both_request_forms_give_the_same_answer() {
    let served = served().await;
    let png = disc_png(64, 48);
    let mut more = one_click();
    more["patient_id"] = json!("Test^One");
    more["slice_index"] = json!(12);
    more["image_type"] = json!("L3");
    let by_json = served.json(SEGMENT, &body(&png, &more)).await;
    assert_eq!(by_json.status, 200, "{}", by_json.text());
    assert_eq!(by_json.header("content-type"), Some("application/json"));
    assert_eq!(by_json.header("cache-control"), Some("no-store"));
    assert_eq!(by_json.header("x-content-type-options"), Some("nosniff"));
    let answer = by_json.value();
    assert_eq!(by_json.header("x-request-id"), answer["request_id"].as_str());
    assert!(decoded(&answer["mask_data"]).starts_with(b"\x89PNG"));
    assert_json_snapshot!(answer, {
        ".mask_data" => "[png]", ".mask_id" => "[id]", ".image.id" => "[id]",
        ".processing_time_ms" => "[ms]", ".timings_ms.decode" => "[ms]",
        ".timings_ms.queue" => "[ms]", ".timings_ms.encode" => "[ms]",
        ".timings_ms.prompt" => "[ms]", ".timings_ms.render" => "[ms]", ".request_id" => "[id]",
        ".model.fingerprint" => "[sum]", ".confidence_score" => "[0..1]",
        ".bounding_box.x" => "[px]", ".bounding_box.y" => "[px]",
        ".bounding_box.width" => "[px]", ".bounding_box.height" => "[px]", ".annotation.x" => "[px]", ".annotation.y" => "[px]",
        ".annotation.width" => "[px]", ".annotation.height" => "[px]",
    });

    let parts: [(&str, &[u8]); 5] = [
        ("file", &png),
        ("image_type", b"L3"),
        ("click_points", br#"[{"x":32,"y":24,"label":1}]"#),
        ("patient_id", b"Other^Two"),
        ("foo", b"bar"),
    ];
    let by_form = served.form(SEGMENT, &parts).await.value();
    assert_eq!(by_form["mask_id"], answer["mask_id"]);
    assert_eq!(by_form["mask_data"], answer["mask_data"]);
    // Identity comes from this very request, however equal the pixels.
    assert_eq!(by_form["patient_id"], "Other^Two");
    assert_eq!(by_form["slice_index"], Value::Null);
    assert_eq!(by_form["cached"], true);
    let warnings = by_form["warnings"].as_array().unwrap();
    assert!(warnings.contains(&json!("unknown field foo (ignored)")), "{warnings:?}");
}

#[tokio::test]
async fn a_hit_leaves_the_engine_alone_and_a_second_click_the_encoder() {
    let served = served().await;
    let png = disc_png(64, 48);
    let encodes = "sam2d_engine_calls_total{kind=\"encode\"}";
    let decodes = "sam2d_engine_calls_total{kind=\"decode\"}";
    let first = served.json(SEGMENT, &body(&png, &one_click())).await.value();
    assert_eq!((&first["cached"], &first["embedding_cached"]), (&json!(false), &json!(false)));
    let calls = (served.metric(encodes).await, served.metric(decodes).await);
    let hit = served.json(SEGMENT, &body(&png, &one_click())).await.value();
    assert_eq!((&hit["cached"], &hit["embedding_cached"]), (&json!(true), &json!(true)));
    assert_eq!((served.metric(encodes).await, served.metric(decodes).await), calls);
    assert_eq!(served.metric("sam2d_cache_hits_total{kind=\"answer\"}").await, 1.0);

    // The second click by the image's id, without sending the image again.
    let id = first["image"]["id"].as_str().unwrap();
    let second = json!({
        "image_data": format!("image:{id}"), "image_type": "auto",
        "click_points": [{ "x": 20, "y": 20, "label": 1 }],
    });
    let second = served.json(SEGMENT, &second.to_string()).await.value();
    assert_eq!((&second["cached"], &second["embedding_cached"]), (&json!(false), &json!(true)));
    assert_eq!(second["image"], first["image"]);
    assert_eq!(served.metric(encodes).await, calls.0);
}

#[tokio::test]
async fn the_bare_png_is_the_same_mask() {
    let served = served().await;
    let request = body(&disc_png(64, 48), &one_click());
    let answer = served.json(SEGMENT, &request).await.value();
    let headers = [("Content-Type", "application/json"), ("Accept", "image/png")];
    let bare = served.ask("POST", SEGMENT, &headers, request.as_bytes()).await;
    assert_eq!((bare.status, bare.header("content-type")), (200, Some("image/png")));
    assert_eq!(bare.body, decoded(&answer["mask_data"]));
    assert_eq!(bare.header("x-mask-id"), answer["mask_id"].as_str());
    assert_eq!(bare.header("x-cached"), Some("true"));
    assert_eq!(bare.header("x-confidence-score").unwrap(), answer["confidence_score"].to_string());
    let bounds = &answer["bounding_box"];
    let bounds = ["x", "y", "width", "height"].map(|name| bounds[name].to_string()).join(",");
    assert_eq!(bare.header("x-bounding-box").unwrap(), bounds);
    assert!(bare.header("x-processing-time-ms").is_some());
}

#[tokio::test]
async fn a_mask_is_fetched_by_its_path_with_the_prefix_of_the_request() {
    let served = served().await;
    let mut more = one_click();
    let inline = served.json(SEGMENT, &body(&disc_png(64, 48), &more)).await.value();
    more["mask_format"] = json!("url");
    let request = body(&disc_png(64, 48), &more);
    let answer = served.json("/api/ctai/api/segmentation/sam2", &request).await.value();
    let path = answer["mask_data"].as_str().unwrap();
    let id = answer["mask_id"].as_str().unwrap();
    assert_eq!(path, format!("/api/ctai/api/segmentation/masks/{id}.png"));

    let whole = served.get(path).await;
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("image/png")));
    assert_eq!(whole.body, decoded(&inline["mask_data"]));
    let age = whole.header("cache-control").unwrap().strip_prefix("private, max-age=").unwrap();
    assert!((86_000..=86_400).contains(&age.parse::<u32>().unwrap()), "{age}");
    let etag = whole.header("etag").unwrap();
    let head = served.ask("HEAD", path, &[], b"").await;
    assert_eq!((head.status, head.header("etag")), (200, Some(etag)));
    assert_eq!(head.header("content-length").unwrap(), whole.body.len().to_string());
    assert!(head.body.is_empty());
    let held = served.ask("GET", path, &[("If-None-Match", etag)], b"").await;
    assert_eq!((held.status, held.body.len()), (304, 0));
    let part = served.ask("GET", path, &[("Range", "bytes=1-3")], b"").await;
    assert_eq!((part.status, &*part.body), (206, &b"PNG"[..]));
    let beyond = served.ask("GET", path, &[("Range", "bytes=1000000-")], b"").await;
    assert_eq!((beyond.status, &*beyond.code()), (416, "range_not_satisfiable"));
}

#[tokio::test]
async fn a_mask_can_be_refined_by_its_id_and_as_a_png() {
    let served = served().await;
    let png = disc_png(64, 48);
    let first = served.json(SEGMENT, &body(&png, &one_click())).await.value();
    for mask in [&first["mask_id"], &first["mask_data"]] {
        let refined = served.json(SEGMENT, &body(&png, &json!({ "mask_input": mask }))).await;
        assert_eq!(refined.status, 200, "{}", refined.text());
    }
    let neighbour = body(&disc_png(64, 50), &json!({ "prompt_from": first["mask_id"] }));
    let seeded = served.json(SEGMENT, &neighbour).await;
    // An empty first mask has no place to seed a prompt with; then the field is named.
    if first["bounding_box"].is_null() {
        assert_eq!(seeded.code(), "invalid_request");
    } else {
        assert_eq!(seeded.status, 200, "{}", seeded.text());
    }
}

#[tokio::test]
async fn an_editor_that_opens_a_slice_embeds_and_previews_it() {
    let served = served().await;
    let ct = Ct::default().bytes();
    let request = body(&ct, &json!({ "image_type": "middle" }));
    let embedded = served.json("/api/segmentation/sam2/embed", &request).await;
    assert_json_snapshot!(embedded.value(), {
        ".image.id" => "[id]", ".processing_time_ms" => "[ms]",
    });
    let mut more = one_click();
    more["image_type"] = json!("middle");
    let click = served.json(SEGMENT, &body(&ct, &more)).await.value();
    assert_eq!(click["embedding_cached"], true);
    assert_eq!(click["image"], embedded.value()["image"]);
    assert_eq!(click["annotation"]["type"], "polygon");

    let preview = served.json("/api/segmentation/preview", &request).await;
    assert_eq!((preview.status, preview.header("content-type")), (200, Some("image/png")));
    assert_eq!(preview.header("cache-control"), Some("no-store"));
    let image = image::load_from_memory(&preview.body).unwrap();
    assert_eq!((image.width(), image.height()), (96, 80));
}

#[tokio::test]
async fn the_preview_is_the_slice_as_the_engine_sees_it() {
    const PREVIEW: &str = "/api/segmentation/preview";
    let served = served().await;
    let preview = async |image: &[u8], more: Value| {
        let answer = served.json(PREVIEW, &body(image, &more)).await;
        assert_eq!(answer.status, 200, "{more}");
        let image = image::load_from_memory(&answer.body).unwrap();
        assert_eq!(image.color(), image::ColorType::L8, "{more}");
        image.into_luma8()
    };
    let middle = |image: &image::GrayImage| image.get_pixel(48, 40).0[0];
    let corner = |image: &image::GrayImage| image.get_pixel(0, 0).0[0];
    let ct = Ct::default().bytes();
    // The disc's middle is 102 HU (1124 − 1024 and 128 mod 7), the corner −1004.
    let window = json!({ "window": { "center": 102, "width": 1000 } });
    let seen = preview(&ct, window.clone()).await;
    assert!((126..=129).contains(&middle(&seen)), "{}", middle(&seen));
    assert_eq!(corner(&seen), 0);
    // Its context's window, −100..200 HU, beats the file's own, 40/400; `auto` takes the file's.
    let context = middle(&preview(&ct, json!({ "image_type": "L3" })).await);
    assert!((170..=174).contains(&context), "{context}");
    let own = middle(&preview(&ct, json!({})).await);
    assert!((165..=169).contains(&own), "{own}");
    let inverted = Ct { photometric: "MONOCHROME1", ..Ct::default() }.bytes();
    let inverted = preview(&inverted, window).await;
    assert_eq!(corner(&inverted), 255);
    assert!(inverted.pixels().zip(seen.pixels()).all(|(a, b)| a.0[0].abs_diff(255 - b.0[0]) <= 1));
    // A frame of several is that frame; 8 bits come back as they are.
    let cine = Ct { frames: 40, ..Ct::default() }.bytes();
    let narrow = json!({ "window": { "center": 120, "width": 2 }, "frame": 39 });
    assert_eq!(middle(&preview(&cine, narrow).await), 255);
    let png = disc_png(96, 80);
    let same = image::load_from_memory(&png).unwrap().into_luma8();
    assert_eq!(preview(&png, json!({})).await, same);
    let windowed = body(&png, &json!({ "window": { "center": 1, "width": 2 } }));
    assert_eq!(served.json(PREVIEW, &windowed).await.code(), "invalid_request");
    let id = served.json(SEGMENT, &body(&ct, &one_click())).await.value();
    let id = format!("image:{}", id["image"]["id"].as_str().unwrap());
    let by_id = json!({ "image_data": id, "image_type": "auto" }).to_string();
    assert_eq!(served.json(PREVIEW, &by_id).await.code(), "unknown_image");
}

#[tokio::test]
async fn the_old_service_s_clients_change_only_its_address() {
    let served = served().await;
    let parts: [(&str, &[u8]); 4] = [
        ("file", &disc_png(64, 48)),
        ("image_type", b"demo"),
        ("return_format", b"base64"),
        ("click_points", br#"[{"x":32,"y":24,"label":1}]"#),
    ];
    let answer = served.form("/segment", &parts).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.value()["image_type"], "auto");
    let warnings = answer.value()["warnings"].to_string();
    assert!(!warnings.contains("return_format"), "{warnings}");
    let health = served.get("/health").await;
    assert_eq!(health.status, 200);
    assert_json_snapshot!(health.value(), { ".version" => "[version]" });
}

#[tokio::test]
async fn the_health_routes_say_how_it_is() {
    let served = served().await;
    assert_json_snapshot!(served.get("/api/segmentation/sam2/health").await.value(), {
        ".model.fingerprint" => "[sum]", ".cache_stats.last_health_check" => "[time]",
    });
    for path in ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"] {
        assert_eq!(served.get(path).await.status, 200, "{path}");
        assert_eq!(served.ask("HEAD", path, &[], b"").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn the_page_the_description_and_the_metrics_are_served() {
    let served = served().await;
    let page = served.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(served.get("/client.js").await.status, 200);
    let described = served.get("/openapi.json").await;
    assert_eq!(described.text(), sam2d::http::openapi::document());
    let answer = served.json(SEGMENT, &body(&disc_png(64, 48), &one_click())).await.value();
    let schemas = &described.value()["components"]["schemas"];
    for (schema, object) in
        [("Answer", &answer), ("Image", &answer["image"]), ("Model", &answer["model"])]
    {
        let described: Vec<_> = schemas[schema]["properties"].as_object().unwrap().keys().collect();
        let sent: Vec<_> = object.as_object().unwrap().keys().collect();
        assert_eq!(described, sent, "{schema}");
    }
    let metrics = served.get("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let text = metrics.text();
    for figure in [
        "sam2d_requests_total{route=\"/api/segmentation/sam2\",outcome=\"ok\"} 1",
        "sam2d_request_seconds_count{route=\"/api/segmentation/sam2\"} 1",
        "sam2d_stage_seconds_count{stage=\"encode\"} 1",
        "sam2d_engine_state{state=\"ready\"} 1",
        "sam2d_engine_state{state=\"manual-only\"} 0",
        "sam2d_engine_calls_total{kind=\"encode\"} 1",
        "sam2d_engine_queue{class=\"cold\"} 0",
        "sam2d_cache_hits_total{kind=\"answer\"} 0",
        "sam2d_decoder_images_total{outcome=\"decoded\"} 1",
        "sam2d_upload_bytes 0",
    ] {
        assert!(text.lines().any(|line| line == figure), "{figure} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    // Its own connection; that an earlier one is closed may be seen a moment later.
    let mut tries = 0;
    while served.metric("sam2d_connections ").await != 1.0 {
        tries += 1;
        assert!(tries < 500, "connections that were closed are still counted");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_data_url_is_an_image_too() {
    let served = served().await;
    let url = format!("data:image/png;base64,{}", base64(&disc_png(64, 48)));
    let request = json!({ "image_data": url, "image_type": "auto", "click_points": [{ "x": 1, "y": 1, "label": 1 }] });
    assert_eq!(served.json(SEGMENT, &request.to_string()).await.status, 200);
}
