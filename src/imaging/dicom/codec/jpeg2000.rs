//! JPEG 2000 and its high-throughput form, by openjp2 (OpenJPEG in Rust).
//!
//! The codestream's size, components and subsampling are read here first and held against the data
//! set's: openjp2 allocates by what the codestream says. A JP2 file where a bare codestream should be
//! (seen in the wild) is taken for the codestream in it.
//!
//! openjp2 refuses a codestream that breaks off. One whose every length was rewritten to end between two
//! packets says the same as one coded coarser, and is shown so, here as everywhere.

use super::{Claim, broken, check};
use crate::imaging::decode::DecodeError;
use crate::imaging::dicom::header::Header;
use jpeg2k::Image;

const CODEC: &str = "JPEG 2000";

/// Values, colour by pixel, signed as the data set says.
///
/// # Errors
/// A damaged codestream, or one that contradicts the data set.
pub(in crate::imaging::dicom) fn decode(
    data: &[u8],
    header: &Header,
) -> Result<Vec<i32>, DecodeError> {
    let data = codestream(data);
    check(CODEC, &claim(data)?, header)?;
    let image = Image::from_bytes(data).map_err(|error| broken(CODEC, error))?;
    let samples = header.samples as usize;
    let mut values = vec![0; header.pixels() * samples];
    let components = image.components();
    if components.len() < samples {
        return Err(broken(CODEC, "components are missing"));
    }
    for (sample, component) in components.iter().take(samples).enumerate() {
        // With nothing subsampled they can't differ; a codec with a flaw would leave zeros unseen.
        if (component.width(), component.height()) != (header.columns, header.rows) {
            return Err(broken(CODEC, "its components have different sizes"));
        }
        let precision = component.precision();
        let places = values.iter_mut().skip(sample).step_by(samples);
        let pairs = places.zip(component.data());
        // The data set says what the bits mean; the codestream says only how they were coded.
        match (component.is_signed(), header.signed) {
            (false, true) => {
                pairs.for_each(|(place, &value)| *place = sign_extend(value, precision));
            }
            (true, false) => pairs.for_each(|(place, &value)| *place = value & mask(precision)),
            _ => pairs.for_each(|(place, &value)| *place = value),
        }
    }
    Ok(values)
}

fn mask(bits: u32) -> i32 {
    if bits >= 31 { i32::MAX } else { (1 << bits) - 1 }
}

fn sign_extend(value: i32, bits: u32) -> i32 {
    let shift = 32u32.saturating_sub(bits.max(1));
    (value << shift) >> shift
}

/// The codestream itself, out of a JP2 file's boxes if it is one. ISO 15444-1 I.4.
fn codestream(data: &[u8]) -> &[u8] {
    let mut boxes = data;
    if !boxes.starts_with(b"\0\0\0\x0cjP  ") {
        return data;
    }
    while let Some((head, _)) = boxes.split_first_chunk::<8>() {
        let [l3, l2, l1, l0, kind @ ..] = *head;
        let length = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
        if &kind == b"jp2c" {
            return boxes.get(8..).unwrap_or_default();
        }
        // 0 is "to the end", 1 announces a long length: neither precedes a codestream here.
        match boxes.get(length..) {
            Some(rest) if length >= 8 => boxes = rest,
            _ => break,
        }
    }
    data
}

/// ISO 15444-1 A.5.1: SIZ follows SOC.
fn claim(data: &[u8]) -> Result<Claim, DecodeError> {
    if !data.starts_with(&[0xFF, 0x4F, 0xFF, 0x51]) {
        return Err(broken(CODEC, "it does not begin with a codestream"));
    }
    let cut_off = || broken(CODEC, "it is cut off");
    let u32_at = |at: usize| {
        let field = data.get(at..).and_then(<[u8]>::first_chunk).ok_or_else(cut_off)?;
        Ok::<_, DecodeError>(u32::from_be_bytes(*field))
    };
    let extent = |end: usize, start: usize| {
        Ok::<_, DecodeError>(u32_at(end)?.saturating_sub(u32_at(start)?) as usize)
    };
    let components = data.get(40..).and_then(<[u8]>::first_chunk).ok_or_else(cut_off)?;
    let components = usize::from(u16::from_be_bytes(*components));
    let (fields, _) = data.get(42..42 + 3 * components).ok_or_else(cut_off)?.as_chunks::<3>();
    if fields.iter().any(|&[_, horizontal, vertical]| (horizontal, vertical) != (1, 1)) {
        return Err(broken(CODEC, "its components are subsampled"));
    }
    if fields.windows(2).any(|pair| matches!(pair, [[one, ..], [other, ..]] if one != other)) {
        return Err(broken(CODEC, "its components have different depths"));
    }
    let precision = fields.first().map_or(0, |&[depth, _, _]| u32::from(depth & 0x7F) + 1);
    Ok(Claim { width: extent(8, 16)?, height: extent(12, 20)?, components, precision })
}
