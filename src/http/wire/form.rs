//! A request as `multipart/form-data`: what existing editors send.
//!
//! Unknown fields are named in the answer's warnings rather than refused, empty values count as
//! absent, and a missing `image_type` means `auto`. File names in the parts are not even looked at:
//! they are protected health information.
//!
//! The body is here whole before it is parsed: multer searches its buffer from the start whenever a
//! piece arrives, so a long part header in small pieces would cost time in the square of its length.

use super::fields::{Field, Fields, MAX_MASK_INPUT_BYTES, Value};
use super::json::Shape;
use super::object::{shown, suggestion, unknown};
use super::problem::{Code, Problem};
use crate::http::intake::Upload;
use crate::service::request::ImageSource;
use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};
use multer::Multipart;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

/// Bounds for the parts of a form.
#[derive(Clone, Copy, Debug)]
pub struct FormLimits {
    /// `http.max_form_parts`.
    pub max_parts: usize,
    /// `http.max_text_bytes`.
    pub max_text_bytes: usize,
}

/// Names under which the image's bytes come.
const FILE_FIELDS: [&str; 2] = ["file", "image"];
/// The old service's clients send it; the answer is the same whatever it says.
const RETURN_FORMAT: &str = "return_format";

/// Reads the fields of a form.
///
/// # Errors
/// 400 naming the field; 413 for too many or too long ones.
pub fn read(
    upload: Upload,
    boundary: &str,
    shape: Shape,
    limits: FormLimits,
) -> Result<Fields, Problem> {
    let grant = upload.grant();
    let mut form = Form { fields: Fields::default(), file: None, shape, limits };
    let body = BodyDataStream::new(Full::new(upload.into_bytes()));
    let outcome = {
        let read = pin!(form.read(Multipart::new(body, boundary)));
        // Everything is here, so the first poll brings the end, unless the form itself has none.
        read.poll(&mut Context::from_waker(Waker::noop()))
    };
    match outcome {
        Poll::Ready(outcome) => outcome?,
        Poll::Pending => return Err(malformed()),
    }
    let Form { mut fields, file, .. } = form;
    if let Some(file) = file {
        fields.set_image(ImageSource::Bytes(grant.hold(file)))?;
    }
    fields.default_to_auto();
    Ok(fields)
}

/// A form being read.
struct Form {
    fields: Fields,
    file: Option<Bytes>,
    shape: Shape,
    limits: FormLimits,
}

impl Form {
    async fn read(&mut self, mut form: Multipart<'_>) -> Result<(), Problem> {
        let mut seen: Vec<String> = Vec::new();
        while let Some(part) = form.next_field().await.map_err(|_| malformed())? {
            let name = part.name().ok_or_else(malformed)?.to_owned();
            if seen.contains(&name) {
                return Err(Problem::invalid(format!("{} was sent twice", shown(&name))));
            }
            if seen.len() == self.limits.max_parts {
                let limit = self.limits.max_parts;
                let detail = format!("the form has more than {limit} fields");
                return Err(Problem::new(Code::TooLarge, detail));
            }
            let bytes = whole(part).await?;
            self.part(&name, bytes)?;
            seen.push(name);
        }
        Ok(())
    }

    fn part(&mut self, name: &str, bytes: Bytes) -> Result<(), Problem> {
        if FILE_FIELDS.contains(&name) {
            if !bytes.is_empty() && self.file.replace(bytes).is_some() {
                return Err(Problem::invalid(
                    "exactly one image is needed: send file or image, not both",
                ));
            }
            return Ok(());
        }
        let field = Field::named(name)
            .filter(|field| self.shape == Shape::Segment || field.is_image_field());
        match field {
            Some(field) => {
                let limit = match field {
                    Field::MaskInput => MAX_MASK_INPUT_BYTES,
                    _ => self.limits.max_text_bytes,
                };
                if bytes.len() > limit {
                    let detail = format!("{name} must not be longer than {limit} bytes");
                    return Err(Problem::invalid(detail));
                }
                let text = std::str::from_utf8(&bytes)
                    .map_err(|_| Problem::invalid(format!("{name} must be UTF-8 text")))?;
                self.fields.set(field, Value::Text(text))
            }
            None => {
                if name != RETURN_FORMAT {
                    let known = suggestion(name, &Field::NAMES);
                    self.fields.warn(format!("{} (ignored)", unknown(&shown(name), known)));
                }
                Ok(())
            }
        }
    }
}

