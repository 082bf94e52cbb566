//! Bytes in, [`Slice`] out: the pure function that runs inside the decoder child.
//!
//! Invariants:
//! 1. Geometry is held against [`Limits`] before anything is allocated for it.
//! 2. What can't be shown rightly is an error that names the reason; there is no best effort.
//! 3. Error texts hold tags, sizes and UIDs of syntaxes, nothing that tells who the patient is.
//!
//! It may still panic, loop or run out of memory inside a codec: [`super::decoder`] is there for that.

use super::{dicom, raster, sniff::sniff};
use crate::domain::identity::SegmentationSource;
use crate::domain::slice::{Format, Slice};

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of one frame.
    pub max_pixels: u64,
    /// Frames a file may declare.
    pub max_frames: u32,
    /// Bytes a deflated data set may grow to.
    pub max_inflated_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_pixels: 8192 * 8192, max_frames: 65_536, max_inflated_bytes: 1 << 30 }
    }
}

impl Limits {
    /// # Errors
    /// [`DecodeError::Unreadable`] for nothing at all, [`DecodeError::TooLarge`] for too much.
    pub(crate) fn check(&self, width: u64, height: u64) -> Result<(), DecodeError> {
        if width == 0 || height == 0 {
            return Err(DecodeError::unreadable(format!("its size is {width}×{height} pixels")));
        }
        if width.saturating_mul(height) > self.max_pixels {
            return Err(DecodeError::TooLarge(format!(
                "the image has {width}×{height} pixels; at most {} are taken",
                self.max_pixels
            )));
        }
        Ok(())
    }
}

/// Why bytes did not become a slice.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Neither PNG nor JPEG nor DICOM Part 10.
    #[error("not a PNG, JPEG or DICOM Part 10 file")]
    UnsupportedFormat,
    /// Broken, or of a kind that isn't decoded; says which.
    #[error("{0}")]
    Unreadable(String),
    /// A DICOM transfer syntax that isn't decoded.
    #[error("transfer syntax {uid} ({name}) is not supported")]
    UnsupportedTransferSyntax {
        /// As in the file meta information.
        uid: String,
        /// From the standard's registry, or `unknown`.
        name: String,
    },
    /// Several frames, and none was named.
    #[error("the file has {frames} frames and none was named")]
    FrameRequired {
        /// Frames in the file.
        frames: u32,
    },
    /// A frame that does not exist.
    #[error("frame {frame} of {frames}")]
    FrameOutOfRange {
        /// Asked for, 0-based.
        frame: u32,
        /// Frames in the file.
        frames: u32,
    },
    /// More pixels, frames or bytes than the limits allow.
    #[error("{0}")]
    TooLarge(String),
    /// Our fault: no child to decode with.
    #[error("the image decoder is not available: {0}")]
    Unavailable(String),
}

impl DecodeError {
    pub(crate) fn unreadable(reason: impl Into<String>) -> Self {
        Self::Unreadable(reason.into())
    }
}

/// Which frame is meant: the only one, or the one that was asked for.
///
/// # Errors
/// [`DecodeError::FrameRequired`], [`DecodeError::FrameOutOfRange`].
pub(crate) fn choose_frame(asked: Option<u32>, frames: u32) -> Result<u32, DecodeError> {
    match asked {
        None if frames > 1 => Err(DecodeError::FrameRequired { frames }),
        None => Ok(0),
        Some(frame) if frame < frames => Ok(frame),
        Some(frame) => Err(DecodeError::FrameOutOfRange { frame, frames }),
    }
}

/// Decodes one frame.
///
/// # Errors
/// Any [`DecodeError`] but [`DecodeError::Unavailable`].
pub fn decode(bytes: &[u8], frame: Option<u32>, limits: &Limits) -> Result<Slice, DecodeError> {
    match sniff(bytes).ok_or(DecodeError::UnsupportedFormat)? {
        Format::Png => raster::png(bytes, frame, limits),
        Format::Jpeg => raster::jpeg(bytes, frame, limits),
        Format::Dicom => dicom::decode(bytes, frame, limits),
    }
}

/// What a DICOM Segmentation of this frame takes over from the file; `None` for PNG and JPEG.
///
/// # Errors
/// As [`decode`], but for what only the pixels can show.
pub fn segmentation_source(
    bytes: &[u8],
    frame: Option<u32>,
    limits: &Limits,
) -> Result<Option<SegmentationSource>, DecodeError> {
    match sniff(bytes).ok_or(DecodeError::UnsupportedFormat)? {
        Format::Png | Format::Jpeg => Ok(None),
        Format::Dicom => dicom::segmentation_source(bytes, frame, limits).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::slice::Samples;
    use serde_json::Value;
    use std::path::Path;

    /// tests/python/make_decode_fixtures.py says where the expectations come from.
    #[test]
    fn every_fixture_decodes_to_what_independent_decoders_make_of_it() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decode");
        let cases = std::fs::read(folder.join("cases.json")).unwrap();
        let cases: Vec<Value> = serde_json::from_slice(&cases).unwrap();
        assert!(cases.len() >= 90, "{}", cases.len());
        let mut wrong = Vec::new();
        for case in &cases {
            let name = case["file"].as_str().unwrap();
            let file = std::fs::read(folder.join(name)).unwrap();
            let frame = case["frame"].as_u64().map(|frame| u32::try_from(frame).unwrap());
            let slice = match decode(&file, frame, &Limits::default()) {
                Ok(slice) => slice,
                Err(error) => {
                    wrong.push(format!("{name}: {error}"));
                    continue;
                }
            };
            let kind = match slice.samples() {
                Samples::Grey8(_) => "grey8",
                Samples::Rgb8(_) => "rgb8",
                Samples::Modality(_) => "modality",
            };
            let size = (slice.size().width.into(), slice.size().height.into());
            assert_eq!(kind, case["kind"], "{name}");
            assert_eq!(size, (case["width"].as_u64().unwrap(), case["height"].as_u64().unwrap()));
            let expected = std::fs::read(folder.join(case["expected"].as_str().unwrap())).unwrap();
            if slice.samples().bytes()[..] != expected[..] {
                wrong.push(format!("{name}: other pixels"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
