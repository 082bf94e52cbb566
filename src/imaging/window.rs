//! Modality values to the 8-bit levels a person would see. Formulas: PS3.3 C.11.2.1.
//!
//! The rule, first that applies: the request's window; for CT in the `L3` and `middle` contexts
//! −100..200 HU; the file's own first window, or its VOI LUT; minimum to maximum without padding.
//! 8-bit images are taken as they are. MONOCHROME1 is inverted after the window.

use super::Levels;
use crate::domain::mask::ImageType;
use crate::domain::slice::{Samples, Slice, SliceInfo, Voi, VoiLut, Window, WindowFunction};

/// What L3 and middle slices of CT are looked at with: −100..200 HU.
pub const CONTEXT_WINDOW: Window =
    Window { center: 50.0, width: 300.0, function: WindowFunction::Linear };

/// How values become levels; [`SliceInfo::inverted`] says whether they are flipped afterwards.
#[derive(Clone, Debug, PartialEq)]
pub enum Rendering {
    /// 8-bit already.
    AsIs,
    /// Through a window.
    Window(Window),
    /// Through the file's VOI LUT.
    Lut(VoiLut),
    /// Smallest value black, largest white; all black when they are equal, inverted or not.
    MinMax {
        /// Shown black.
        min: f32,
        /// Shown white.
        max: f32,
    },
}

/// Which rule chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The request's window.
    Request,
    /// The context's HU window.
    Context,
    /// The file's first window.
    File,
    /// The file's VOI LUT.
    FileLut,
    /// Minimum to maximum.
    MinMax,
    /// 8-bit image.
    AsIs,
}

/// A window that can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// The image has no modality values or stored units.
    #[error("window applies to DICOM and 16-bit grey PNG only; this image is 8-bit or colour")]
    NotApplicable,
    /// Not finite, or too narrow.
    #[error("window: center and width must be finite and width at least 1")]
    Invalid,
}

/// Chooses by the rule above.
///
/// # Errors
/// [`WindowError`] for a request's window that can't be applied.
pub fn resolve(
    info: &SliceInfo,
    request: Option<Window>,
    context: ImageType,
) -> Result<(Rendering, Source), WindowError> {
    let Some((min, max)) = info.range else {
        return match request {
            Some(_) => Err(WindowError::NotApplicable),
            None => Ok((Rendering::AsIs, Source::AsIs)),
        };
    };
    if let Some(window) = request {
        let valid = is_valid(&window).then_some(window).ok_or(WindowError::Invalid)?;
        return Ok((Rendering::Window(valid), Source::Request));
    }
    let in_context = matches!(context, ImageType::L3 | ImageType::Middle);
    Ok(match &info.voi {
        _ if info.is_ct && in_context => (Rendering::Window(CONTEXT_WINDOW), Source::Context),
        Voi::Window(window) => (Rendering::Window(*window), Source::File),
        Voi::Lut(lut) => (Rendering::Lut(lut.clone()), Source::FileLut),
        Voi::None => (Rendering::MinMax { min, max }, Source::MinMax),
    })
}

/// May the window be applied? PS3.3 C.11.2.1.2.1: width is at least 1 for `LINEAR`, positive else.
#[must_use]
pub fn is_valid(window: &Window) -> bool {
    let least = match window.function {
        WindowFunction::Linear => 1.0,
        WindowFunction::LinearExact | WindowFunction::Sigmoid => f64::MIN_POSITIVE,
    };
    window.center.is_finite() && window.width.is_finite() && window.width >= least
}

