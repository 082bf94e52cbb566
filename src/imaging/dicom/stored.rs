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

impl Modality {
    #[expect(clippy::cast_possible_truncation, reason = "modality values are f32")]
    fn apply(&self, value: f64) -> f32 {
        match self {
            Self::Linear { slope, intercept } => (value * slope + intercept) as f32,
            Self::Table(lut) => f32::from(lut.at(value)),
        }
    }
}

/// Modality values, and their range without padding (all of it, where all is padding).
pub(super) fn modality(
    stored: &Stored<'_>,
    header: &Header,
    modality: &Modality,
    padding: Option<(f64, f64)>,
) -> (Vec<f32>, (f32, f32)) {
    let (low, high) = padding.unwrap_or((f64::INFINITY, f64::NEG_INFINITY));
    let mut range = (f32::INFINITY, f32::NEG_INFINITY);
    let mut values = Vec::with_capacity(header.pixels());
    for_each(stored, header, |value| {
        let result = modality.apply(value);
        if value < low || value > high {
            range = (range.0.min(result), range.1.max(result));
        }
        values.push(result);
    });
    if range.0 > range.1 {
        range = values.iter().fold(range, |(low, high), &v| (low.min(v), high.max(v)));
    }
    (values, range)
}

/// 8-bit RGB out of colour samples, scaled from Bits Stored.
pub(super) fn rgb(stored: &Stored<'_>, header: &Header) -> Vec<u8> {
    let full = if header.stored >= 32 {
        f64::from(u32::MAX)
    } else {
        f64::from((1u32 << header.stored) - 1)
    };
    let mut levels = Vec::with_capacity(header.pixels() * 3);
    if header.stored == 8 {
        for_each(stored, header, |value| levels.push(level(value)));
    } else {
        for_each(stored, header, |value| levels.push(level(value * 255.0 / full)));
    }
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
    let scale = palette.each_ref().map(|lut| match lut.bits {
        0..=8 => 1.0,
        bits => 255.0 / f64::from((1u32 << bits.min(16)) - 1),
    });
    let mut levels = Vec::with_capacity(header.pixels() * 3);
    for_each(stored, header, |value| {
        for (lut, scale) in palette.iter().zip(scale) {
            levels.push(level(f64::from(lut.at(value)) * scale));
        }
    });
    levels
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

/// Every sample in turn, exactly.
fn for_each(stored: &Stored<'_>, header: &Header, mut each: impl FnMut(f64)) {
    let samples = header.pixels() * header.samples as usize;
    match stored {
        Stored::Values(values) => values.iter().for_each(|&value| each(f64::from(value))),
        Stored::Bits(bytes, first) => {
            for bit in *first..*first + samples {
                let byte = bytes.get(bit / 8).copied().unwrap_or(0);
                each(f64::from(byte >> (bit % 8) & 1));
            }
        }
        Stored::Floats { bytes, width, big_endian } => {
            let ordered =
                |field: &[u8]| field.iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b));
            let swapped = |field: &[u8]| field.iter().fold(0u64, |v, &b| v << 8 | u64::from(b));
            for field in bytes.chunks_exact(*width) {
                let bits = if *big_endian { swapped(field) } else { ordered(field) };
                each(match u32::try_from(bits) {
                    Ok(bits) if *width == 4 => f64::from(f32::from_bits(bits)),
                    _ => f64::from_bits(bits),
                });
            }
        }
        Stored::Bytes { bytes, width, big_endian, .. } => {
            let unused = width.saturating_sub(header.stored);
            match (width, header.signed, *big_endian) {
                (8, false, _) => {
                    bytes.iter().for_each(|&v| each(f64::from(v << unused >> unused)));
                }
                (8, true, _) => {
                    bytes
                        .iter()
                        .for_each(|&v| each(f64::from(v.cast_signed() << unused >> unused)));
                }
                (16, false, false) => words(bytes, |v| {
                    each(f64::from(u16::from_le_bytes(v) << unused >> unused));
                }),
                (16, false, true) => words(bytes, |v| {
                    each(f64::from(u16::from_be_bytes(v) << unused >> unused));
                }),
                (16, true, false) => words(bytes, |v| {
                    each(f64::from(i16::from_le_bytes(v) << unused >> unused));
                }),
                (16, true, true) => words(bytes, |v| {
                    each(f64::from(i16::from_be_bytes(v) << unused >> unused));
                }),
                (_, false, false) => words(bytes, |v| {
                    each(f64::from(u32::from_le_bytes(v) << unused >> unused));
                }),
                (_, false, true) => words(bytes, |v| {
                    each(f64::from(u32::from_be_bytes(v) << unused >> unused));
                }),
                (_, true, false) => words(bytes, |v| {
                    each(f64::from(i32::from_le_bytes(v) << unused >> unused));
                }),
                (_, true, true) => words(bytes, |v| {
                    each(f64::from(i32::from_be_bytes(v) << unused >> unused));
                }),
            }
        }
    }
}

fn words<const N: usize>(bytes: &[u8], mut each: impl FnMut([u8; N])) {
    let (words, _) = bytes.as_chunks::<N>();
    words.iter().for_each(|&word| each(word));
}
