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
    frame_header(&mut Reader::new(data)?)
}

fn frame_header(reader: &mut Reader<'_>) -> Result<Header> {
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
    let header = frame_header(&mut reader)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decode");
        std::fs::read(folder.join(name)).unwrap()
    }

    /// Where a marker's segment lies, marker and length included.
    fn segment(data: &[u8], marker: u8) -> std::ops::Range<usize> {
        let at = data.windows(2).position(|pair| pair == [0xFF, marker]).unwrap();
        at..at + 2 + usize::from(u16::from_be_bytes([data[at + 2], data[at + 3]]))
    }

    #[test]
    fn adobes_marker_says_which_transform() {
        let mut colour = fixture("sampling-0.jpg");
        let jfif = segment(&colour, 0xE0);
        colour.drain(jfif);
        let mut inks = fixture("cmyk.jpg");
        let marker = segment(&inks, 0xEE);
        inks.drain(marker);
        for (data, transform, expected) in [
            (&colour, 0, Transform::None),
            (&colour, 1, Transform::YcbcrToRgb),
            (&inks, 0, Transform::None),
            (&inks, 1, Transform::YcckToCmyk),
            (&inks, 2, Transform::YcckToCmyk),
        ] {
            let mut data = data.clone();
            let mut adobe = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0".to_vec();
            adobe.push(transform);
            data.splice(2..2, adobe);
            let chosen = usual_transform(&header(&data).unwrap());
            assert_eq!(chosen, expected, "{transform}");
        }
    }

    #[test]
    fn three_components_without_a_marker_are_ycbcr_but_in_lossless_frames() {
        let mut colour = fixture("sampling-0.jpg");
        let jfif = segment(&colour, 0xE0);
        colour.drain(jfif);
        assert_eq!(usual_transform(&header(&colour).unwrap()), Transform::YcbcrToRgb);
        let frame = segment(&colour, 0xC0).start;
        colour[frame + 1] = 0xC3;
        assert_eq!(usual_transform(&header(&colour).unwrap()), Transform::None);
    }

    #[test]
    fn steps_of_two_bytes_are_the_same_steps() {
        let narrow = fixture("grey.jpg");
        let at = segment(&narrow, 0xDB);
        let mut wide = vec![0xFF, 0xDB, 0, 131, 0x10 | narrow[at.start + 4]];
        wide.extend(narrow[at.start + 5..at.start + 69].iter().flat_map(|&step| [0, step]));
        let mut data = narrow.clone();
        data.splice(at.start..at.start + 69, wide);
        assert_eq!(
            decode(&data, usual_transform).unwrap().1,
            decode(&narrow, usual_transform).unwrap().1
        );
    }

    #[test]
    fn scans_without_end_are_refused() {
        let mut data = vec![0xFF, 0xD8];
        data.extend([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0].repeat(501));
        let mut reader = Reader::new(&data).unwrap();
        for _ in 0..500 {
            assert!(matches!(reader.next(), Ok(Segment::Scan(_))));
        }
        assert!(reader.next().is_err());
    }
}
