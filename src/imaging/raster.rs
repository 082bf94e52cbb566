//! PNG and JPEG into slices: as displayed, without interpretation.
//!
//! 1. The EXIF orientation is applied: what comes out is what a viewer shows.
//! 2. Transparency is flattened on black.
//! 3. Gamma, chromaticities and colour profiles are ignored on purpose: levels mean what the file's
//!    numbers say, on every box alike.
//! 4. 16-bit grey keeps its stored units, so that a window can be asked for; 16-bit colour keeps its
//!    high bytes, as libpng's strip-16 and Pillow do.

use super::decode::{DecodeError, Limits, choose_frame};
use super::jpeg;
use crate::domain::slice::{Format, Samples, Size, Slice, SliceInfo};
use bytes::Bytes;
use image::codecs::png::PngDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, RgbImage};
use std::io::Cursor;

/// Decodes a PNG, 1 to 16 bits, interlaced or not.
///
/// # Errors
/// [`DecodeError`] when it is broken, too large, or another frame than the first is asked for.
pub(super) fn png(bytes: &[u8], frame: Option<u32>, limits: &Limits) -> Result<Slice, DecodeError> {
    choose_frame(frame, 1)?;
    let declared = |at: usize| {
        let field = bytes.get(at..at + 4)?;
        Some(u64::from(u32::from_be_bytes(field.try_into().ok()?)))
    };
    // IHDR is always first: width and height stand at fixed places.
    if let (Some(width), Some(height)) = (declared(16), declared(20)) {
        limits.check(width, height)?;
    }
    let broken = |error| broken("PNG", &error);
    let mut decoder = PngDecoder::new(Cursor::new(bytes)).map_err(broken)?;
    let (width, height) = decoder.dimensions();
    limits.check(u64::from(width), u64::from(height))?;
    // A broken EXIF block is no reason to refuse an image.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(orientation);
    slice(Format::Png, picture)
}

/// Decodes a JPEG, grey, colour or CMYK; more than 8 bits are scaled to 8.
///
/// # Errors
/// As [`png()`].
pub(super) fn jpeg(
    bytes: &[u8],
    frame: Option<u32>,
    limits: &Limits,
) -> Result<Slice, DecodeError> {
    choose_frame(frame, 1)?;
    let broken = |error| broken("JPEG", &error);
    let header = jpeg::header(bytes).map_err(broken)?;
    limits.check(header.width as u64, header.height as u64)?;
    let (header, samples) = jpeg::decode(bytes, jpeg::usual_transform).map_err(broken)?;
    let levels = match samples {
        jpeg::Samples::Narrow(levels) if header.precision == 8 => levels,
        jpeg::Samples::Narrow(levels) => {
            scaled(levels.into_iter().map(u16::from), header.precision)
        }
        jpeg::Samples::Wide(levels) => scaled(levels.into_iter(), header.precision),
    };
    let (width, height) = (to_u32(header.width), to_u32(header.height));
    let picture = match header.components.len() {
        1 => GrayImage::from_raw(width, height, levels).map(DynamicImage::ImageLuma8),
        3 => RgbImage::from_raw(width, height, levels).map(DynamicImage::ImageRgb8),
        4 => {
            let levels = rgb_of_cmyk(&levels);
            RgbImage::from_raw(width, height, levels).map(DynamicImage::ImageRgb8)
        }
        _ => None,
    };
    let mut picture =
        picture.ok_or_else(|| DecodeError::unreadable("a JPEG of two components is no picture"))?;
    let orientation = header.exif.as_deref().and_then(Orientation::from_exif_chunk);
    picture.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    slice(Format::Jpeg, picture)
}

fn to_u32(extent: usize) -> u32 {
    u32::try_from(extent).unwrap_or(u32::MAX)
}

/// Levels of another precision as 8 bits, rounded.
fn scaled(levels: impl Iterator<Item = u16>, precision: u8) -> Vec<u8> {
    let full = (1u32 << precision.clamp(1, 16)) - 1;
    let level = |level: u16| (u32::from(level) * 255 + full / 2) / full;
    levels.map(|value| u8::try_from(level(value)).unwrap_or(u8::MAX)).collect()
}

