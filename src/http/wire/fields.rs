//! The fields of the contract, whichever form they came in: a JSON member or a form's text. Both
//! end here, so that both mean the same.
//!
//! Invariants:
//! 1. A field is set once; a second time is a 400.
//! 2. What identifies someone ([`Echo`]) never enters the service request.
//! 3. No message holds a value that was sent, only names, limits and what was expected.

use super::image_data::{self, ImageText};
use super::numbers::{bounds, clicks, window};
use super::object::ObjectError;
use super::problem::Problem;
use crate::domain::key::{AnswerKey, Sum};
use crate::domain::mask::{ImageType, Target};
use crate::domain::prompt::{Click, PromptBox};
use crate::domain::slice::Window;
use crate::service::error::ServiceError;
use crate::service::request::{ImageRequest, ImageSource, MaskSource, SegmentRequest};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::Instant;

/// Longest `patient_id`.
pub const MAX_PATIENT_ID_BYTES: usize = 256;
/// Longest `slice_index`: clients send study dates and file names in it.
pub const MAX_SLICE_INDEX_BYTES: usize = 1024;
/// Longest `mask_input`. A two-valued PNG of 64 megapixels stays far below.
pub const MAX_MASK_INPUT_BYTES: usize = 4 << 20;

/// A field of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `image_data`.
    ImageData,
    /// `image_type`.
    ImageType,
    /// `patient_id`.
    PatientId,
    /// `slice_index`.
    SliceIndex,
    /// `frame`.
    Frame,
    /// `window`.
    Window,
    /// `click_points`.
    ClickPoints,
    /// `box`.
    Box,
    /// `target`.
    Target,
    /// `mask_input`.
    MaskInput,
    /// `prompt_from`.
    PromptFrom,
    /// `mask_format`.
    MaskFormat,
}

impl Field {
    /// All of them; the first [`IMAGE_FIELDS`](Self::IMAGE_FIELDS) say what the image is.
    pub const ALL: [Self; 12] = [
        Self::ImageData,
        Self::ImageType,
        Self::PatientId,
        Self::SliceIndex,
        Self::Frame,
        Self::Window,
        Self::ClickPoints,
        Self::Box,
        Self::Target,
        Self::MaskInput,
        Self::PromptFrom,
        Self::MaskFormat,
    ];
    /// Their names, in the same order.
    pub const NAMES: [&'static str; 12] = [
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
    /// How many of the first are image fields: what `embed` and `preview` take.
    pub const IMAGE_FIELDS: usize = 6;

    /// By name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let index = Self::NAMES.iter().position(|known| *known == name)?;
        Self::ALL.get(index).copied()
    }

    /// As on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        let index = Self::ALL.iter().position(|field| *field == self);
        index.and_then(|index| Self::NAMES.get(index)).copied().unwrap_or_default()
    }

    /// Does it say what the image is (as opposed to what is to be done with it)?
    #[must_use]
    pub fn is_image_field(self) -> bool {
        Self::ALL.iter().take(Self::IMAGE_FIELDS).any(|field| *field == self)
    }
}

/// A field's value as it came.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A member of the JSON body.
    Json(&'a RawValue),
    /// A text of a form; structured values are JSON inside it.
    Text(&'a str),
}

impl<'a> Value<'a> {
    /// As text; `None` for an empty form value.
    fn text(self, field: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        match self {
            Self::Json(raw) => match serde_json::from_str::<String>(raw.get()) {
                Ok(text) => Ok(Some(Cow::Owned(text))),
                Err(_) => Err(Problem::invalid(format!("{field} must be a string"))),
            },
            Self::Text(text) => Ok((!text.is_empty()).then_some(Cow::Borrowed(text))),
        }
    }

    /// As a JSON text; `None` for an empty form value.
    fn json(self) -> Option<&'a str> {
        match self {
            Self::Json(raw) => Some(raw.get()),
            Self::Text(text) => {
                Some(text.trim_ascii()).filter(|text| !text.is_empty() && *text != "null")
            }
        }
    }
}

/// What is only echoed: protected health information, never logged, stored or part of a key.
#[derive(Clone, Default, PartialEq)]
pub struct Echo {
    /// `patient_id` as sent.
    pub patient_id: Option<String>,
    /// `slice_index` as sent.
    pub slice_index: Option<SliceIndex>,
}

impl std::fmt::Debug for Echo {
    /// Nothing: a debug print is a log line before long.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Echo(..)")
    }
}

