//! One frame of a DICOM Part 10 file into a slice: modality values, or RGB for colour.
//!
//! The way: [`syntax`] says how the file is laid out, [`dataset`] reads it without believing it,
//! [`header`] refuses what can't be shown rightly, [`frame`] finds the frame's bytes, [`codec`]
//! decodes them, [`stored`] makes modality values or RGB of them.
//!
//! Checked against pydicom on every file of the transfer-syntax zoo (tests/python).

mod codec;
mod dataset;
mod display;
mod frame;
pub(super) mod header;
mod identity;
mod lut;
mod stored;
pub(super) mod syntax;
#[cfg(test)]
mod tests;

use self::dataset::{DataSet, Encoding, PixelData};
use self::header::{Header, Photometric, Scope};
use self::stored::Stored;
use self::syntax::{Coding, Syntax};
use super::decode::{DecodeError, Limits, choose_frame};
use super::raster::modality_bytes;
use crate::domain::identity::SegmentationSource;
use crate::domain::slice::{Format, Samples, Size, Slice, SliceInfo};
use flate2::read::DeflateDecoder;
use std::borrow::Cow;
use std::io::Read as _;

/// JPEG baseline, extended and progressive lose something whatever the file says of it; the others may
/// or may not.
const ALWAYS_LOSSY: [&str; 4] = [
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.53",
    "1.2.840.10008.1.2.4.55",
];

/// Decodes one frame.
///
/// # Errors
/// Any [`DecodeError`] but [`DecodeError::Unavailable`].
pub(super) fn decode(
    file: &[u8],
    frame: Option<u32>,
    limits: &Limits,
) -> Result<Slice, DecodeError> {
    let (_, syntax, body) = opened(file, limits)?;
    let set = DataSet::read(&body, encoding(syntax))?;
    let pixels = set
        .pixel_data()
        .ok_or_else(|| DecodeError::unreadable("the DICOM file has no pixel data"))?;
    let header = Header::read(&set, limits)?;
    let frame = choose_frame(frame, header.frames)?;
    let (stored, header) = stored_values(&set, &pixels, syntax, header, frame)?;
    let scope = Scope::of(&set, frame);
    slice(&scope, &stored, &header, frame)
}

/// What a Segmentation of one frame takes over from the file.
///
/// # Errors
/// As [`decode`], but for what only the pixels can show.
pub(super) fn segmentation_source(
    file: &[u8],
    frame: Option<u32>,
    limits: &Limits,
) -> Result<SegmentationSource, DecodeError> {
    let (uid, syntax, body) = opened(file, limits)?;
    let set = DataSet::read(&body, encoding(syntax))?;
    let header = Header::read(&set, limits)?;
    let frame = choose_frame(frame, header.frames)?;
    Ok(identity::read(&set, &header, frame, ALWAYS_LOSSY.contains(&uid.as_str())))
}

/// The transfer syntax, by UID and by meaning, and the bytes of the data set.
fn opened<'a>(
    file: &'a [u8],
    limits: &Limits,
) -> Result<(String, Syntax, Cow<'a, [u8]>), DecodeError> {
    let (uid, start) = dataset::read_meta(file)?;
    let syntax = Syntax::of(&uid)?;
    let body = file.get(start..).unwrap_or_default();
    let body = if syntax.deflated {
        inflate(body, limits.max_inflated_bytes)?
    } else {
        Cow::Borrowed(body)
    };
    Ok((uid, syntax, body))
}

fn encoding(syntax: Syntax) -> Encoding {
    Encoding { implicit_vr: syntax.implicit_vr, big_endian: syntax.big_endian }
}

/// PS3.5 A.5: a raw deflate stream, held to a limit. The buffer doubles up to the limit and not past
/// it: a child has memory for that, and one that dies of a bomb can't say that it was one.
fn inflate(body: &[u8], limit: u64) -> Result<Cow<'static, [u8]>, DecodeError> {
    const FIRST: u64 = 1 << 16;
    let mut stream = DeflateDecoder::new(body);
    let mut inflated = Vec::new();
    loop {
        let len = inflated.len() as u64;
        if len > limit {
            let reason = format!("its deflated data grows past {limit} bytes");
            return Err(DecodeError::TooLarge(reason));
        }
        let room = len.max(FIRST).min(limit.saturating_add(1) - len);
        inflated.reserve_exact(usize::try_from(room).unwrap_or(usize::MAX));
        match stream.by_ref().take(room).read_to_end(&mut inflated) {
            Ok(0) => return Ok(Cow::Owned(inflated)),
            Ok(_) => {}
            Err(_) => return Err(DecodeError::unreadable("its deflated data is damaged")),
        }
    }
}

