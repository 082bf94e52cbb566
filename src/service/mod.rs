//! The use cases: segment, embed, preview. Knows no HTTP and no CUDA.

pub mod error;
pub mod request;
