//! PNG files out (masks, previews, overlays) and masks in.
//!
//! Every file says "Not for diagnostic use" in a text chunk: it may be saved and passed on without
//! the answer it came with.
//!
//! Masks are compressed by the fastest method there is: with the `Up` filter a mask is zeros but for
//! its border, and `fdeflate` writes runs of zeros at the speed of memory.

use crate::domain::mask::Mask;
use crate::domain::slice::Size;
use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Filter, Limits, Transformations};
use std::io::Cursor;

/// The text chunk in every file.
pub const NOTICE: &str = "Not for diagnostic use.";

/// The mask PNG of an answer: 8-bit grey, 0 and 255 only, exactly the image's size.
#[must_use]
pub fn encode_mask(mask: &Mask) -> Vec<u8> {
    encode(mask.pixels(), mask.size(), ColorType::Grayscale, Filter::Up)
}

/// 8-bit grey, [H, W]. Empty when `levels` are not of that `size`: a bug of the caller.
#[must_use]
pub fn encode_grey(levels: &[u8], size: Size) -> Vec<u8> {
    encode(levels, size, ColorType::Grayscale, Filter::Paeth)
}

/// 8-bit RGB, [H, W, 3]. Empty when `levels` are not of that `size`: a bug of the caller.
#[must_use]
pub fn encode_rgb(levels: &[u8], size: Size) -> Vec<u8> {
    encode(levels, size, ColorType::Rgb, Filter::Paeth)
}

/// Why a PNG can't serve as a mask to refine.
#[derive(Debug, thiserror::Error)]
pub enum MaskPngError {
    /// No PNG, or a broken one.
    #[error("it is not a readable PNG file: {0}")]
    Unreadable(#[from] png::DecodingError),
    /// A mask of another image.
    #[error("it is {}×{} pixels, the image {}×{}", found.width, found.height, image.width, image.height)]
    WrongSize {
        /// Of the PNG.
        found: Size,
        /// Of the image.
        image: Size,
    },
}

/// A mask from a PNG of the image's `size`, whatever its colour type: a pixel is marked where its
/// brightest channel (alpha left out) is above half of the brightest level there is, so that masks
/// of 0 and 1, of 0 and 255, and coloured ones all read as meant. A pixel that is fully transparent
/// is not marked.
///
/// The size is checked before a pixel is decoded, and memory is bounded by it.
///
/// # Errors
/// [`MaskPngError`], in words for the user.
pub fn decode_mask(bytes: &[u8], size: Size) -> Result<Mask, MaskPngError> {
    // 8 bytes a pixel are the most that PNG has (RGBA, 16 bit); 1 MiB is for chunks beside it.
    let limits = Limits { bytes: size.pixels().saturating_mul(8).saturating_add(1 << 20) };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    let header = decoder.read_header_info()?;
    let found = Size { width: header.width, height: header.height };
    if found != size {
        return Err(MaskPngError::WrongSize { found, image: size });
    }
    let mut reader = decoder.read_info()?;
    let mut buffer = vec![0; reader.output_buffer_size().unwrap_or(0)];
    let info = reader.next_frame(&mut buffer)?;
    let channels = info.color_type.samples();
    let colours = if matches!(info.color_type, ColorType::GrayscaleAlpha | ColorType::Rgba) {
        channels - 1
    } else {
        channels
    };
    let level = |pixel: &[u8]| {
        let seen = pixel.get(colours) != Some(&0);
        let brightest = pixel.iter().take(colours).max().copied().unwrap_or(0);
        if seen { brightest } else { 0 }
    };
    let mut levels: Vec<u8> = buffer.chunks_exact(channels).map(level).collect();
    levels.truncate(size.pixels());
    let half = levels.iter().max().copied().unwrap_or(0) / 2;
    for level in &mut levels {
        *level = if *level > half { 255 } else { 0 };
    }
    Mask::new(size, levels).ok_or(MaskPngError::WrongSize { found, image: size })
}

fn encode(levels: &[u8], size: Size, colour: ColorType, filter: Filter) -> Vec<u8> {
    write(levels, size, colour, filter).unwrap_or_default()
}

/// Writing to memory fails only when `levels` are of another size.
fn write(
    levels: &[u8],
    size: Size,
    colour: ColorType,
    filter: Filter,
) -> Result<Vec<u8>, png::EncodingError> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, size.width, size.height);
    encoder.set_color(colour);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(filter);
    encoder.add_text_chunk("Disclaimer".into(), NOTICE.into())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(levels)?;
    writer.finish()?;
    Ok(file)
}

#[cfg(test)]
mod tests;
