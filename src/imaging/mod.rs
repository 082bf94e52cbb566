//! Pixels in and masks out: pure functions, and the child process that parses what strangers send.

pub mod body;
pub(crate) mod components;
pub mod decode;
pub mod decoder;
mod dicom;
mod jpeg;
mod jpeg_ls;
mod levels;
pub mod outline;
pub mod overlay;
pub mod png;
pub mod postprocess;
pub mod preprocess;
mod raster;
pub(crate) mod resample;
pub mod seg;
pub mod sniff;
pub mod window;

pub use levels::Levels;
