//! A request as `application/json`.
//!
//! The image is most of the body: its base64 is decoded in the buffer that the body came in, so an
//! upload is never held twice (unless the sender escaped it, as `\/`).

use super::fields::{Field, Fields, Value};
use super::image_data::{self, ImageText};
use super::object;
use super::problem::Problem;
use crate::http::intake::Upload;
use crate::service::request::ImageSource;
use serde_json::value::RawValue;
use std::ops::Range;

/// A name of a field that comes later is not looked for: smaller bodies are read as they are.
const NAME_WITHIN_BYTES: usize = 4096;
/// Of an image's text, to tell by what it is: longer than the head of any `data:` URL.
const KEPT_BYTES: usize = 256;
const BLOCK_BYTES: usize = 256;

/// Which fields a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// All of them.
    Segment,
    /// The image's alone.
    Image,
}

/// Reads the fields of a body.
///
/// # Errors
/// 400, naming the field.
pub fn read(mut upload: Upload, shape: Shape) -> Result<Fields, Problem> {
    let (mut fields, image) = match read_abridged(upload.bytes(), shape) {
        Some((fields, image)) => (fields, Some(image)),
        None => read_borrowed(upload.bytes(), shape)?,
    };
    if let Some(range) = image {
        let start = range.start;
        let text = upload.bytes_mut().get_mut(range).unwrap_or_default();
        let length = image_data::decode_in_place(text, Field::ImageData.name())?;
        let bytes = upload.into_bytes().slice(start..start + length);
        fields.set_image(ImageSource::Bytes(bytes))?;
    }
    Ok(fields)
}

/// As [`read_borrowed`], where it comes to the same without looking at most of the image: a copy of
/// the body is read that lacks the middle of what looks like one.
///
/// The text taken out has no quote, escape or control in it. So if the image found in the copy ends
/// where it was taken out, it was a part of that image, and all else means what it means with it.
fn read_abridged(body: &[u8], shape: Shape) -> Option<(Fields, Range<usize>)> {
    let cut = dispensable(body)?;
    let short = [body.get(..cut.start)?, body.get(cut.end..)?].concat();
    let (fields, image) = read_borrowed(&short, shape).ok()?;
    let found = image.filter(|found| found.end == cut.start)?;
    Some((fields, found.start..cut.end))
}

/// Of a long `image_data`, as far as is seen without reading the JSON: all but its beginning. None
/// where it ends with anything but its quote: an escape or a line break will be read as it is.
fn dispensable(body: &[u8]) -> Option<Range<usize>> {
    const NAME: &[u8] = b"\"image_data\"";
    let early = body.get(..NAME_WITHIN_BYTES)?;
    let name = early.windows(NAME.len()).position(|name| name == NAME)? + NAME.len();
    let quote = name + early.get(name..)?.iter().position(|byte| *byte == b'"')?;
    let start = quote + 1 + KEPT_BYTES;
    // Many bytes at a time, as long as all are such as can be left out.
    let plain = |byte: &u8| matches!(byte, b'!'..=b'~') & (*byte != b'"') & (*byte != b'\\');
    let rest = body.get(start..)?;
    let blocks = rest.chunks(BLOCK_BYTES);
    let wholes = blocks.take_while(|block| block.iter().fold(true, |all, byte| all & plain(byte)));
    let sure = (wholes.count() * BLOCK_BYTES).min(rest.len());
    let end = sure + rest.get(sure..)?.iter().position(|byte| !plain(byte))?;
    (rest.get(end) == Some(&b'"')).then_some(start..start + end)
}

/// Everything but an image in plain base64, of which it returns the place.
fn read_borrowed(body: &[u8], shape: Shape) -> Result<(Fields, Option<Range<usize>>), Problem> {
    let mut fields = Fields::default();
    let text = std::str::from_utf8(body)
        .map_err(|_| Problem::invalid("the body is not valid JSON (it must be UTF-8)"))?;
    let invalid = |error: object::ObjectError| Problem::invalid(error.describe(""));
    let members: Vec<Option<&RawValue>> = match shape {
        Shape::Segment => object::members(text, &Field::NAMES).map_err(invalid)?.to_vec(),
        Shape::Image => object::members(text, &IMAGE_NAMES).map_err(invalid)?.to_vec(),
    };
    let mut image = None;
    for (field, raw) in Field::ALL.into_iter().zip(members) {
        let Some(raw) = raw else { continue };
        match plain_string(raw).filter(|_| field == Field::ImageData) {
            Some(plain) if matches!(image_data::classify(plain)?, ImageText::Base64(_)) => {
                image = base64_range(body, plain)?;
            }
            _ => fields.set(field, Value::Json(raw))?,
        }
    }
    Ok((fields, image))
}

