//! Content addresses: SHA-256 over a domain tag, a format version and length-prefixed fields.
//!
//! Invariants:
//! 1. No two different sequences of fields hash the same bytes: every field carries its length, and
//!    every kind of key its own tag.
//! 2. Nothing that identifies a patient is ever a field.
//! 3. A key of one kind can't be passed for another's: each is a type of its own.

use sha2::{Digest, Sha256};
use std::fmt;

/// Changes whenever decode, preprocess or postprocess would give other pixels for the same bytes;
/// every key depends on it.
pub const PIPELINE_VERSION: u32 = 1;

/// A SHA-256 sum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sum(pub [u8; 32]);

impl Sum {
    /// Of some bytes, plain (no tag): to compare with a published sum.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// 64 lower-case hex digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// From 64 hex digits, either case.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let mut sum = [0; 32];
        for (byte, pair) in sum.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(sum))
    }
}

impl fmt::Debug for Sum {
    /// The first 8 hex digits: enough to tell entries apart in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Sum);
    };
}

key! {
    /// Names uploaded bytes and a frame, for this pipeline: repeated bytes skip parsing.
    AliasKey
}
key! {
    /// Names decoded pixels: geometry, sample type, values, MONOCHROME1, frame.
    ContentKey
}
key! {
    /// Names a decoded frame under one resolved window; its hex is the wire's `image.id`.
    ImageKey
}
key! {
    /// Names what one engine's encoder makes of an [`ImageKey`].
    EmbeddingKey
}
key! {
    /// Names a whole answer: an [`EmbeddingKey`] with prompt, context and post-processing. Its hex
    /// is the wire's `mask_id`.
    AnswerKey
}

/// Builds a key field by field.
#[derive(Clone)]
pub struct KeyBuilder(Sha256);

impl KeyBuilder {
    /// Starts with the tag of a kind (`"image"`, `"answer"`…) and the pipeline's version.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        let builder = Self(Sha256::new());
        builder.bytes(b"sam2d").bytes(tag.as_bytes()).number(u64::from(PIPELINE_VERSION))
    }

    /// A field of bytes, length first.
    #[must_use]
    pub fn bytes(mut self, field: &[u8]) -> Self {
        self.0.update((field.len() as u64).to_le_bytes());
        self.0.update(field);
        self
    }

    /// A whole number.
    #[must_use]
    pub fn number(self, field: u64) -> Self {
        self.bytes(&field.to_le_bytes())
    }

    /// A real number, by its bits; `−0.0` counts as `0.0`.
    #[must_use]
    pub fn real(self, field: f64) -> Self {
        self.bytes(&(field + 0.0).to_bits().to_le_bytes())
    }

    /// The key.
    #[must_use]
    pub fn finish(self) -> Sum {
        Sum(self.0.finalize().into())
    }
}

/// Two lower-case hex digits a byte.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(if half < 10 { b'0' + half } else { b'a' - 10 + half });
    let mut text = String::with_capacity(2 * bytes.len());
    text.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_told_apart_by_length() {
        let one = KeyBuilder::new("t").bytes(b"ab").bytes(b"c").finish();
        let other = KeyBuilder::new("t").bytes(b"a").bytes(b"bc").finish();
        assert_ne!(one, other);
        assert_ne!(one, KeyBuilder::new("u").bytes(b"ab").bytes(b"c").finish());
    }

    #[test]
    fn hex_round_trips_and_refuses_anything_else() {
        let sum = Sum::of(b"abc");
        assert_eq!(Sum::from_hex(&sum.to_hex()), Some(sum));
        assert!(sum.to_hex().starts_with("ba7816bf"));
        assert_eq!(Sum::from_hex("zz"), None);
        assert_eq!(Sum::from_hex(&"+1".repeat(32)), None);
    }
}