/// `slice_index`: a string or an integer, echoed as what it was.
#[derive(Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum SliceIndex {
    /// A string.
    Text(String),
    /// An integer.
    Integer(i64),
}

/// How `mask_data` is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MaskFormat {
    /// Base64 in the answer.
    #[default]
    Base64,
    /// A path to fetch it from.
    Url,
}

/// The fields read so far.
#[derive(Debug, Default)]
pub struct Fields {
    seen: Vec<Field>,
    image: Option<ImageSource>,
    image_type: Option<ImageType>,
    echo: Echo,
    frame: Option<u32>,
    window: Option<Window>,
    clicks: Vec<Click>,
    bounds: Option<PromptBox>,
    target: Target,
    mask_input: Option<MaskSource>,
    prompt_from: Option<AnswerKey>,
    mask_format: MaskFormat,
    warnings: Vec<String>,
}

/// A whole request in the service's words, and what goes around it.
#[derive(Debug)]
pub struct Parsed {
    /// What to do.
    pub request: SegmentRequest,
    /// What to echo.
    pub echo: Echo,
    /// How the mask is wanted.
    pub mask_format: MaskFormat,
    /// What was ignored.
    pub warnings: Vec<String>,
}

impl Fields {
    /// Reads one field. `null` members must not be passed: they count as absent.
    ///
    /// # Errors
    /// 400 naming the field; 404 for a reference that can't be one of ours.
    pub fn set(&mut self, field: Field, value: Value<'_>) -> Result<(), Problem> {
        self.mark(field)?;
        let name = field.name();
        match field {
            Field::ImageData => {
                let Some(text) = value.text(name)? else { return Ok(()) };
                self.set_image(match (image_data::classify(&text)?, value) {
                    (ImageText::File(name), _) => ImageSource::Inbox(name.to_owned()),
                    (ImageText::Image(key), _) => ImageSource::Known(key),
                    (ImageText::Base64(data), Value::Json(_)) => {
                        ImageSource::Bytes(image_data::decode(data.to_owned(), name)?)
                    }
                    (ImageText::Base64(_), Value::Text(_)) => {
                        return Err(Problem::invalid(
                            "image_data in a form takes a reference (file:NAME or image:ID); send the image itself as file",
                        ));
                    }
                })?;
            }
            Field::ImageType => self.image_type = choice(value, name, &IMAGE_TYPES)?,
            Field::PatientId => {
                self.echo.patient_id = bounded(value.text(name)?, name, MAX_PATIENT_ID_BYTES)?;
            }
            Field::SliceIndex => self.echo.slice_index = slice_index(value)?,
            Field::Frame => self.frame = frame(value)?,
            Field::Window => self.window = value.json().map(window).transpose()?,
            Field::ClickPoints => {
                self.clicks = value.json().map(clicks).transpose()?.unwrap_or_default();
            }
            Field::Box => self.bounds = value.json().map(bounds).transpose()?,
            Field::Target => {
                let named =
                    choice(value, name, &[("psoas", Target::Psoas), ("muscle", Target::Muscle)])?;
                self.target = named.unwrap_or_default();
            }
            Field::MaskInput => {
                self.mask_input = value.text(name)?.map(|text| mask_input(&text)).transpose()?;
            }
            Field::PromptFrom => {
                self.prompt_from = value.text(name)?.map(|text| answer_key(&text)).transpose()?;
            }
            Field::MaskFormat => {
                let formats = [("base64", MaskFormat::Base64), ("url", MaskFormat::Url)];
                self.mask_format = choice(value, name, &formats)?.unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Notes that a field came.
    ///
    /// # Errors
    /// 400 when it came before.
    pub fn mark(&mut self, field: Field) -> Result<(), Problem> {
        if self.seen.contains(&field) {
            return Err(Problem::invalid(ObjectError::Duplicate(field.name()).describe("")));
        }
        self.seen.push(field);
        Ok(())
    }

    /// The image, from whichever field brings it.
    ///
    /// # Errors
    /// 400 when there is one already.
    pub fn set_image(&mut self, source: ImageSource) -> Result<(), Problem> {
        if self.image.replace(source).is_some() {
            return Err(Problem::invalid(
                "exactly one image is needed: send either the file or image_data, once",
            ));
        }
        Ok(())
    }

    /// The form's `image_type`: missing means `auto`.
    pub fn default_to_auto(&mut self) {
        self.image_type.get_or_insert(ImageType::Auto);
    }

    /// Something that was ignored, said in the answer.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// The request, once every field is read.
    ///
    /// # Errors
    /// 400 naming what is missing or doesn't go together.
    pub fn finish(self, deadline: Instant) -> Result<Parsed, Problem> {
        let source = self.image.ok_or_else(|| {
            Problem::invalid("an image is needed: image_data in JSON, or a file in a form")
        })?;
        let image_type = self
            .image_type
            .ok_or_else(|| Problem::invalid("image_type is needed: one of L3, middle, auto"))?;
        if matches!(source, ImageSource::Known(_)) && self.frame.is_some() {
            return Err(Problem::invalid(
                "frame can't be combined with image:ID, which names one frame",
            ));
        }
        let image = ImageRequest { source, frame: self.frame, window: self.window, image_type };
        let request = SegmentRequest {
            image,
            clicks: self.clicks,
            bounds: self.bounds,
            target: self.target,
            mask_input: self.mask_input,
            prompt_from: self.prompt_from,
            deadline,
        };
        let Self { echo, mask_format, warnings, .. } = self;
        Ok(Parsed { request, echo, mask_format, warnings })
    }
}

const IMAGE_TYPES: [(&str, ImageType); 3] =
    [("L3", ImageType::L3), ("middle", ImageType::Middle), ("auto", ImageType::Auto)];

/// The wire's name of a context.
#[must_use]
pub fn image_type_name(image_type: ImageType) -> &'static str {
    IMAGE_TYPES.iter().find(|(_, known)| *known == image_type).map_or("auto", |(name, _)| name)
}

/// One of several words.
fn choice<T: Copy>(
    value: Value<'_>,
    field: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, Problem> {
    let Some(text) = value.text(field)? else { return Ok(None) };
    // Existing editors' forms say "demo" for pictures that are neither L3 nor middle.
    let alias = matches!(value, Value::Text("demo")) && field == Field::ImageType.name();
    let word = if alias { "auto" } else { &*text };
    let found = words.iter().find(|(known, _)| *known == word).map(|(_, meant)| *meant);
    found.map(Some).ok_or_else(|| {
        let known: Vec<_> = words.iter().map(|(known, _)| *known).collect();
        Problem::invalid(format!("{field} must be one of {}", known.join(", ")))
    })
}

fn bounded(
    text: Option<Cow<'_, str>>,
    field: &str,
    limit: usize,
) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.len() > limit => {
            Err(Problem::invalid(format!("{field} must not be longer than {limit} bytes")))
        }
        text => Ok(text.map(Cow::into_owned)),
    }
}

fn slice_index(value: Value<'_>) -> Result<Option<SliceIndex>, Problem> {
    let name = Field::SliceIndex.name();
    if let Value::Json(raw) = value
        && let Ok(integer) = serde_json::from_str(raw.get())
    {
        return Ok(Some(SliceIndex::Integer(integer)));
    }
    let text = value
        .text(name)
        .map_err(|_| Problem::invalid("slice_index must be a string or an integer"))?;
    Ok(bounded(text, name, MAX_SLICE_INDEX_BYTES)?.map(SliceIndex::Text))
}

fn frame(value: Value<'_>) -> Result<Option<u32>, Problem> {
    let wrong = |_| Problem::invalid("frame must be a whole number, counted from 0");
    value.json().map(|text| serde_json::from_str(text).map_err(wrong)).transpose()
}

fn mask_input(text: &str) -> Result<MaskSource, Problem> {
    if text.len() > MAX_MASK_INPUT_BYTES {
        return Err(Problem::invalid(format!(
            "mask_input must not be longer than {MAX_MASK_INPUT_BYTES} bytes"
        )));
    }
    match Sum::from_hex(text) {
        Some(sum) => Ok(MaskSource::Answer(AnswerKey(sum))),
        None => match image_data::classify(text) {
            Ok(ImageText::Base64(data)) => {
                Ok(MaskSource::Png(image_data::decode(data.to_owned(), Field::MaskInput.name())?))
            }
            _ => Err(Problem::invalid("mask_input must be a mask_id or a PNG in base64")),
        },
    }
}

/// Ids are opaque: one that can't be ours is simply unknown.
fn answer_key(text: &str) -> Result<AnswerKey, Problem> {
    Sum::from_hex(text).map(AnswerKey).ok_or_else(|| Problem::from(&ServiceError::UnknownMask))
}
