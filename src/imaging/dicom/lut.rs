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
/// A missing or damaged table; segmented ones.
pub(super) fn palette(set: &DataSet<'_>, signed: bool) -> Result<[Lut; 3], DecodeError> {
    if set.bytes(Tag(0x0028, 0x1201)).is_none() && set.bytes(Tag(0x0028, 0x1221)).is_some() {
        return Err(DecodeError::unreadable("segmented colour palettes are not supported"));
    }
    let table =
        |colour: u16| read(set, Tag(0x0028, 0x1101 + colour), Tag(0x0028, 0x1201 + colour), signed);
    Ok([table(0)?, table(1)?, table(2)?])
}

fn read(set: &DataSet<'_>, descriptor: Tag, data: Tag, signed: bool) -> Result<Lut, DecodeError> {
    let missing = || DecodeError::unreadable("a lookup table is missing or damaged");
    let mut words = set.unsigned_all(descriptor);
    let (Some(count), Some(first), Some(bits)) = (words.next(), words.next(), words.next()) else {
        return Err(missing());
    };
    // 0 says 65,536, which does not fit.
    let count = if count == 0 { 65_536 } else { usize::from(count) };
    let signed = set.vr(descriptor).map_or(signed, |vr| &vr == b"SS");
    let first = if signed { i32::from(first.cast_signed()) } else { i32::from(first) };
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
