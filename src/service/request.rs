//! What a caller asks of the service and what it gets: the contract without its wire.
//!
//! Invariant: the parts that identify someone (`patient_id`, `slice_index`, file names) are not
//! here at all. They are echoed by the layer that read them.

use crate::domain::key::{AnswerKey, ImageKey};
use crate::domain::mask::{Annotation, BoundingBox, ImageType, Target};
use crate::domain::prompt::{Click, PromptBox};
use crate::domain::slice::{Format, Size, Window};
use crate::engine::EngineInfo;
use crate::imaging::sniff::sniff;
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where the pixels come from.
#[derive(Clone, Debug)]
pub enum ImageSource {
    /// The bytes of a file: PNG, JPEG or DICOM, told by content.
    Bytes(Bytes),
    /// `file:NAME` under the configured inbox.
    Inbox(String),
    /// `image:ID` of an earlier answer.
    Known(ImageKey),
}

impl ImageSource {
    /// Does it bring a DICOM file, told by its content? A reference does not: what it names was sent
    /// by another request.
    #[must_use]
    pub fn is_dicom(&self) -> bool {
        matches!(self, Self::Bytes(bytes) if sniff(bytes) == Some(Format::Dicom))
    }
}

/// An image and how to look at it.
#[derive(Clone, Debug)]
pub struct ImageRequest {
    /// Where the pixels come from.
    pub source: ImageSource,
    /// Which frame, 0-based.
    pub frame: Option<u32>,
    /// The request's own window.
    pub window: Option<Window>,
    /// The annotation context; it brings a window for CT.
    pub image_type: ImageType,
}

/// A mask to refine.
#[derive(Clone, Debug)]
pub enum MaskSource {
    /// The `mask_id` of an earlier answer.
    Answer(AnswerKey),
    /// A PNG of the image's size.
    Png(Bytes),
}

/// One segmentation.
#[derive(Clone, Debug)]
pub struct SegmentRequest {
    /// The image.
    pub image: ImageRequest,
    /// Clicks, unchecked.
    pub clicks: Vec<Click>,
    /// Box, unchecked.
    pub bounds: Option<PromptBox>,
    /// What one click looks for in a `middle` slice.
    pub target: Target,
    /// Refine from here.
    pub mask_input: Option<MaskSource>,
    /// Seed the prompt from a neighbouring slice's answer.
    pub prompt_from: Option<AnswerKey>,
    /// When the caller stops waiting.
    pub deadline: Instant,
}

/// Which rule chose the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WindowSource {
    /// The request's.
    Request,
    /// The context's HU window for CT.
    Context,
    /// The file's first window.
    File,
    /// The file's VOI LUT.
    FileLut,
    /// Minimum to maximum, padding left out.
    MinMax,
    /// 8-bit image: taken as it is.
    None,
}

impl WindowSource {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Request, Self::Context, Self::File, Self::FileLut, Self::MinMax, Self::None];

    /// The wire's `window_source`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Context => "context",
            Self::File => "file",
            Self::FileLut => "file_lut",
            Self::MinMax => "min_max",
            Self::None => "none",
        }
    }
}

/// What the answer says of the image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageDescription {
    /// `image.id`.
    pub key: ImageKey,
    /// What the bytes were.
    pub format: Format,
    /// Size as displayed.
    pub size: Size,
    /// 0-based.
    pub frame: u32,
    /// Frames in the file.
    pub frames: u32,
    /// The window used; `None` for 8-bit images and LUTs.
    pub window: Option<Window>,
    /// Which rule chose it.
    pub window_source: WindowSource,
    /// Row and column spacing in mm, where the file says so.
    pub spacing_mm: Option<(f64, f64)>,
}

/// What the answer says of the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelDescription {
    /// Name, backend, fingerprint.
    pub engine: Arc<EngineInfo>,
    /// The package's `intended_use`.
    pub intended_use: String,
}

/// Milliseconds a stage took; `None` where it did not run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timings {
    /// Bytes → slice (child process included).
    pub decode: Option<Duration>,
    /// Waiting for the engine thread.
    pub queue: Option<Duration>,
    /// Image encoder.
    pub encode: Option<Duration>,
    /// Mask decoder, all calls.
    pub prompt: Option<Duration>,
    /// Upsample, clean, outline, PNG.
    pub render: Option<Duration>,
    /// Prompts decoded: one, or a grid where none was given.
    pub prompts: Option<usize>,
}

/// The finished mask and what is known of it; the same bytes however often it is asked for.
#[derive(Clone, Debug)]
pub struct Answer {
    /// `mask_id`.
    pub key: AnswerKey,
    /// The mask PNG.
    pub png: Bytes,
    /// The same, base64 with padding.
    pub png_base64: Bytes,
    /// 0..1, calibrated.
    pub confidence: f64,
    /// Of the mask.
    pub bounding_box: Option<BoundingBox>,
    /// For the editor; `None` when the mask is empty.
    pub annotation: Option<Annotation>,
    /// Said with every copy of this answer (a click is wanted, confidence is low…).
    pub warnings: Vec<String>,
    /// When it expires.
    pub expires: std::time::SystemTime,
}

/// What a segmentation returns.
#[derive(Clone, Debug)]
pub struct Segmented {
    /// The mask.
    pub answer: Answer,
    /// True when the whole answer was cached and the engine untouched.
    pub cached: bool,
    /// True when the encoder did not run for this request.
    pub embedding_cached: bool,
    /// The image.
    pub image: ImageDescription,
    /// The model.
    pub model: ModelDescription,
    /// Of this request.
    pub timings: Timings,
    /// What the user should know beside the answer's own warnings (demonstration model, low
    /// confidence).
    pub warnings: Vec<String>,
}

/// What `embed` returns.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// The image.
    pub image: ImageDescription,
    /// True when the encoder did not run for this request.
    pub embedding_cached: bool,
    /// Of this request.
    pub timings: Timings,
}
