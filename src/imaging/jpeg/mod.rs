//! JPEG, ISO/IEC 10918-1: baseline, extended (8 and 12 bits), progressive and lossless, Huffman-coded.
//!
//! Ours, because no crate does what DICOM needs: zune-jpeg has neither 12 bits nor lossless, refuses
//! sampling factor 3, differs from libjpeg by up to 4 levels and fills what is missing with grey;
//! jpeg-decoder has no 12-bit DCT and starts threads, which the decoder child may not.
//!
//! Invariants:
//! 1. Levels are those of libjpeg's defaults (accurate integer IDCT, fancy upsampling): what every
//!    other viewer shows.
//! 2. Nothing is guessed: a codestream that ends early, or has a code that no table holds, is an
//!    error. (Bytes after the last one needed are not looked at.)
//! 3. Memory is bounded by the frame header, which the caller sees first.
//!
//! Not here: arithmetic coding, hierarchical frames, DNL. All are refused by name.

mod bits;
mod dct;
mod frame;
mod huffman;
mod idct;
mod lossless;
mod markers;
mod progressive;
mod upsample;

pub(super) use self::frame::{Header, Process};

use self::frame::Frame;
use self::markers::{Reader, Segment};

/// Why a codestream can't be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct JpegError(String);

impl JpegError {
    fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    fn cut_off() -> Self {
        Self::new("it is cut off")
    }
}

type Result<T> = std::result::Result<T, JpegError>;

/// What is done to samples after decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transform {
    /// As coded.
    None,
    /// YCbCr to RGB.
    YcbcrToRgb,
    /// YCCK to CMYK, its black left alone.
    YcckToCmyk,
}

/// Samples of all components, pixel by pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Samples {
    /// Up to 8 bits.
    Narrow(Vec<u8>),
    /// 9 to 16 bits.
    Wide(Vec<u16>),
}

/// Size, process and colour of a codestream, read up to its frame header.
///
/// # Errors
/// When there is none, or of a kind that isn't decoded.
pub(super) fn header(data: &[u8]) -> Result<Header> {
    let mut reader = Reader::new(data)?;
    loop {
        match reader.next()? {
            Segment::Frame(header) => return Ok(header),
            Segment::Scan(_) | Segment::End => {
                return Err(JpegError::new("it has no frame header"));
            }
            Segment::Other => {}
        }
    }
}

/// Decodes the whole picture. `transform` chooses by the header.
///
/// # Errors
/// See the module's invariants.
pub(super) fn decode(
    data: &[u8],
    transform: impl FnOnce(&Header) -> Transform,
) -> Result<(Header, Samples)> {
    let mut reader = Reader::new(data)?;
    let header = loop {
        match reader.next()? {
            Segment::Frame(header) => break header,
            Segment::Scan(_) | Segment::End => {
                return Err(JpegError::new("it has no frame header"));
            }
            Segment::Other => {}
        }
    };
    let transform = transform(&header);
    let samples = match (header.process, header.precision) {
        (Process::Lossless, 2..=8) | (_, 8) => {
            Samples::Narrow(pixels(&mut reader, &header, transform)?)
        }
        // Transforms are made for the full range of 8 or 12 bits.
        (Process::Lossless, 9..=16) => {
            Samples::Wide(pixels(&mut reader, &header, Transform::None)?)
        }
        (_, 12) => Samples::Wide(pixels(&mut reader, &header, transform)?),
        (_, precision) => {
            return Err(JpegError::new(format!("{precision} bits a sample are not supported")));
        }
    };
    Ok((header, samples))
}

/// All scans of a frame, then its pixels.
fn pixels<S: idct::Sample>(
    reader: &mut Reader<'_>,
    header: &Header,
    transform: Transform,
) -> Result<Vec<S>> {
    let frame = Frame::new(header)?;
    let planes = match header.process {
        Process::Sequential => dct::decode(reader, &frame)?,
        Process::Progressive => progressive::decode(reader, &frame)?,
        Process::Lossless => lossless::decode(reader, &frame, header.precision)?,
    };
    upsample::pixels(&frame, &planes, transform)
}

/// The colour transform that libjpeg would choose: JFIF, then Adobe's marker, then component ids.
pub(super) fn usual_transform(header: &Header) -> Transform {
    let ids: Vec<u8> = header.components.iter().map(|component| component.id).collect();
    let lossless = header.process == Process::Lossless;
    match (ids.as_slice(), header.adobe_transform) {
        ([_, _, _], _) if header.jfif => Transform::YcbcrToRgb,
        ([_, _, _], Some(0)) => Transform::None,
        ([_, _, _], Some(_)) => Transform::YcbcrToRgb,
        ([b'R', b'G', b'B'], None) => Transform::None,
        ([_, _, _], None) if lossless => Transform::None,
        ([_, _, _], None) => Transform::YcbcrToRgb,
        // Adobe knows 0 and 2; libjpeg takes anything else for 2.
        ([_, _, _, _], Some(1..)) => Transform::YcckToCmyk,
        _ => Transform::None,
    }
}
