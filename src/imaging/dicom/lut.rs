//! Lookup tables: modality LUT and VOI LUT (PS3.3 C.11.1, C.11.2), palettes (C.7.6.3.1.5).

use super::dataset::DataSet;
use crate::domain::slice::VoiLut;
use crate::imaging::decode::DecodeError;
use dicom_core::Tag;

const DESCRIPTOR: Tag = Tag(0x0028, 0x3002);
const DATA: Tag = Tag(0x0028, 0x3006);

/// A table: entry of `value − first`, clamped to its ends.
#[derive(Clone, Debug)]
pub(super) struct Lut {
    pub(super) first: i32,
    pub(super) bits: u32,
    entries: Vec<u16>,
}

impl Lut {
    /// Entry for a stored value.
    pub(super) fn at(&self, value: f64) -> u16 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float cast saturates: below the first is the first"
        )]
        let index = (value - f64::from(self.first)).max(0.0) as usize;
        let last = self.entries.len().saturating_sub(1);
        self.entries.get(index.min(last)).copied().unwrap_or(0)
    }

    pub(super) fn into_voi(self) -> Option<VoiLut> {
        let bits = u8::try_from(self.bits).ok().filter(|bits| (8..=16).contains(bits))?;
        Some(VoiLut { first: self.first, bits, levels: self.entries })
    }
}

/// The first item of a modality or VOI LUT sequence. `signed`: its input values may be negative.
///
/// # Errors
/// A table that does not hold what its descriptor says.
pub(super) fn of_item(item: &DataSet<'_>, signed: bool) -> Result<Lut, DecodeError> {
    read(item, DESCRIPTOR, DATA, signed)
}

/// Red, green and blue of a palette.
///
/// # Errors
/// A missing or damaged table, or one of other than the 8 or 16 bits that there are.
pub(super) fn palette(set: &DataSet<'_>, signed: bool) -> Result<[Lut; 3], DecodeError> {
    let table = |colour: u16| {
        let descriptor = Tag(0x0028, 0x1101 + colour);
        let segmented = Tag(0x0028, 0x1221 + colour);
        match set.bytes(segmented) {
            Some(bytes) => read_segmented(set, descriptor, segmented, bytes, signed),
            None => read(set, descriptor, Tag(0x0028, 0x1201 + colour), signed),
        }
        .and_then(|lut| match lut.bits {
            8 | 16 => Ok(lut),
            bits => {
                Err(DecodeError::unreadable(format!("a palette of {bits} bits is not supported")))
            }
        })
    };
    Ok([table(0)?, table(1)?, table(2)?])
}

fn missing() -> DecodeError {
    DecodeError::unreadable("a lookup table is missing or damaged")
}

/// Number of entries, first input value, bits of an entry.
fn described(
    set: &DataSet<'_>,
    descriptor: Tag,
    signed: bool,
) -> Result<(usize, i32, u16), DecodeError> {
    let mut words = set.unsigned_all(descriptor);
    let (Some(count), Some(first), Some(bits)) = (words.next(), words.next(), words.next()) else {
        return Err(missing());
    };
    // 0 says 65,536, which does not fit.
    let count = if count == 0 { 65_536 } else { usize::from(count) };
    let signed = set.vr(descriptor).map_or(signed, |vr| &vr == b"SS");
    let first = if signed { i32::from(first.cast_signed()) } else { i32::from(first) };
    Ok((count, first, bits))
}

fn read(set: &DataSet<'_>, descriptor: Tag, data: Tag, signed: bool) -> Result<Lut, DecodeError> {
    let (count, first, bits) = described(set, descriptor, signed)?;
    let bytes = set.bytes(data).ok_or_else(missing)?;
    // 8-bit entries come one a byte, or one a word.
    let entries: Vec<u16> = if bits == 8 && bytes.len() < 2 * count {
        bytes.iter().copied().map(u16::from).take(count).collect()
    } else {
        set.unsigned_all(data).take(count).collect()
    };
    if entries.len() != count {
        return Err(missing());
    }
    Ok(Lut { first, bits: u32::from(bits), entries })
}

/// PS3.3 C.7.9.2: runs, ramps, and references to earlier ones.
fn read_segmented(
    set: &DataSet<'_>,
    descriptor: Tag,
    data: Tag,
    bytes: &[u8],
    signed: bool,
) -> Result<Lut, DecodeError> {
    let (count, first, bits) = described(set, descriptor, signed)?;
    let narrow = bits == 8;
    let words: Vec<u16> = if narrow {
        bytes.iter().copied().map(u16::from).collect()
    } else {
        set.unsigned_all(data).collect()
    };
    let mut segments = Segments { words: &words, narrow, entries: Vec::new(), count };
    let mut at = 0;
    while at < words.len() && segments.entries.len() < count {
        at = segments.expand(at, true).ok_or_else(missing)?;
    }
    let entries = segments.entries;
    if entries.len() != count {
        return Err(missing());
    }
    Ok(Lut { first, bits: u32::from(bits), entries })
}

struct Segments<'w> {
    words: &'w [u16],
    narrow: bool,
    entries: Vec<u16>,
    /// No more than these.
    count: usize,
}

impl Segments<'_> {
    /// Expands the segment that begins there; where the next one does.
    fn expand(&mut self, at: usize, may_refer: bool) -> Option<usize> {
        let (&operation, &length) = (self.words.get(at)?, self.words.get(at + 1)?);
        let (start, length) = (at + 2, usize::from(length));
        match operation {
            0 => {
                self.entries.extend_from_slice(self.words.get(start..start + length)?);
                self.check(start + length)
            }
            1 => {
                let from = f64::from(*self.entries.last()?);
                let to = f64::from(*self.words.get(start)?);
                let step = |index: usize| index as f64 / length as f64;
                let ramp = (1..=length).map(|index| from + (to - from) * step(index));
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between two u16, rounded to even as numpy does"
                )]
                self.entries.extend(ramp.map(|entry| entry.round_ties_even() as u16));
                self.check(start + 1)
            }
            2 if may_refer => {
                let part = |index: usize| self.words.get(start + index).map(|&w| usize::from(w));
                let (offset, after) = if self.narrow {
                    let bytes = [part(0)?, part(1)?, part(2)?, part(3)?];
                    (bytes.iter().rev().fold(0, |offset, byte| offset << 8 | byte), start + 4)
                } else {
                    ((part(0)? | part(1)? << 16) / 2, start + 2)
                };
                let mut at = offset;
                for _ in 0..length {
                    at = self.expand(at, false)?;
                }
                Some(after)
            }
            _ => None,
        }
    }

    fn check(&self, next: usize) -> Option<usize> {
        (self.entries.len() <= self.count).then_some(next)
    }
}
