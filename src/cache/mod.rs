//! The on-disk cache: content-addressed, hashed, mapped.
