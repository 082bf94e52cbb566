//! The coded or plain bytes of one frame, wherever the file keeps them.

use super::dataset::DataSet;
use super::header::{Header, Photometric};
use crate::imaging::decode::DecodeError;
use dicom_core::Tag;
use std::borrow::Cow;

/// Bytes of one uncompressed frame out of one value that holds all of them.
///
/// # Errors
/// When the value is shorter than that frame's end.
pub(super) fn native<'a>(
    all: &'a [u8],
    header: &Header,
    frame: u32,
) -> Result<&'a [u8], DecodeError> {
    let length = native_length(header);
    let start = frame as usize * length;
    all.get(start..start + length).ok_or_else(|| {
        DecodeError::unreadable(format!(
            "its pixel data has {} bytes, frame {frame} ends at {}: the file is cut off or damaged",
            all.len(),
            start + length
        ))
    })
}

/// Bytes of one frame that were stored as big-endian words: each pair stands the other way round.
pub(super) fn unswapped(all: &[u8], header: &Header, frame: u32) -> Vec<u8> {
    let length = native_length(header);
    let start = frame as usize * length;
    (start..start + length).map(|at| all.get(at ^ 1).copied().unwrap_or(0)).collect()
}

/// Bytes of one frame of 8 bits or more.
pub(super) fn native_length(header: &Header) -> usize {
    let samples = match header.photometric {
        // Two pixels share a pair of chroma samples: PS3.3 C.7.6.3.1.2.
        Photometric::YbrFull422 => header.pixels().div_ceil(2) * 4,
        _ => header.pixels() * header.samples as usize,
    };
    samples * (header.allocated as usize).div_ceil(8)
}

/// One frame's codestream out of fragments; PS3.5 A.4.
///
/// # Errors
/// When nothing says which fragments are this frame's.
pub(super) fn encapsulated<'a>(
    set: &DataSet<'_>,
    offsets: &[u8],
    fragments: &[&'a [u8]],
    header: &Header,
    frame: u32,
) -> Result<Cow<'a, [u8]>, DecodeError> {
    let (frame, frames) = (frame as usize, header.frames as usize);
    let missing = || DecodeError::unreadable(format!("frame {frame} is missing in the pixel data"));
    if frames == 1 {
        return join(fragments).ok_or_else(missing);
    }
    let table: Vec<u64> = match (offsets.is_empty(), set.bytes(Tag(0x7FE0, 0x0001))) {
        (false, Some(extended)) if little_endian::<8>(extended) != little_endian::<4>(offsets) => {
            // PS3.5 A.4: beside the extended table the basic one is empty.
            return Err(DecodeError::unreadable("its two tables of frames contradict each other"));
        }
        (false, _) => little_endian::<4>(offsets),
        (true, Some(extended)) => little_endian::<8>(extended),
        (true, None) => starts(fragments, frames).ok_or_else(|| {
            DecodeError::unreadable(format!(
                "nothing says which of {} fragments make up frame {frame} of {frames}",
                fragments.len()
            ))
        })?,
    };
    if table.len() < frames {
        return Err(missing());
    }
    let start = *table.get(frame).ok_or_else(missing)?;
    let end = table.get(frame + 1).copied().unwrap_or(u64::MAX);
    let mut position = 0;
    let mut own = Vec::new();
    for fragment in fragments {
        if (start..end).contains(&position) {
            own.push(*fragment);
        }
        position += 8 + fragment.len() as u64;
    }
    join(&own).ok_or_else(missing)
}

/// Offsets of the fragments that begin frames, where no table says so: one fragment a frame, or
/// those that begin a codestream (JPEG and JPEG 2000 do so recognisably).
fn starts(fragments: &[&[u8]], frames: usize) -> Option<Vec<u64>> {
    let begins = |fragment: &[u8]| {
        fragment.starts_with(&[0xFF, 0xD8, 0xFF]) || fragment.starts_with(&[0xFF, 0x4F, 0xFF, 0x51])
    };
    let every = fragments.len() == frames;
    let mut position = 0;
    let mut table = Vec::new();
    for fragment in fragments {
        if every || begins(fragment) {
            table.push(position);
        }
        position += 8 + fragment.len() as u64;
    }
    (table.len() == frames).then_some(table)
}

fn little_endian<const N: usize>(bytes: &[u8]) -> Vec<u64> {
    let value =
        |field: &[u8]| field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
    bytes.chunks_exact(N).map(value).collect()
}

fn join<'a>(fragments: &[&'a [u8]]) -> Option<Cow<'a, [u8]>> {
    match fragments {
        [] => None,
        [only] => Some(Cow::Borrowed(only)),
        several => Some(Cow::Owned(several.concat())),
    }
}
