//! What the service found, in the contract's words: JSON in its field order, or the bare PNG or DICOM
//! Segmentation with headers that carry the rest.
//!
//! The base64 of the mask goes between head and tail of the JSON without being copied. Fields that
//! identify someone come from this request alone ([`Echo`]), never from the answer, which may be a
//! cached one.

use super::fields::{Echo, MaskFormat, SliceIndex, image_type_name};
use super::reply::Reply;
use crate::domain::mask::{Annotation, BoundingBox, ImageType, Vertex};
use crate::domain::slice::Window;
use crate::http::routes::mask_path;
use crate::service::request::{
    Embedded, ImageDescription, ModelDescription, Segmented, Timings, WindowSource,
};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response};
use serde::Serialize;
use std::time::Duration;

/// Said with every answer.
pub const NOTICE: &str = "Not for diagnostic use.";

/// What belongs to this request and not to the answer.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What is echoed.
    pub echo: &'a Echo,
    /// The context as asked for.
    pub image_type: ImageType,
    /// How the mask is wanted.
    pub mask_format: MaskFormat,
    /// The base path that the request came by.
    pub prefix: &'a str,
    /// What was ignored of this request.
    pub warnings: &'a [String],
    /// Ours.
    pub request_id: &'a str,
    /// Since the end of the request's head.
    pub took: Duration,
}

/// `200 application/json`.
#[must_use]
pub fn segmented_json(segmented: &Segmented, context: &Context<'_>) -> Response<Reply> {
    let answer = &segmented.answer;
    let mask_id = answer.key.0.to_hex();
    let tail = Tail {
        mask_id: &mask_id,
        confidence_score: rounded(answer.confidence, 1e4),
        processing_time_ms: milliseconds(context.took),
        bounding_box: answer.bounding_box.map(WireBox::from),
        cached: segmented.cached,
        embedding_cached: segmented.embedding_cached,
        image_type: image_type_name(context.image_type),
        patient_id: context.echo.patient_id.as_deref(),
        slice_index: context.echo.slice_index.as_ref(),
        annotation: answer.annotation.as_ref().map(WireAnnotation::from),
        image: WireImage::from(&segmented.image),
        model: WireModel::from(&segmented.model),
        timings_ms: WireTimings::from(&segmented.timings),
        warnings: segmented
            .warnings
            .iter()
            .chain(&answer.warnings)
            .chain(context.warnings)
            .map(String::as_str)
            .collect(),
        request_id: context.request_id,
        notice: NOTICE,
    };
    let mask = match context.mask_format {
        MaskFormat::Base64 => answer.png_base64.clone(),
        // A base path is free of anything that JSON would escape; `Options::faults` sees to it.
        MaskFormat::Url => Bytes::from(mask_path(context.prefix, &mask_id)),
    };
    let tail = serde_json::to_string(&tail).unwrap_or_default();
    let rest = Bytes::from(tail).slice(1..);
    json(Reply::new([
        Bytes::from_static(b"{\"mask_data\":\""),
        mask,
        Bytes::from_static(b"\","),
        rest,
    ]))
}

/// `200 image/png`, for `Accept: image/png`.
#[must_use]
pub fn segmented_png(segmented: &Segmented, context: &Context<'_>) -> Response<Reply> {
    described(bare_png(segmented.answer.png.clone()), segmented, context)
}

/// `200 application/dicom`: a DICOM Segmentation, which belongs to one person and is nobody's to keep.
#[must_use]
pub fn segmented_dicom(
    file: Bytes,
    segmented: &Segmented,
    context: &Context<'_>,
) -> Response<Reply> {
    described(unkept(file, "application/dicom"), segmented, context)
}

/// Headers that carry the rest.
fn described(
    mut response: Response<Reply>,
    segmented: &Segmented,
    context: &Context<'_>,
) -> Response<Reply> {
    let answer = &segmented.answer;
    let headers = response.headers_mut();
    let confidence = rounded(answer.confidence, 1e4).to_string();
    put(headers, "x-confidence-score", &confidence);
    put(headers, "x-cached", if segmented.cached { "true" } else { "false" });
    put(headers, "x-processing-time-ms", &milliseconds(context.took).to_string());
    if let Some(BoundingBox { x, y, width, height }) = answer.bounding_box {
        put(headers, "x-bounding-box", &format!("{x},{y},{width},{height}"));
    }
    put(headers, "x-mask-id", &answer.key.0.to_hex());
    response
}

/// The answer to `embed`.
#[must_use]
pub fn embedded_json(embedded: &Embedded, took: Duration) -> Response<Reply> {
    #[derive(Serialize)]
    struct Wire {
        image: WireImage,
        embedding_cached: bool,
        processing_time_ms: f64,
    }
    let wire = Wire {
        image: WireImage::from(&embedded.image),
        embedding_cached: embedded.embedding_cached,
        processing_time_ms: milliseconds(took),
    };
    json(Reply::from(serde_json::to_string(&wire).unwrap_or_default()))
}