const IMAGE_NAMES: [&str; Field::IMAGE_FIELDS] = {
    let [a, b, c, d, e, f, ..] = Field::NAMES;
    [a, b, c, d, e, f]
};

/// A string without escapes: what lies between its quotes is what it says.
fn plain_string(raw: &RawValue) -> Option<&str> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    (!inner.contains('\\')).then_some(inner)
}

/// Where in `body` the base64 of `plain`, a part of it, lies.
fn base64_range(body: &[u8], plain: &str) -> Result<Option<Range<usize>>, Problem> {
    let ImageText::Base64(data) = image_data::classify(plain)? else { return Ok(None) };
    let start = data.as_ptr().addr() - body.as_ptr().addr();
    Ok(Some(start..start + data.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mask::{ImageType, Target};
    use crate::domain::prompt::{Click, ClickLabel, PromptBox};
    use crate::http::budget::Budget;
    use crate::http::intake::tests::uploaded;
    use crate::http::wire::fields::{Echo, MaskFormat, Parsed, SliceIndex};
    use crate::http::wire::problem::Code;
    use crate::service::request::MaskSource;
    use proptest::prelude::*;
    use std::time::Instant;

    async fn parse(text: impl Into<String>, shape: Shape) -> Result<Parsed, Problem> {
        let upload = uploaded(text.into(), &Budget::new(1 << 24)).await;
        read(upload, shape)?.finish(Instant::now())
    }

    async fn refusal(text: &str) -> String {
        let problem = parse(text, Shape::Segment).await.unwrap_err();
        assert_eq!(problem.code(), Code::InvalidRequest, "{text}");
        problem.detail().to_owned()
    }

    #[tokio::test]
    async fn every_field_is_read() {
        let id = "0a".repeat(32);
        let parsed = parse(
            format!(
                r#"{{"image_data":"aGVs\n bG8=","image_type":"middle","patient_id":"Anna","slice_index":12,
                "frame":3,"window":{{"width":400,"center":-50.5}},"target":"psoas",
                "click_points":[{{"x":1,"y":2.5,"label":1}},{{"label":0,"x":3,"y":4}}],
                "box":{{"x":-1,"y":0,"width":10,"height":20}},"mask_input":"{id}",
                "prompt_from":"{id}","mask_format":"url"}}"#
            ),
            Shape::Segment,
        )
        .await
        .unwrap();
        let request = &parsed.request;
        assert!(matches!(&request.image.source, ImageSource::Bytes(b) if b == "hello"));
        assert_eq!(request.image.image_type, ImageType::Middle);
        assert_eq!(request.image.frame, Some(3));
        let window = request.image.window.unwrap();
        assert_eq!((window.center, window.width), (-50.5, 400.0));
        assert_eq!(request.target, Target::Psoas);
        let click = |x, y, label| Click { x, y, label };
        let clicks = [click(1.0, 2.5, ClickLabel::Inside), click(3.0, 4.0, ClickLabel::Outside)];
        assert_eq!(request.clicks, clicks);
        let bounds = PromptBox { x: -1.0, y: 0.0, width: 10.0, height: 20.0 };
        assert_eq!(request.bounds, Some(bounds));
        assert!(matches!(request.mask_input, Some(MaskSource::Answer(_))));
        assert!(request.prompt_from.is_some());
        assert_eq!(parsed.mask_format, MaskFormat::Url);
        let echo = Echo {
            patient_id: Some("Anna".to_owned()),
            slice_index: Some(SliceIndex::Integer(12)),
        };
        assert!(parsed.echo == echo);
    }

    #[tokio::test]
    async fn an_image_is_read_plain_escaped_and_as_a_data_url() {
        for image in [
            "+/+/aGVsbG8=",
            r"+\/+\/aGVsbG8=",
            "data:image/png;base64,+/+/aGVsbG8=",
            r"\u002b/+/aGVs\r\nbG8=",
        ] {
            let text = format!(r#"{{"image_data":"{image}","image_type":"auto"}}"#);
            let parsed = parse(text, Shape::Image).await.unwrap();
            let ImageSource::Bytes(bytes) = parsed.request.image.source else { panic!("{image}") };
            assert_eq!(bytes, &b"\xfb\xff\xbfhello"[..], "{image}");
        }
    }

    #[tokio::test]
    async fn null_counts_as_absent_but_what_is_needed_is_missed() {
        let text = r#"{"image_data":"aGk=","image_type":"auto","box":null,"frame":null}"#;
        assert!(parse(text, Shape::Segment).await.unwrap().request.bounds.is_none());
        let missing = refusal(r#"{"image_data":"aGk=","image_type":null}"#).await;
        assert_eq!(missing, "image_type is needed: one of L3, middle, auto");
        let missing = refusal(r#"{"image_type":"L3"}"#).await;
        assert_eq!(missing, "an image is needed: image_data in JSON, or a file in a form");
    }

    #[tokio::test]
    async fn a_refusal_names_the_field_and_never_the_value() {
        struct Case(&'static str, &'static str);
        let long = format!(r#""patient_id":"{}""#, "Maier".repeat(52));
        let many =
            format!(r#""click_points":[{}]"#, vec![r#"{"x":1,"y":1,"label":1}"#; 65].join(","));
        for Case(member, detail) in [
            Case(r#""image_type":"L3""#, "image_type was sent twice"),
            Case(r#""clicks":[]"#, "unknown field clicks; did you mean click_points?"),
            Case(r#""patient_id":"a","patient_id":"b""#, "patient_id was sent twice"),
            Case(&*long.leak(), "patient_id must not be longer than 256 bytes"),
            Case(r#""patient_id":17"#, "patient_id must be a string"),
            Case(r#""slice_index":1.5"#, "slice_index must be a string or an integer"),
            Case(r#""frame":-1"#, "frame must be a whole number, counted from 0"),
            Case(r#""frame":1.5"#, "frame must be a whole number, counted from 0"),
            Case(r#""frame":"1""#, "frame must be a whole number, counted from 0"),
            Case(r#""window":[1,2]"#, "window must be a JSON object"),
            Case(r#""window":{"center":1}"#, "window.width is missing"),
            Case(r#""window":{"center":1,"width":0.5}"#, "window.width must be at least 1"),
            Case(r#""window":{"center":1,"width":1e999}"#, "window.width must be a number"),
            Case(
                r#""window":{"centre":1,"width":5}"#,
                "unknown field window.centre; did you mean center?",
            ),
            Case(
                r#""box":{"x":1,"y":1,"width":1,"height":"Maier"}"#,
                "box.height must be a number",
            ),
            Case(r#""box":{"x":1,"x":1,"width":1,"height":1}"#, "box.x was sent twice"),
            Case(
                r#""click_points":{}"#,
                "click_points must be an array of {x, y, label}, at most 64",
            ),
            Case(&*many.leak(), "click_points must be an array of {x, y, label}, at most 64"),
            Case(r#""click_points":[{"x":1,"y":2}]"#, "click_points[0].label is missing"),
            Case(
                r#""click_points":[{"x":1,"y":2,"label":2}]"#,
                "click_points[0].label must be 1 (in) or 0 (out)",
            ),
            Case(
                r#""click_points":[{"x":1,"y":"2","label":1}]"#,
                "click_points[0].y must be a number",
            ),
            Case(r#""click_points":[7]"#, "click_points[0] must be a JSON object"),
            Case(r#""target":"Maier""#, "target must be one of psoas, muscle"),
            Case(r#""mask_format":"png""#, "mask_format must be one of base64, url"),
            Case(r#""mask_input":"file:x""#, "mask_input must be a mask_id or a PNG in base64"),
        ] {
            let text = format!(r#"{{"image_data":"aGk=","image_type":"auto",{member}}}"#);
            assert_eq!(refusal(&text).await, detail, "{member}");
        }
        let demo = refusal(r#"{"image_data":"aGk=","image_type":"demo"}"#).await;
        assert_eq!(demo, "image_type must be one of L3, middle, auto");
        let not_base64 = refusal(r#"{"image_data":"Maier!","image_type":"auto"}"#).await;
        assert_eq!(not_base64, "image_data is not valid base64 (standard alphabet, with padding)");
        assert_eq!(refusal("").await, "the body is not valid JSON");
        assert_eq!(refusal(r#"{"image_data":5}"#).await, "image_data must be a string");
    }

    #[tokio::test]
    async fn a_route_without_prompt_refuses_prompts() {
        let text = r#"{"image_data":"aGk=","image_type":"auto","target":"psoas"}"#;
        assert!(parse(text, Shape::Segment).await.is_ok());
        let problem = parse(text, Shape::Image).await.unwrap_err();
        assert_eq!(problem.detail(), "unknown field target");
    }

    #[tokio::test]
    async fn references_that_can_t_be_ours_are_unknown_not_malformed() {
        let text = r#"{"image_data":"image:77","image_type":"auto"}"#;
        let problem = parse(text, Shape::Segment).await.unwrap_err();
        assert_eq!(problem.code(), Code::UnknownImage);
        let text = r#"{"image_data":"aGk=","image_type":"auto","prompt_from":"77"}"#;
        let problem = parse(text, Shape::Segment).await.unwrap_err();
        assert_eq!(problem.code(), Code::UnknownMask);
        let text = format!(
            r#"{{"image_data":"image:{}","image_type":"auto","frame":0}}"#,
            "00".repeat(32)
        );
        let problem = parse(text, Shape::Segment).await.unwrap_err();
        assert!(problem.detail().starts_with("frame can't be combined"), "{}", problem.detail());
    }

    /// Reads a body both ways: what the short one finds, the long one does. True where it finds any.
    fn abridged_is_right(body: &str) -> bool {
        let Some(short) = read_abridged(body.as_bytes(), Shape::Segment) else { return false };
        let long = read_borrowed(body.as_bytes(), Shape::Segment);
        let (fields, image) = long.unwrap_or_else(|problem| panic!("{}: {body}", problem.detail()));
        assert_eq!((format!("{:?}", short.0), Some(short.1)), (format!("{fields:?}"), image));
        true
    }

    /// What a large body is made of, and what might be mistaken for the beginning or end of its image.
    fn parts() -> impl Strategy<Value = String> {
        let long = || "[A-Za-z0-9+/]{1,40}".prop_map(|text| text.repeat(6000 / text.len()));
        let part = prop_oneof![
            3 => long().prop_map(|text| format!(r#""image_data":"{text}""#)),
            1 => long().prop_map(|text| format!(r#""image_data" : "data:image/png;base64,{text}""#)),
            1 => long().prop_map(|text| format!(r#""patient_id":"\"image_data\":\"{text}""#)),
            1 => long().prop_map(|text| format!(r#""patient_id":"image_data","mask_input":"{text}""#)),
            1 => long().prop_map(|text| format!(r#""patient_id":"\"image_data","frame":[{text}]"#)),
            1 => long().prop_map(|text| format!(r#""image_data":"{text}\"{text}""#)),
            3 => prop_oneof![
                Just(r#""image_type":"L3""#),
                Just(r#""patient_id":"image_data""#),
                Just(r#""patient_id":"\"image_data\"""#),
                Just(r#""frame":3"#),
                Just(r#""image_data":null"#),
                Just("\\\""),
                Just("]"),
                Just("}"),
            ]
            .prop_map(str::to_owned),
        ];
        proptest::collection::vec(part, 1..5).prop_map(|parts| format!("{{{}}}", parts.join(",")))
    }

    proptest! {
        #[test]
        fn a_body_reads_the_same_without_the_middle_of_its_image(body in parts()) {
            abridged_is_right(&body);
        }
    }

    #[test]
    fn the_usual_large_bodies_are_read_without_the_middle_of_their_image() {
        let image = "iVBORw0K".repeat(2000);
        let rest =
            r#""image_type":"L3","patient_id":"Anna","click_points":[{"x":1,"y":2,"label":1}]"#;
        for body in [
            format!(r#"{{"image_data":"{image}",{rest}}}"#),
            format!(r#"{{{rest},"image_data": "data:image/png;base64,{image}"}}"#),
        ] {
            assert!(abridged_is_right(&body), "{}", &body[..80]);
        }
        // What is left of this mask is one still: only that the image ends elsewhere tells.
        let mask = format!(r#""mask_input":   "{image}""#);
        for body in [
            format!(r#"{{"patient_id":"image_data",{mask},"image_data":"aGk="}}"#),
            format!(r#"{{"image_data":"{image}\n{image}",{rest}}}"#),
            format!(r#"{{"image_data":"{image}é",{rest}}}"#),
            format!("{{\"image_data\":\"{image}\n\",{rest}}}"),
            format!(r#"{{"image_data":"{image}",{rest},"clicks":1}}"#),
            format!(r#"{{"image_data":"file:{image}",{rest}}}"#),
            format!(r#"{{"image_data":"{image}",{rest}"#),
            format!(r#"{{"image_data":"{image}"#),
        ] {
            assert!(!abridged_is_right(&body), "{}", &body[body.len() - 80..]);
        }
    }
}
