//! Plain data that every room speaks in: slices, prompts, tensors, masks and keys.
//!
//! Architecture invariant: nothing here does I/O, is async, or knows serde. What a value promises,
//! its constructor checks; after that nobody checks again.

pub mod identity;
pub mod key;
pub mod mask;
pub mod prompt;
pub mod slice;
pub mod tensor;
