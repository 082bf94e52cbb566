//! Pixels in and masks out: pure functions, and the child process that parses what strangers send.

mod levels;

pub use levels::Levels;