/// Without profiles: each ink takes its share of the light. Ink is stored inverted, as Adobe does it
/// and as everyone else therefore reads it.
fn rgb_of_cmyk(levels: &[u8]) -> Vec<u8> {
    let (pixels, _) = levels.as_chunks::<4>();
    let rgb = pixels.iter().flat_map(|pixel| {
        let [cyan, magenta, yellow, black] = pixel.map(|ink| !ink);
        let light = 255 - black;
        [cyan, magenta, yellow].map(|ink| light.saturating_sub(flatten8(ink, light)))
    });
    rgb.collect()
}

fn broken(name: &str, error: &impl std::fmt::Display) -> DecodeError {
    DecodeError::unreadable(format!("the {name} is damaged or of an unsupported kind ({error})"))
}

/// Pixels of any of the crate's types into one of ours.
fn slice(format: Format, picture: DynamicImage) -> Result<Slice, DecodeError> {
    let size = Size { width: picture.width(), height: picture.height() };
    let mut range = None;
    let samples = match picture {
        DynamicImage::ImageLuma8(grey) => grey8(grey),
        DynamicImage::ImageRgb8(rgb) => rgb8(rgb),
        DynamicImage::ImageLumaA8(pixels) => Samples::Grey8(
            pixels.pixels().map(|p| flatten8(p.0[0], p.0[1])).collect::<Vec<u8>>().into(),
        ),
        DynamicImage::ImageRgba8(pixels) => Samples::Rgb8(
            pixels
                .pixels()
                .flat_map(|p| {
                    let [r, g, b, a] = p.0;
                    [flatten8(r, a), flatten8(g, a), flatten8(b, a)]
                })
                .collect::<Vec<u8>>()
                .into(),
        ),
        DynamicImage::ImageLuma16(pixels) => {
            stored_units(pixels.into_raw().into_iter(), &mut range)
        }
        DynamicImage::ImageLumaA16(pixels) => {
            stored_units(pixels.pixels().map(|p| flatten16(p.0[0], p.0[1])), &mut range)
        }
        DynamicImage::ImageRgb16(pixels) => Samples::Rgb8(
            pixels.pixels().flat_map(|p| p.0.map(high_byte)).collect::<Vec<u8>>().into(),
        ),
        DynamicImage::ImageRgba16(pixels) => Samples::Rgb8(
            pixels
                .pixels()
                .flat_map(|p| {
                    let [r, g, b, a] = p.0.map(high_byte);
                    [flatten8(r, a), flatten8(g, a), flatten8(b, a)]
                })
                .collect::<Vec<u8>>()
                .into(),
        ),
        _ => return Err(DecodeError::unreadable("its pixels are of an unsupported type")),
    };
    let info = SliceInfo { range, ..SliceInfo::picture(size, format) };
    Slice::new(info, samples).map_err(|error| DecodeError::unreadable(error.to_string()))
}

fn grey8(grey: GrayImage) -> Samples {
    Samples::Grey8(grey.into_raw().into())
}

fn rgb8(rgb: RgbImage) -> Samples {
    Samples::Rgb8(rgb.into_raw().into())
}

/// 16-bit grey as f32, and its range.
fn stored_units(values: impl Iterator<Item = u16>, range: &mut Option<(f32, f32)>) -> Samples {
    let (mut low, mut high) = (u16::MAX, u16::MIN);
    let values: Vec<f32> = values
        .map(|value| {
            (low, high) = (low.min(value), high.max(value));
            f32::from(value)
        })
        .collect();
    *range = Some((f32::from(low), f32::from(high)));
    Samples::Modality(modality_bytes(values))
}

/// f32 values as bytes that keep their alignment: the vector itself owns them.
pub(super) fn modality_bytes(values: Vec<f32>) -> Bytes {
    struct Owner(Vec<f32>);
    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            bytemuck::cast_slice(&self.0)
        }
    }
    Bytes::from_owner(Owner(values))
}

fn high_byte(value: u16) -> u8 {
    value.to_be_bytes()[0]
}

/// `value × alpha` on black, rounded.
fn flatten8(value: u8, alpha: u8) -> u8 {
    let product = (u32::from(value) * u32::from(alpha) + 127) / 255;
    u8::try_from(product).unwrap_or(u8::MAX)
}

fn flatten16(value: u16, alpha: u16) -> u16 {
    let product = (u64::from(value) * u64::from(alpha) + 32_767) / 65_535;
    u16::try_from(product).unwrap_or(u16::MAX)
}