/// A PNG that nobody keeps: what `preview` answers, and the body of [`segmented_png`].
#[must_use]
pub fn bare_png(png: Bytes) -> Response<Reply> {
    unkept(png, "image/png")
}

/// A response of JSON that nobody keeps.
#[must_use]
pub fn json(body: Reply) -> Response<Reply> {
    unkept(body, "application/json")
}

fn unkept(body: impl Into<Reply>, media_type: &'static str) -> Response<Reply> {
    let mut response = Response::new(body.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Hundredths of a millisecond are as much as means anything.
#[must_use]
pub fn milliseconds(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3, 1e2)
}

fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Everything after `mask_data`, in the contract's order.
#[derive(Serialize)]
struct Tail<'a> {
    mask_id: &'a str,
    confidence_score: f64,
    processing_time_ms: f64,
    bounding_box: Option<WireBox>,
    cached: bool,
    embedding_cached: bool,
    image_type: &'a str,
    patient_id: Option<&'a str>,
    slice_index: Option<&'a SliceIndex>,
    annotation: Option<WireAnnotation>,
    image: WireImage,
    model: WireModel<'a>,
    timings_ms: WireTimings,
    warnings: Vec<&'a str>,
    request_id: &'a str,
    notice: &'a str,
}

#[derive(Serialize)]
struct WireBox {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

impl From<BoundingBox> for WireBox {
    fn from(BoundingBox { x, y, width, height }: BoundingBox) -> Self {
        Self { x, y, width, height }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum WireAnnotation {
    Rectangle(WireBox),
    Polygon { polygons: Vec<Vec<WireVertex>> },
}

impl From<&Annotation> for WireAnnotation {
    fn from(annotation: &Annotation) -> Self {
        match annotation {
            Annotation::Rectangle(bounds) => Self::Rectangle(WireBox::from(*bounds)),
            Annotation::Polygons(rings) => Self::Polygon {
                polygons: rings
                    .iter()
                    .map(|ring| ring.iter().copied().map(WireVertex::from).collect())
                    .collect(),
            },
        }
    }
}

#[derive(Serialize)]
struct WireVertex {
    x: u32,
    y: u32,
}

impl From<Vertex> for WireVertex {
    fn from(Vertex { x, y }: Vertex) -> Self {
        Self { x, y }
    }
}

#[derive(Serialize)]
struct WireImage {
    id: String,
    width: u32,
    height: u32,
    frame: u32,
    frames: u32,
    window: Option<WireWindow>,
    window_source: &'static str,
}

impl From<&ImageDescription> for WireImage {
    fn from(image: &ImageDescription) -> Self {
        Self {
            id: image.key.0.to_hex(),
            width: image.size.width,
            height: image.size.height,
            frame: image.frame,
            frames: image.frames,
            window: image.window.map(|Window { center, width, .. }| WireWindow { center, width }),
            window_source: match image.window_source {
                WindowSource::Request => "request",
                WindowSource::Context => "context",
                WindowSource::File => "file",
                WindowSource::FileLut => "file_lut",
                WindowSource::MinMax => "min_max",
                WindowSource::None => "none",
            },
        }
    }
}

#[derive(Serialize)]
struct WireWindow {
    center: f64,
    width: f64,
}

#[derive(Serialize)]
pub(super) struct WireModel<'a> {
    name: &'a str,
    backend: &'a str,
    fingerprint: &'a str,
    intended_use: &'a str,
}

impl<'a> From<&'a ModelDescription> for WireModel<'a> {
    fn from(model: &'a ModelDescription) -> Self {
        Self {
            name: &model.engine.name,
            backend: model.engine.backend,
            fingerprint: &model.engine.fingerprint,
            intended_use: &model.intended_use,
        }
    }
}

/// `null` for a stage that did not run.
#[derive(Serialize)]
struct WireTimings {
    decode: Option<f64>,
    queue: Option<f64>,
    encode: Option<f64>,
    prompt: Option<f64>,
    render: Option<f64>,
    /// A count, no time: what `prompt` was spent on.
    prompts: Option<usize>,
}

impl From<&Timings> for WireTimings {
    fn from(timings: &Timings) -> Self {
        Self {
            decode: timings.decode.map(milliseconds),
            queue: timings.queue.map(milliseconds),
            encode: timings.encode.map(milliseconds),
            prompt: timings.prompt.map(milliseconds),
            render: timings.render.map(milliseconds),
            prompts: timings.prompts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::{AnswerKey, ImageKey, Sum};
    use crate::domain::slice::{Format, Size, WindowFunction};
    use crate::engine::EngineInfo;
    use crate::service::request::Answer;
    use http_body_util::BodyExt;
    use std::sync::Arc;
    use std::time::SystemTime;

    fn segmented() -> Segmented {
        let bounds = BoundingBox { x: 118, y: 92, width: 61, height: 48 };
        let engine = EngineInfo {
            name: "sam2-nano 1.0.0".to_owned(),
            backend: "cpu",
            device: "processor".to_owned(),
            input_size: 256,
            embed_channels: 64,
            masks: 4,
            max_prompts: 64,
            max_points: 66,
            fingerprint: "ab".repeat(32),
        };
        Segmented {
            answer: Answer {
                key: AnswerKey(Sum([0xab; 32])),
                png: Bytes::from_static(b"\x89PNG"),
                png_base64: Bytes::from_static(b"iVBORw=="),
                confidence: 0.930_049,
                bounding_box: Some(bounds),
                annotation: Some(Annotation::Rectangle(bounds)),
                warnings: Vec::new(),
                expires: SystemTime::UNIX_EPOCH,
            },
            cached: false,
            embedding_cached: true,
            image: ImageDescription {
                key: ImageKey(Sum([0xcd; 32])),
                format: Format::Dicom,
                size: Size { width: 512, height: 500 },
                frame: 0,
                frames: 1,
                window: Some(Window {
                    center: 50.0,
                    width: 300.0,
                    function: WindowFunction::Linear,
                }),
                window_source: WindowSource::Context,
                spacing_mm: None,
            },
            model: ModelDescription {
                engine: Arc::new(engine),
                intended_use: "demonstration".to_owned(),
            },
            timings: Timings {
                decode: Some(Duration::from_micros(1104)),
                queue: Some(Duration::ZERO),
                ..Timings::default()
            },
            warnings: vec!["a demonstration model answered".to_owned()],
        }
    }

    fn answer(segmented: &Segmented, mask_format: MaskFormat, echo: &Echo) -> Response<Reply> {
        let context = Context {
            echo,
            image_type: ImageType::L3,
            mask_format,
            prefix: "/api/ctai",
            warnings: &["unknown field foo (ignored)".to_owned()],
            request_id: "0f3a",
            took: Duration::from_micros(41_704),
        };
        segmented_json(segmented, &context)
    }

    async fn text(response: Response<Reply>) -> String {
        let length = response.body().len();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes.len() as u64, length);
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn the_answer_has_the_contract_s_fields_in_its_order() {
        let echo = Echo {
            patient_id: Some("Maier \"Anna\"".to_owned()),
            slice_index: Some(SliceIndex::Text("12".to_owned())),
        };
        let response = answer(&segmented(), MaskFormat::Base64, &echo);
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["content-type"], "application/json");
        let text = text(response).await;
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["mask_data"], "iVBORw==");
        insta::assert_snapshot!(text);
    }

