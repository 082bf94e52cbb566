//! Stored values of one frame, and their way to modality values or RGB.
//!
//! Bits above Bits Stored are not believed (overlays once lived there): values are cut to it and
//! sign-extended from it. PS3.5 8.1.

use super::header::{Header, Photometric};
use super::lut::Lut;
use std::borrow::Cow;

/// Values of one frame; several samples stand pixel by pixel unless `planar`.
#[derive(Debug)]
pub(super) enum Stored<'a> {
    /// One bit a value, lowest first, from the bit given.
    Bits(Cow<'a, [u8]>, usize),
    /// Integers of 8, 16 or 32 bits.
    Bytes { bytes: Cow<'a, [u8]>, width: u32, big_endian: bool, planar: bool },
    /// Decoded already: nothing to cut.
    Values(Vec<i32>),
    /// Floats of 4 or 8 bytes.
    Floats { bytes: &'a [u8], width: usize, big_endian: bool },
}

/// From stored to modality values; PS3.3 C.11.1.
#[derive(Clone, Debug)]
pub(super) enum Modality {
    Linear { slope: f64, intercept: f64 },
    Table(Lut),
}

/// Modality values, and their range without padding. Where all is padding it is the lowest value alone:
/// padding means nothing, so differences within it must not become a picture.
pub(super) fn modality(
    stored: &Stored<'_>,
    header: &Header,
    modality: &Modality,
    padding: Option<(f64, f64)>,
) -> (Vec<f32>, (f32, f32)) {
    stored.visit(header, ToModality { modality, padding })
}

struct ToModality<'m> {
    modality: &'m Modality,
    padding: Option<(f64, f64)>,
}

impl Visitor for ToModality<'_> {
    type Output = (Vec<f32>, (f32, f32));

    fn visit<T: Number>(self, stored: impl Iterator<Item = T> + Clone) -> Self::Output {
        #[expect(clippy::cast_possible_truncation, reason = "modality values are f32")]
        let values: Vec<f32> = match self.modality {
            Modality::Linear { slope, intercept } => {
                stored.clone().map(|value| (value.into() * slope + intercept) as f32).collect()
            }
            Modality::Table(lut) => {
                stored.clone().map(|value| f32::from(lut.at(value.into()))).collect()
            }
        };
        let all = || extremes(&values);
        let range = match self.padding {
            None => all(),
            Some((low, high)) => {
                let pairs = stored.zip(values.iter().copied());
                let kept = pairs.filter(|(value, _)| {
                    let value: f64 = (*value).into();
                    value < low || value > high
                });
                let kept: Vec<f32> = kept.map(|(_, value)| value).collect();
                extremes(&kept).or_else(|| all().map(|(low, _)| (low, low)))
            }
        };
        let range = range.unwrap_or((0.0, 0.0));
        (values, range)
    }
}

/// Smallest and largest; `None` of nothing. What is not a number is left out: the caller refuses it.
///
/// Sixteen of each side by side are SSE or NEON; one alone is a chain in which each waits for the last.
fn extremes(values: &[f32]) -> Option<(f32, f32)> {
    let smaller = |low: f32, value: f32| if value < low { value } else { low };
    let larger = |high: f32, value: f32| if value > high { value } else { high };
    let (groups, rest) = values.as_chunks::<16>();
    let (mut lows, mut highs) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16]);
    for group in groups {
        for ((low, high), &value) in lows.iter_mut().zip(&mut highs).zip(group) {
            (*low, *high) = (smaller(*low, value), larger(*high, value));
        }
    }
    let low = lows.iter().chain(rest).copied().fold(f32::INFINITY, smaller);
    let high = highs.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger);
    (low <= high).then_some((low, high))
}

/// 8-bit RGB out of colour samples, scaled from Bits Stored.
pub(super) fn rgb(stored: &Stored<'_>, header: &Header) -> Vec<u8> {
    let mut levels = stored.visit(header, ToLevels { bits: header.stored });
    if matches!(stored, Stored::Bytes { planar: true, .. }) {
        let pixels = header.pixels();
        let (red, rest) = levels.split_at(pixels.min(levels.len()));
        let (green, blue) = rest.split_at(pixels.min(rest.len()));
        levels = red.iter().zip(green).zip(blue).flat_map(|((&r, &g), &b)| [r, g, b]).collect();
    }
    if header.photometric == Photometric::YbrFull {
        levels.chunks_exact_mut(3).for_each(ybr_to_rgb);
    }
    levels
}

struct ToLevels {
    bits: u32,
}

impl Visitor for ToLevels {
    type Output = Vec<u8>;

    fn visit<T: Number>(self, stored: impl Iterator<Item = T> + Clone) -> Vec<u8> {
        let full = f64::from(u32::MAX >> 32u32.saturating_sub(self.bits).min(31));
        if self.bits == 8 {
            stored.map(|value| level(value.into())).collect()
        } else {
            stored.map(|value| level(value.into() * 255.0 / full)).collect()
        }
    }
}

