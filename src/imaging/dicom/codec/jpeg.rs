//! JPEG (ISO 10918-1): baseline, extended 8-bit, progressive and lossless, by jpeg-decoder.
//!
//! The frame header is read here first: geometry against the data set's, and precision, which
//! decides who decodes. Colour: an Adobe marker says what was done; without one, the data set's
//! photometric interpretation does (not JFIF's default: DICOM encoders write no JFIF marker).

use super::broken;
use crate::imaging::decode::DecodeError;
use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

const CODEC: &str = "JPEG";

/// What the data set expects of the codestream.
#[derive(Clone, Copy)]
pub(in crate::imaging::dicom) struct Expected {
    pub(in crate::imaging::dicom) columns: u32,
    pub(in crate::imaging::dicom) rows: u32,
    pub(in crate::imaging::dicom) samples: u32,
    /// Photometric interpretation is one of YBR.
    pub(in crate::imaging::dicom) ybr: bool,
}

/// Bytes of all samples, colour by pixel; RGB for colour. And bytes of one sample: 1 or 2, little
/// endian.
///
/// # Errors
/// A damaged codestream, one that contradicts the data set, or a process that isn't decoded.
pub(in crate::imaging::dicom) fn decode(
    data: &[u8],
    expected: Expected,
) -> Result<(Vec<u8>, u32), DecodeError> {
    let frame = FrameHeader::read(data)?;
    frame.check(expected)?;
    let mut decoder = Decoder::new(data);
    if frame.components == 3 {
        let ybr = frame.adobe_transform.map_or(expected.ybr, |transform| transform == 1);
        decoder.set_color_transform(if ybr { ColorTransform::YCbCr } else { ColorTransform::RGB });
    }
    let pixels = decoder.decode().map_err(|error| broken(CODEC, error))?;
    let wide = decoder.info().is_some_and(|info| info.pixel_format == PixelFormat::L16);
    let bytes = if wide { 2 } else { 1 };
    let length = expected.columns as usize * expected.rows as usize * frame.components * bytes;
    if pixels.len() != length {
        return Err(broken(CODEC, "it decodes to another size than it says"));
    }
    // 16-bit samples come in the machine's order, which is little endian wherever this builds.
    Ok((pixels, if wide { 2 } else { 1 }))
}

/// What the codestream says before its first scan.
struct FrameHeader {
    process: u8,
    precision: u8,
    columns: u32,
    rows: u32,
    components: usize,
    adobe_transform: Option<u8>,
}

impl FrameHeader {
    fn read(data: &[u8]) -> Result<Self, DecodeError> {
        let cut_off = || broken(CODEC, "it is cut off");
        if !data.starts_with(&[0xFF, 0xD8]) {
            return Err(broken(CODEC, "it does not begin with a codestream"));
        }
        let mut adobe_transform = None;
        let mut position = 2;
        loop {
            let marker = *data.get(position + 1).ok_or_else(cut_off)?;
            if data.get(position) != Some(&0xFF) {
                return Err(broken(CODEC, "a marker is missing"));
            }
            // Fill bytes, and markers without a segment.
            if marker == 0xFF {
                position += 1;
                continue;
            }
            if matches!(marker, 0x01 | 0xD0..=0xD8) {
                position += 2;
                continue;
            }
            let length =
                data.get(position + 2..).and_then(<[u8]>::first_chunk).ok_or_else(cut_off)?;
            let length = usize::from(u16::from_be_bytes(*length));
            let segment =
                data.get(position + 4..position + 2 + length.max(2)).ok_or_else(cut_off)?;
            match (marker, segment) {
                (0xEE, [b'A', b'd', b'o', b'b', b'e', _, _, _, _, _, _, transform, ..]) => {
                    adobe_transform = Some(*transform);
                }
                // SOF0..SOF15 but DHT, JPG and DAC.
                (0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF, frame) => {
                    let [precision, high_y, low_y, high_x, low_x, components, ..] = frame else {
                        return Err(cut_off());
                    };
                    return Ok(Self {
                        process: marker - 0xC0,
                        precision: *precision,
                        columns: u32::from(*high_x) << 8 | u32::from(*low_x),
                        rows: u32::from(*high_y) << 8 | u32::from(*low_y),
                        components: usize::from(*components),
                        adobe_transform,
                    });
                }
                (0xD9 | 0xDA, _) => return Err(broken(CODEC, "it has no frame header")),
                _ => {}
            }
            position += 2 + length.max(2);
        }
    }

    fn check(&self, expected: Expected) -> Result<(), DecodeError> {
        if (self.columns, self.rows) != (expected.columns, expected.rows) {
            return Err(broken(
                CODEC,
                format!(
                    "it is {}×{}, the data set says {}×{}",
                    self.columns, self.rows, expected.columns, expected.rows
                ),
            ));
        }
        if self.components != expected.samples as usize {
            return Err(broken(
                CODEC,
                format!("{} components, not {}", self.components, expected.samples),
            ));
        }
        match (self.process, self.precision) {
            (0..=2, 8) => Ok(()),
            (3, 2..=16) if self.components == 1 || self.precision == 8 => Ok(()),
            (process, precision) => Err(broken(
                CODEC,
                format!("SOF{process} with {precision} bits a sample is not supported"),
            )),
        }
    }
}
