//! One coded frame into stored values. Each codec checks the codestream's own geometry against the
//! data set's before it allocates anything by it.

pub(super) mod jpeg;
pub(super) mod jpeg2000;
pub(super) mod jpeg_ls;
pub(super) mod rle;

use super::header::Header;
use crate::imaging::decode::DecodeError;

/// A damaged or unsupported codestream.
fn broken(codec: &str, reason: impl std::fmt::Display) -> DecodeError {
    DecodeError::unreadable(format!("the {codec} pixel data is damaged or unsupported ({reason})"))
}

/// What a codestream says of itself.
struct Claim {
    width: usize,
    height: usize,
    components: usize,
    precision: u32,
}

/// Does it fit the data set?
fn check(codec: &str, claim: &Claim, header: &Header) -> Result<(), DecodeError> {
    let Claim { width, height, components, precision } = *claim;
    if (width, height) != (header.columns as usize, header.rows as usize) {
        let (columns, rows) = (header.columns, header.rows);
        let reason = format!("it is {width}×{height}, the data set says {columns}×{rows}");
        return Err(broken(codec, reason));
    }
    if components != header.samples as usize {
        return Err(broken(codec, format!("{components} components, not {}", header.samples)));
    }
    if precision > header.allocated {
        let reason = format!("{precision} bits a sample where {} fit", header.allocated);
        return Err(broken(codec, reason));
    }
    // Colour is scaled from its depth, so one of the two is wrong and the picture would be too: nearly black,
    // or white. Grey is shown through a window, whatever its depth.
    if header.samples == 3 && precision != header.stored {
        let reason =
            format!("{precision} bits a colour sample, the data set says {}", header.stored);
        return Err(broken(codec, reason));
    }
    Ok(())
}

/// Words as stored: bytes where 8 bits are allocated, little-endian words otherwise; and their bits.
fn stored(words: impl Iterator<Item = u16>, header: &Header) -> (Vec<u8>, u32) {
    if header.allocated == 8 {
        (words.map(|word| u8::try_from(word).unwrap_or(u8::MAX)).collect(), 8)
    } else {
        (words.flat_map(u16::to_le_bytes).collect(), 16)
    }
}
