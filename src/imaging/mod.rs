//! Pixels in and masks out: pure functions, and the child process that parses what strangers send.

pub(crate) mod components;
mod levels;
pub mod outline;
pub mod png;
pub mod postprocess;
pub mod preprocess;

pub use levels::Levels;
