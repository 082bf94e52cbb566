//! One decoded 2-D image, as displayed, before any window is applied.
//!
//! Invariants, checked by [`Slice::new`]:
//! 1. `samples` holds exactly `width × height` values of its type, row by row, top-left first.
//! 2. Modality values are after rescale (`slope × stored + intercept`) and finite.
//! 3. Nothing here says who the patient is.
//!
//! It does not choose a window: that depends on the request ([`crate::imaging::window`]).

use bytes::Bytes;

/// Width and height of an image in pixels; both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// Number of pixels.
    #[must_use]
    pub fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }
}

/// Pixel values, sharing one allocation (heap or a sealed mapping) with whoever decoded them.
#[derive(Clone, Debug, PartialEq)]
pub enum Samples {
    /// 8-bit grey, [H, W] u8, taken as it is: no window applies.
    Grey8(Bytes),
    /// 8-bit colour, [H, W, 3] u8 RGB, taken as it is: no window applies.
    Rgb8(Bytes),
    /// Modality values (HU for CT) or stored units of a 16-bit grey PNG, [H, W] f32 in native byte
    /// order, 4-byte aligned. A window turns them into grey levels.
    Modality(Bytes),
}

impl Samples {
    /// The modality values, or `None` for an 8-bit image.
    #[must_use]
    pub fn modality(&self) -> Option<&[f32]> {
        match self {
            Self::Modality(bytes) => bytemuck::try_cast_slice(bytes).ok(),
            Self::Grey8(_) | Self::Rgb8(_) => None,
        }
    }

    /// The bytes as stored.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Grey8(bytes) | Self::Rgb8(bytes) | Self::Modality(bytes) => bytes,
        }
    }

    fn bytes_per_pixel(&self) -> usize {
        match self {
            Self::Grey8(_) => 1,
            Self::Rgb8(_) => 3,
            Self::Modality(_) => 4,
        }
    }
}

/// What the bytes were, told by content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Portable Network Graphics.
    Png,
    /// JPEG/JFIF.
    Jpeg,
    /// DICOM Part 10.
    Dicom,
}

/// How a VOI window maps values; PS3.3 C.11.2.1.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WindowFunction {
    /// `((x − (c − 0.5)) / (w − 1) + 0.5)`, clamped. The default of DICOM and of requests.
    #[default]
    Linear,
    /// `(x − c) / w + 0.5`, clamped.
    LinearExact,
    /// `1 / (1 + exp(−4 (x − c) / w))`.
    Sigmoid,
}

/// A window: centre and width in modality units. Width is ≥ 1 for `Linear`, > 0 otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Value shown as middle grey.
    pub center: f64,
    /// Range of values from black to white.
    pub width: f64,
    /// Shape of the ramp.
    pub function: WindowFunction,
}

/// A VOI LUT: `levels[v − first]` in `0..=2^bits − 1`; values outside clamp to its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoiLut {
    /// First input value mapped.
    pub first: i32,
    /// Bits of an output level, 8..=16.
    pub bits: u8,
    /// Output levels; at least one.
    pub levels: Vec<u16>,
}

/// What the file itself proposes for display.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Voi {
    /// Nothing: min–max of the unpadded values is used.
    #[default]
    None,
    /// Its first window.
    Window(Window),
    /// Its VOI LUT, where there is no window.
    Lut(VoiLut),
}

/// Everything about a slice but its samples; small, and kept when the samples are gone.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceInfo {
    /// Size as displayed (EXIF orientation applied).
    pub size: Size,
    /// What the bytes were.
    pub format: Format,
    /// Index of this frame, 0-based.
    pub frame: u32,
    /// Frames in the file, at least 1.
    pub frames: u32,
    /// True for CT (modality CT, values in HU): only then a context's HU window applies.
    pub is_ct: bool,
    /// MONOCHROME1: low values are shown bright; grey levels are inverted after the window.
    pub inverted: bool,
    /// The file's own display proposal.
    pub voi: Voi,
    /// Smallest and largest modality value, padding left out: the window of last resort. Equal where
    /// there is nothing but padding. `None` exactly for 8-bit images, to which no window applies.
    pub range: Option<(f32, f32)>,
    /// Distance between pixel centres in mm: between rows, between columns.
    pub spacing_mm: Option<(f64, f64)>,
}

impl SliceInfo {
    /// A plain 8-bit picture, of which no scanner says anything.
    #[must_use]
    pub fn picture(size: Size, format: Format) -> Self {
        Self {
            size,
            format,
            frame: 0,
            frames: 1,
            is_ct: false,
            inverted: false,
            voi: Voi::None,
            range: None,
            spacing_mm: None,
        }
    }
}

/// A decoded slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    info: SliceInfo,
    samples: Samples,
}

/// The samples don't fit the geometry: a bug of the decoder, or a child that lies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{actual} bytes of samples for {}×{} pixels, expected {expected}", size.width, size.height)]
pub struct GeometryError {
    /// Size claimed.
    pub size: Size,
    /// Bytes that size needs.
    pub expected: usize,
    /// Bytes there are.
    pub actual: usize,
}

impl Slice {
    /// # Errors
    /// [`GeometryError`] when `samples` is not exactly as long as `info.size` says, is empty, or is
    /// not aligned for its type.
    pub fn new(info: SliceInfo, samples: Samples) -> Result<Self, GeometryError> {
        let expected = info.size.pixels() * samples.bytes_per_pixel();
        let actual = samples.bytes().len();
        let aligned = !matches!(samples, Samples::Modality(_)) || samples.modality().is_some();
        if expected == 0 || expected != actual || !aligned {
            return Err(GeometryError { size: info.size, expected, actual });
        }
        Ok(Self { info, samples })
    }

    /// Everything but the samples.
    #[must_use]
    pub fn info(&self) -> &SliceInfo {
        &self.info
    }

    /// The pixel values.
    #[must_use]
    pub fn samples(&self) -> &Samples {
        &self.samples
    }

    /// Size as displayed.
    #[must_use]
    pub fn size(&self) -> Size {
        self.info.size
    }
}
