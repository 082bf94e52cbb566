//! One coded frame into stored values. Each codec checks the codestream's own geometry against the
//! data set's before it allocates anything by it.

pub(super) mod jpeg;
pub(super) mod jpeg2000;
pub(super) mod rle;

use crate::imaging::decode::DecodeError;

/// A damaged or unsupported codestream.
fn broken(codec: &str, reason: impl std::fmt::Display) -> DecodeError {
    DecodeError::unreadable(format!("the {codec} pixel data is damaged or unsupported ({reason})"))
}