/// The frame's stored values, and the header as it is after the codec did its part.
fn stored_values<'a>(
    set: &DataSet<'_>,
    pixels: &PixelData<'a>,
    syntax: Syntax,
    header: Header,
    frame: u32,
) -> Result<(Stored<'a>, Header), DecodeError> {
    let big_endian = syntax.big_endian;
    match *pixels {
        PixelData::Float(all) | PixelData::Double(all) => {
            let width = header.allocated as usize / 8;
            let bytes = frame::native(all, &header, frame)?;
            if !matches!(width, 4 | 8) || header.samples != 1 {
                return Err(DecodeError::unreadable("its float pixel data has an odd layout"));
            }
            Ok((Stored::Floats { bytes, width, big_endian }, header))
        }
        _ if header.allocated == 64 => {
            Err(DecodeError::unreadable("64-bit integer pixels are not supported"))
        }
        PixelData::Native(all) if header.allocated == 1 => {
            if set.has_swapped_words() {
                return Err(DecodeError::unreadable(
                    "big-endian words of single bits are not supported",
                ));
            }
            // Frames of single bits follow each other without a gap.
            let first = frame as usize * header.pixels();
            if all.len() * 8 < first + header.pixels() {
                return Err(DecodeError::unreadable("its pixel data is cut off"));
            }
            Ok((Stored::Bits(Cow::Borrowed(all), first), header))
        }
        PixelData::Native(all) => {
            let bytes = frame::native(all, &header, frame)?;
            let bytes = if header.allocated == 8 && set.has_swapped_words() {
                Cow::Owned(frame::unswapped(all, &header, frame))
            } else {
                Cow::Borrowed(bytes)
            };
            let (width, planar) = (header.allocated, header.planar);
            Ok((Stored::Bytes { bytes, width, big_endian, planar }, header))
        }
        PixelData::Fragments { offsets, fragments } => {
            let coded = frame::encapsulated(set, offsets, fragments, &header, frame)?;
            decoded(coded, syntax.coding, header)
        }
    }
}

fn decoded<'a>(
    coded: Cow<'a, [u8]>,
    coding: Coding,
    mut header: Header,
) -> Result<(Stored<'a>, Header), DecodeError> {
    let (coded, coding) = match coding {
        Coding::DeflatedFrames => {
            let whole = frame::native_length(&header) as u64;
            (inflate(&coded, whole.saturating_add(1))?, Coding::Native)
        }
        _ => (coded, coding),
    };
    let (bytes, width) = match coding {
        Coding::Native | Coding::DeflatedFrames if header.allocated == 1 => {
            if coded.len() * 8 < header.pixels() {
                return Err(DecodeError::unreadable("its pixel data is cut off"));
            }
            return Ok((Stored::Bits(coded, 0), header));
        }
        Coding::Native | Coding::DeflatedFrames => {
            if coded.len() < frame::native_length(&header) {
                return Err(DecodeError::unreadable("its pixel data is cut off"));
            }
            let (width, planar) = (header.allocated, header.planar);
            return Ok((Stored::Bytes { bytes: coded, width, big_endian: false, planar }, header));
        }
        Coding::Rle if header.allocated == 1 => {
            let bits = codec::rle::decode(&coded, header.pixels().div_ceil(8), 1, 1)?;
            return Ok((Stored::Bits(Cow::Owned(bits), 0), header));
        }
        Coding::Rle => {
            let bytes = header.allocated / 8;
            let pixels = header.pixels();
            let samples = header.samples as usize;
            (codec::rle::decode(&coded, pixels, samples, bytes as usize)?, bytes * 8)
        }
        Coding::Jpeg => {
            let decoded = codec::jpeg::decode(&coded, &header)?;
            if header.samples == 3 {
                header.photometric = Photometric::Rgb;
            }
            decoded
        }
        Coding::JpegLs => codec::jpeg_ls::decode(&coded, &header)?,
        Coding::Jpeg2000 => {
            let values = codec::jpeg2000::decode(&coded, &header)?;
            return Ok((Stored::Values(values), header));
        }
    };
    if header.photometric == Photometric::YbrFull422 {
        // Codecs give whole pixels: nothing is subsampled any more.
        header.photometric = Photometric::YbrFull;
    }
    let bytes = Cow::Owned(bytes);
    Ok((Stored::Bytes { bytes, width, big_endian: false, planar: false }, header))
}

fn slice(
    scope: &Scope<'_, '_>,
    stored: &Stored<'_>,
    header: &Header,
    frame: u32,
) -> Result<Slice, DecodeError> {
    let mut info = SliceInfo {
        size: Size { width: header.columns, height: header.rows },
        format: Format::Dicom,
        frame,
        frames: header.frames,
        is_ct: false,
        inverted: false,
        voi: crate::domain::slice::Voi::None,
        range: None,
        spacing_mm: display::spacing(scope),
    };
    let samples = match header.photometric {
        Photometric::Monochrome1 | Photometric::Monochrome2 => {
            let rescale = display::modality(scope, header)?;
            let padding = display::padding(scope, header);
            let (values, range) = stored::modality(stored, header, &rescale, padding);
            // All are looked at: an early end costs more than it saves, since it hinders SIMD.
            if !values.iter().fold(true, |all, value| all & value.is_finite()) {
                return Err(DecodeError::unreadable("its pixel values are not finite"));
            }
            info.inverted = header.photometric == Photometric::Monochrome1;
            info.is_ct = display::is_ct(scope, &rescale);
            info.voi = display::voi(scope, header, &rescale)?;
            info.range = Some(range);
            Samples::Modality(modality_bytes(values))
        }
        Photometric::Palette => {
            let palette = lut::palette(scope.top(), header.signed)?;
            Samples::Rgb8(stored::rgb_of_palette(stored, header, &palette).into())
        }
        Photometric::YbrFull422 => match stored {
            Stored::Bytes { bytes, width: 8, .. } => {
                Samples::Rgb8(stored::rgb_of_422(bytes, header).into())
            }
            _ => return Err(DecodeError::unreadable("YBR_FULL_422 of 16 bits is not supported")),
        },
        Photometric::Rgb | Photometric::YbrFull | Photometric::YbrCodec => {
            if header.signed {
                return Err(DecodeError::unreadable("signed colour samples are not supported"));
            }
            Samples::Rgb8(stored::rgb(stored, header).into())
        }
    };
    Slice::new(info, samples).map_err(|error| DecodeError::unreadable(error.to_string()))
}