/// A part's bytes: one piece, since the body lies in one.
async fn whole(mut part: multer::Field<'_>) -> Result<Bytes, Problem> {
    let mut pieces = Vec::new();
    while let Some(piece) = part.chunk().await.map_err(|_| malformed())? {
        pieces.push(piece);
    }
    Ok(match <[Bytes; 1]>::try_from(pieces) {
        Ok([piece]) => piece,
        Err(pieces) => Bytes::from(pieces.concat()),
    })
}

fn malformed() -> Problem {
    Problem::invalid("the body is not valid multipart/form-data")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mask::{ImageType, Target};
    use crate::domain::prompt::ClickLabel;
    use crate::http::budget::Budget;
    use crate::http::intake::tests::uploaded;
    use crate::http::wire::fields::{MaskFormat, Parsed, SliceIndex};
    use crate::service::request::MaskSource;
    use std::time::Instant;

    const LIMITS: FormLimits = FormLimits { max_parts: 20, max_text_bytes: 1000 };

    async fn raw(body: impl Into<Bytes>, shape: Shape) -> Result<Parsed, Problem> {
        let budget = Budget::new(1 << 24);
        let parsed = read(uploaded(body, &budget).await, "XX", shape, LIMITS)?;
        let parsed = parsed.finish(Instant::now());
        if let Ok(Parsed { request, .. }) = &parsed {
            // The image's bytes still count against the budget, and nothing else does.
            let held = matches!(request.image.source, ImageSource::Bytes(_));
            assert_eq!(budget.in_use() > 0, held);
        }
        parsed
    }

    fn form(parts: &[(&str, &str)]) -> String {
        let mut body = String::new();
        for (name, value) in parts {
            let file =
                if FILE_FIELDS.contains(name) { "; filename=\"Maier^Anna.dcm\"" } else { "" };
            body += &format!(
                "--XX\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n"
            );
        }
        body + "--XX--\r\n"
    }

    async fn refusal(parts: &[(&str, &str)]) -> String {
        let problem = raw(form(parts), Shape::Segment).await.unwrap_err();
        problem.detail().to_owned()
    }

    #[tokio::test]
    async fn what_existing_editors_send_is_read() {
        let parsed = raw(
            form(&[
                ("file", "hello\r\n--X"),
                ("image_type", "demo"),
                ("patient_id", "Maier^Anna"),
                ("slice_index", "2024-05-06"),
                ("click_points", r#"[{"x": 10, "y": 20.5, "label": 1}]"#),
                ("box", r#"{"x":1,"y":2,"width":3,"height":4}"#),
                ("window", ""),
                ("frame", "2"),
                ("target", "psoas"),
                ("mask_input", "iVBORw0="),
                ("prompt_from", ""),
                ("mask_format", "url"),
            ]),
            Shape::Segment,
        )
        .await
        .unwrap();
        let request = parsed.request;
        assert!(matches!(&request.image.source, ImageSource::Bytes(b) if b == "hello\r\n--X"));
        assert_eq!(request.image.image_type, ImageType::Auto);
        assert_eq!(request.image.frame, Some(2));
        assert!(request.image.window.is_none() && request.prompt_from.is_none());
        assert_eq!(request.clicks.len(), 1);
        assert_eq!(request.clicks[0].label, ClickLabel::Inside);
        assert_eq!(request.target, Target::Psoas);
        assert!(matches!(request.mask_input, Some(MaskSource::Png(_))));
        assert_eq!(parsed.mask_format, MaskFormat::Url);
        assert_eq!(parsed.echo.patient_id.as_deref(), Some("Maier^Anna"));
        assert!(parsed.echo.slice_index == Some(SliceIndex::Text("2024-05-06".to_owned())));
        assert_eq!(parsed.warnings, Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_form_with_a_file_alone_means_auto_and_empty_values_are_absent() {
        let empty = [
            "image_data",
            "image_type",
            "patient_id",
            "slice_index",
            "frame",
            "window",
            "click_points",
            "box",
            "target",
            "mask_input",
            "prompt_from",
            "mask_format",
        ];
        let mut parts = vec![("image", "hello"), ("file", "")];
        parts.extend(empty.map(|name| (name, "")));
        let parsed = raw(form(&parts), Shape::Segment).await.unwrap();
        assert_eq!(parsed.request.image.image_type, ImageType::Auto);
        assert_eq!(parsed.request.target, Target::Muscle);
        assert!(parsed.request.clicks.is_empty() && parsed.request.bounds.is_none());
        assert!(parsed.echo.patient_id.is_none() && parsed.echo.slice_index.is_none());
    }

    #[tokio::test]
    async fn unknown_fields_are_warnings_and_prompts_too_where_none_is_taken() {
        let parts = [("file", "x"), ("clickpoints", "[]"), ("foo", "1"), ("return_format", "png")];
        let parsed = raw(form(&parts), Shape::Segment).await.unwrap();
        assert_eq!(
            parsed.warnings,
            [
                "unknown field clickpoints; did you mean click_points? (ignored)",
                "unknown field foo (ignored)"
            ]
        );
        let parsed = raw(form(&[("file", "x"), ("target", "zzz")]), Shape::Image).await.unwrap();
        assert_eq!(parsed.warnings.len(), 1);
    }

    #[tokio::test]
    async fn exactly_one_image_is_needed() {
        assert!(refusal(&[]).await.contains("an image is needed"));
        assert!(refusal(&[("file", "")]).await.contains("an image is needed"));
        assert!(refusal(&[("file", "a"), ("image", "b")]).await.contains("not both"));
        assert!(refusal(&[("file", "a"), ("file", "b")]).await.contains("file was sent twice"));
        let both = refusal(&[("file", "a"), ("image_data", "file:x")]).await;
        assert!(both.contains("exactly one image"), "{both}");
        let base64 = refusal(&[("image_data", "aGk=")]).await;
        assert!(base64.contains("takes a reference"), "{base64}");
        let parsed = raw(form(&[("image_data", "file:x")]), Shape::Segment).await.unwrap();
        assert!(matches!(parsed.request.image.source, ImageSource::Inbox(name) if name == "x"));
    }

    #[tokio::test]
    async fn refusals_name_the_field() {
        let long = "a".repeat(1001);
        for (name, value, detail) in [
            ("image_type", "l3", "image_type must be one of L3, middle, auto"),
            ("window", "[50,400]", "window must be a JSON object"),
            ("window", "50 400", "window is not valid JSON"),
            ("click_points", "x", "click_points must be an array of {x, y, label}, at most 64"),
            ("frame", "first", "frame must be a whole number, counted from 0"),
            ("prompt_from", &long, "prompt_from must not be longer than 1000 bytes"),
            ("patient_id", &long[..257], "patient_id must not be longer than 256 bytes"),
        ] {
            assert_eq!(refusal(&[("file", "a"), (name, value)]).await, detail);
        }
        let names: Vec<_> = (0..21).map(|n| n.to_string()).collect();
        let parts: Vec<_> = names.iter().map(|name| (&**name, "")).collect();
        assert_eq!(refusal(&parts).await, "the form has more than 20 fields");
    }

    #[tokio::test]
    async fn broken_forms_are_refused_and_never_waited_for() {
        let good = form(&[("file", "hello"), ("image_type", "L3")]);
        for length in 0..good.len() - 4 {
            let cut = good[..length].to_owned();
            if !cut.is_empty() {
                let refused = raw(cut, Shape::Segment).await;
                assert!(refused.is_err(), "cut at {length} was taken");
            }
        }
        let bad_utf8 =
            b"--XX\r\nContent-Disposition: form-data; name=\"target\"\r\n\r\n\xff\r\n--XX--";
        let problem = raw(&bad_utf8[..], Shape::Segment).await.unwrap_err();
        assert_eq!(problem.detail(), "target must be UTF-8 text");
        let nameless = "--XX\r\nContent-Disposition: form-data\r\n\r\nx\r\n--XX--\r\n";
        assert!(raw(nameless, Shape::Segment).await.is_err());
    }
}
