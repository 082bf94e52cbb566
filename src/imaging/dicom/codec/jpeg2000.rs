//! JPEG 2000 and its high-throughput form, by openjp2 (OpenJPEG in Rust).
//!
//! The codestream's size, components and subsampling are read here first and held against the data
//! set's: openjp2 allocates by what the codestream says.

use super::broken;
use crate::imaging::decode::DecodeError;
use jpeg2k::{DecodeParameters, Image};

const CODEC: &str = "JPEG 2000";

/// What the data set expects of the codestream.
#[derive(Clone, Copy)]
pub(in crate::imaging::dicom) struct Expected {
    pub(in crate::imaging::dicom) columns: u32,
    pub(in crate::imaging::dicom) rows: u32,
    pub(in crate::imaging::dicom) samples: u32,
    pub(in crate::imaging::dicom) signed: bool,
}

/// Values, colour by pixel, signed as the data set says.
///
/// # Errors
/// A damaged codestream, or one that contradicts the data set.
pub(in crate::imaging::dicom) fn decode(
    data: &[u8],
    expected: Expected,
) -> Result<Vec<i32>, DecodeError> {
    check_size(data, expected)?;
    // Strict: a truncated codestream is an error, not a blurred picture.
    let parameters = DecodeParameters::new().strict(true);
    let image = Image::from_bytes_with(data, parameters).map_err(|error| broken(CODEC, error))?;
    let pixels = expected.columns as usize * expected.rows as usize;
    let samples = expected.samples as usize;
    let mut values = vec![0; pixels * samples];
    let components = image.components();
    if components.len() < samples {
        return Err(broken(CODEC, "components are missing"));
    }
    for (sample, component) in components.iter().take(samples).enumerate() {
        if (component.width(), component.height()) != (expected.columns, expected.rows) {
            return Err(broken(CODEC, "its components have different sizes"));
        }
        let precision = component.precision();
        let resign = |value: i32| match (component.is_signed(), expected.signed) {
            // The data set says what the bits mean; the codestream says only how they were coded.
            (false, true) => sign_extend(value, precision),
            (true, false) => value & mask(precision),
            _ => value,
        };
        let places = values.iter_mut().skip(sample).step_by(samples);
        for (place, &value) in places.zip(component.data()) {
            *place = resign(value);
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

/// ISO 15444-1 A.5.1: SIZ follows SOC.
fn check_size(data: &[u8], expected: Expected) -> Result<(), DecodeError> {
    if data.get(..4) != Some(&[0xFF, 0x4F, 0xFF, 0x51]) {
        return Err(broken(CODEC, "it does not begin with a codestream"));
    }
    let cut_off = || broken(CODEC, "it is cut off");
    let u32_at = |at: usize| {
        let field = data.get(at..at + 4)?;
        Some(u32::from_be_bytes(field.try_into().ok()?))
    };
    let extent = |end: usize, start: usize| Some(u32_at(end)?.saturating_sub(u32_at(start)?));
    let width = extent(8, 16).ok_or_else(cut_off)?;
    let height = extent(12, 20).ok_or_else(cut_off)?;
    if (width, height) != (expected.columns, expected.rows) {
        return Err(broken(
            CODEC,
            format!(
                "it is {width}×{height}, the data set says {}×{}",
                expected.columns, expected.rows
            ),
        ));
    }
    let components = data.get(40..).and_then(<[u8]>::first_chunk).ok_or_else(cut_off)?;
    let components = u32::from(u16::from_be_bytes(*components));
    if components != expected.samples {
        return Err(broken(CODEC, format!("{components} components, not {}", expected.samples)));
    }
    let fields = data.get(42..42 + 3 * components as usize).ok_or_else(cut_off)?;
    let (fields, _) = fields.as_chunks::<3>();
    if fields.iter().any(|&[_, horizontal, vertical]| (horizontal, vertical) != (1, 1)) {
        return Err(broken(CODEC, "its components are subsampled"));
    }
    Ok(())
}