/// Applies a rendering.
#[must_use]
pub fn render(slice: &Slice, rendering: &Rendering) -> Levels {
    let values = match slice.samples() {
        Samples::Grey8(levels) => return Levels::Grey(levels.to_vec()),
        Samples::Rgb8(levels) => return Levels::Rgb(levels.to_vec()),
        Samples::Modality(_) => slice.samples().modality().unwrap_or_default(),
    };
    let inverted = slice.info().inverted;
    match rendering {
        Rendering::Window(window) => grey(values, inverted, &ramp(*window)),
        Rendering::MinMax { min, max } => {
            let (low, span) = (f64::from(*min), f64::from(*max) - f64::from(*min));
            if span <= 0.0 {
                return Levels::Grey(vec![0; values.len()]);
            }
            let scale = 255.0 / span;
            linear(values, inverted, scale, -low * scale)
        }
        Rendering::Lut(lut) => through_lut(values, inverted, lut),
        // A modality slice always has one of the others: min–max of nothing is black.
        Rendering::AsIs => Levels::Grey(vec![0; values.len()]),
    }
}

/// The shape of a window: level 0..=255 of a value.
enum Ramp {
    /// `value × scale + offset`, clamped.
    Linear { scale: f64, offset: f64 },
    /// 0 up to and with the value, 255 above: `LINEAR` of width 1.
    Step(f64),
    /// `255 / (1 + exp(−4 (x − center) / width))`.
    Sigmoid { center: f64, width: f64 },
}

fn ramp(window: Window) -> Ramp {
    let Window { center, width, function } = window;
    match function {
        WindowFunction::Linear if width <= 1.0 => Ramp::Step(center - 0.5),
        WindowFunction::Linear => {
            let scale = 255.0 / (width - 1.0);
            Ramp::Linear { scale, offset: 127.5 - (center - 0.5) * scale }
        }
        WindowFunction::LinearExact => {
            let scale = 255.0 / width;
            Ramp::Linear { scale, offset: 127.5 - center * scale }
        }
        WindowFunction::Sigmoid => Ramp::Sigmoid { center, width },
    }
}

fn grey(values: &[f32], inverted: bool, ramp: &Ramp) -> Levels {
    match *ramp {
        Ramp::Linear { scale, offset } => linear(values, inverted, scale, offset),
        Ramp::Step(edge) => {
            map(values, inverted, |value| if f64::from(value) > edge { 255 } else { 0 })
        }
        Ramp::Sigmoid { center, width } => map(values, inverted, |value| {
            round_level(255.0 / (1.0 + (-4.0 * (f64::from(value) - center) / width).exp()))
        }),
    }
}

fn linear(values: &[f32], inverted: bool, scale: f64, offset: f64) -> Levels {
    /// Added to a number from 0 to 255, it leaves no room for a fraction: the sum's last byte is the
    /// number, rounded. A cast rounds too, and takes nearly twice as long.
    const NO_FRACTION: f64 = (1u64 << 52) as f64;
    // Halves go up, as in `round_level`; the sum alone rounds them to even.
    let offset = offset + 1e-9;
    map(values, inverted, |value| {
        #[expect(
            clippy::manual_clamp,
            reason = "clamp keeps NaN apart, and is no faster than a cast"
        )]
        let level = (f64::from(value) * scale + offset).max(0.0).min(255.0);
        (level + NO_FRACTION).to_bits().to_le_bytes()[0]
    })
}

fn through_lut(values: &[f32], inverted: bool, lut: &VoiLut) -> Levels {
    let full = f64::from((1u32 << u32::from(lut.bits.clamp(1, 16))) - 1);
    let levels: Vec<u8> =
        lut.levels.iter().map(|&level| round_level(f64::from(level) * 255.0 / full)).collect();
    let last = levels.len().saturating_sub(1);
    map(values, inverted, |value| {
        let index = f64::from(value).round() - f64::from(lut.first);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float cast saturates, and the table's ends are what saturates to"
        )]
        let index = (index.max(0.0) as usize).min(last);
        levels.get(index).copied().unwrap_or(0)
    })
}

fn map(values: &[f32], inverted: bool, level: impl Fn(f32) -> u8) -> Levels {
    let flip = if inverted { 0xFF } else { 0 };
    Levels::Grey(values.iter().map(|&value| level(value) ^ flip).collect())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates: that is the window's clamp"
)]
fn round_level(level: f64) -> u8 {
    (level + 0.5) as u8
}