    #[tokio::test]
    async fn an_empty_mask_has_no_box_and_no_annotation() {
        let mut empty = segmented();
        empty.answer.bounding_box = None;
        empty.answer.annotation = None;
        empty.image.window = None;
        empty.image.window_source = WindowSource::None;
        let echo = Echo { patient_id: None, slice_index: Some(SliceIndex::Integer(12)) };
        insta::assert_snapshot!(text(answer(&empty, MaskFormat::Url, &echo)).await);
    }

    #[test]
    fn polygons_come_as_rings_of_corners() {
        let corner = |x, y| Vertex { x, y };
        let rings = vec![vec![corner(0, 0), corner(2, 0), corner(2, 1)]];
        let wire = WireAnnotation::from(&Annotation::Polygons(rings));
        insta::assert_snapshot!(
            serde_json::to_string(&wire).unwrap(),
            @r#"{"type":"polygon","polygons":[[{"x":0,"y":0},{"x":2,"y":0},{"x":2,"y":1}]]}"#
        );
    }

    #[test]
    fn the_base64_of_a_mask_is_sent_where_it_lies() {
        let segmented = segmented();
        let response = answer(&segmented, MaskFormat::Base64, &Echo::default());
        let pieces = response.into_body().into_pieces();
        let sent =
            pieces.iter().any(|piece| piece.as_ptr() == segmented.answer.png_base64.as_ptr());
        assert!(sent, "the base64 was copied");
    }

    #[test]
    fn a_bare_png_carries_the_rest_in_headers() {
        let echo = Echo::default();
        let context = Context {
            echo: &echo,
            image_type: ImageType::L3,
            mask_format: MaskFormat::Base64,
            prefix: "",
            warnings: &[],
            request_id: "0f3a",
            took: Duration::from_micros(41_704),
        };
        let response = segmented_png(&segmented(), &context);
        let headers = response.headers();
        assert_eq!(headers["content-type"], "image/png");
        assert_eq!(headers["cache-control"], "no-store");
        assert_eq!(headers["x-confidence-score"], "0.93");
        assert_eq!(headers["x-cached"], "false");
        assert_eq!(headers["x-processing-time-ms"], "41.7");
        assert_eq!(headers["x-bounding-box"], "118,92,61,48");
        assert_eq!(headers["x-mask-id"], &*"ab".repeat(32));
    }
}