/// 8-bit RGB out of 4:2:2 samples Y Y Cb Cr.
pub(super) fn rgb_of_422(bytes: &[u8], header: &Header) -> Vec<u8> {
    let mut levels = Vec::with_capacity(header.pixels() * 3 + 3);
    let (groups, _) = bytes.as_chunks::<4>();
    for &[y0, y1, cb, cr] in groups {
        levels.extend_from_slice(&[y0, cb, cr, y1, cb, cr]);
    }
    levels.truncate(header.pixels() * 3);
    levels.chunks_exact_mut(3).for_each(ybr_to_rgb);
    levels
}

/// 8-bit RGB out of palette indices.
pub(super) fn rgb_of_palette(stored: &Stored<'_>, header: &Header, palette: &[Lut; 3]) -> Vec<u8> {
    stored.visit(header, ThroughPalette { palette })
}

struct ThroughPalette<'p> {
    palette: &'p [Lut; 3],
}

impl Visitor for ThroughPalette<'_> {
    type Output = Vec<u8>;

    fn visit<T: Number>(self, stored: impl Iterator<Item = T> + Clone) -> Vec<u8> {
        let scale = self.palette.each_ref().map(|lut| match lut.bits {
            8 => 1.0,
            _ => 1.0 / 257.0,
        });
        let [red, green, blue] = self.palette;
        let [r, g, b] = scale;
        let colour = |value: f64| {
            [(red, r), (green, g), (blue, b)]
                .map(|(lut, scale)| level(f64::from(lut.at(value)) * scale))
        };
        stored.flat_map(|value| colour(value.into())).collect()
    }
}

/// PS3.3 C.7.6.3.1.2, full range.
fn ybr_to_rgb(pixel: &mut [u8]) {
    let [y, cb, cr] = pixel else { return };
    let (luma, blue, red) = (f64::from(*y), f64::from(*cb) - 128.0, f64::from(*cr) - 128.0);
    *y = level(luma + 1.402 * red);
    *cb = level(luma - 0.344_136 * blue - 0.714_136 * red);
    *cr = level(luma + 1.772 * blue);
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float cast saturates: that is the clamp"
)]
fn level(value: f64) -> u8 {
    (value + 0.5) as u8
}

/// A stored value of any type, exact in f64.
trait Number: Copy + Into<f64> {}
impl<T: Copy + Into<f64>> Number for T {}

/// Something done with every sample in turn, compiled once a type.
trait Visitor {
    type Output;
    fn visit<T: Number>(self, stored: impl Iterator<Item = T> + Clone) -> Self::Output;
}

impl Stored<'_> {
    fn visit<V: Visitor>(&self, header: &Header, visitor: V) -> V::Output {
        /// Values of a type, cut to Bits Stored: shifted out at the top and back.
        macro_rules! cut {
            ($bytes:expr, $type:ty, $read:ident, $unused:expr) => {{
                let (words, _) = $bytes.as_chunks::<{ size_of::<$type>() }>();
                let unused = $unused;
                visitor.visit(words.iter().map(move |&w| <$type>::$read(w) << unused >> unused))
            }};
        }
        let samples = header.pixels() * header.samples as usize;
        match self {
            Self::Values(values) => visitor.visit(values.iter().copied()),
            Self::Bits(bytes, first) => visitor.visit((*first..*first + samples).map(|bit| {
                let byte = bytes.get(bit / 8).copied().unwrap_or(0);
                byte >> (bit % 8) & 1
            })),
            Self::Floats { bytes, width: 4, big_endian } => {
                let (words, _) = bytes.as_chunks::<4>();
                let big = *big_endian;
                visitor.visit(words.iter().map(move |&word| {
                    if big { f32::from_be_bytes(word) } else { f32::from_le_bytes(word) }
                }))
            }
            Self::Floats { bytes, big_endian, .. } => {
                let (words, _) = bytes.as_chunks::<8>();
                let big = *big_endian;
                visitor.visit(words.iter().map(move |&word| {
                    if big { f64::from_be_bytes(word) } else { f64::from_le_bytes(word) }
                }))
            }
            Self::Bytes { bytes, width, big_endian, .. } => {
                let unused = width.saturating_sub(header.stored);
                match (width, header.signed, *big_endian) {
                    (8, false, _) => cut!(bytes, u8, from_le_bytes, unused),
                    (8, true, _) => cut!(bytes, i8, from_le_bytes, unused),
                    (16, false, false) => cut!(bytes, u16, from_le_bytes, unused),
                    (16, false, true) => cut!(bytes, u16, from_be_bytes, unused),
                    (16, true, false) => cut!(bytes, i16, from_le_bytes, unused),
                    (16, true, true) => cut!(bytes, i16, from_be_bytes, unused),
                    (_, false, false) => cut!(bytes, u32, from_le_bytes, unused),
                    (_, false, true) => cut!(bytes, u32, from_be_bytes, unused),
                    (_, true, false) => cut!(bytes, i32, from_le_bytes, unused),
                    (_, true, true) => cut!(bytes, i32, from_be_bytes, unused),
                }
            }
        }
    }
}
