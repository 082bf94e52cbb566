//! The golden self-test, composed: picture → tensor → engine → mask → comparison.
//!
//! It takes the same road as a request (render, preprocess, encode, decode, choose, upsample), so
//! that a package is READY only if that road gives the mask that the package promises. The picture
//! is the package's own, its sum checked, and is decoded in this process.

use crate::domain::mask::{ImageType, Mask};
use crate::domain::prompt::Prompt;
use crate::domain::slice::Size;
use crate::domain::tensor::{Embedding, PromptBatch};
use crate::engine::package::Package;
use crate::engine::package::golden::{Observed, Report, check};
use crate::engine::select::{PromptKind, choose};
use crate::engine::{Backend, BackendError};
use crate::imaging::{Levels, decode, png, postprocess, preprocess, window};
use std::time::Instant;

/// A passed self-test, with what the health probe and the overlay picture need.
#[derive(Debug)]
pub struct Passed {
    /// What was seen.
    pub report: Report,
    /// Of the golden picture.
    pub embedding: Embedding,
    /// The golden prompt, in pixels of the picture.
    pub prompt: Prompt,
    /// The same, as the decoder takes it.
    pub batch: PromptBatch,
    /// The picture.
    pub levels: Levels,
    /// Its size.
    pub size: Size,
}

/// Why an engine must not serve.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The picture or the mask of the package can't be used.
    #[error("the package's golden {what} can't be used: {why}")]
    Package {
        /// `image`, `mask` or `prompt`.
        what: &'static str,
        /// In words.
        why: String,
    },
    /// The engine failed on it.
    #[error("the engine failed on the golden image: {0}")]
    Engine(#[from] BackendError),
    /// The engine gave something else.
    #[error("the engine failed its self-test: {0}")]
    Golden(#[from] crate::engine::package::golden::GoldenError),
}

/// Runs the self-test; blocking, on the thread that owns the backend.
///
/// # Errors
/// Any [`SelfTestError`]: the package must not be used.
pub fn run(package: &Package, backend: &mut dyn Backend) -> Result<Passed, SelfTestError> {
    let bad = |what| move |why: String| SelfTestError::Package { what, why };
    let slice = decode::decode(package.golden_image(), None, &decode::Limits::default())
        .map_err(|error| bad("image")(error.to_string()))?;
    let size = slice.size();
    let (rendering, _) = window::resolve(slice.info(), None, ImageType::Auto)
        .map_err(|error| bad("image")(error.to_string()))?;
    let levels = window::render(&slice, &rendering);
    let golden = &package.manifest().golden;
    let (clicks, bounds) = golden.prompt();
    let prompt = Prompt::new(size, clicks, bounds, None, 64)
        .map_err(|error| bad("prompt")(error.to_string()))?;
    let reference: Mask = png::decode_mask(package.golden_mask(), size)
        .map_err(|error| bad("mask")(error.to_string()))?;

    let info = backend.info().clone();
    let tensor = preprocess::tensor(&levels, size, info.input_size)
        .ok_or_else(|| bad("image")("it has no pixels".to_owned()))?;
    let start = Instant::now();
    let embedding = backend.encode(&tensor)?;
    let encode = start.elapsed();
    let batch = super::rows::batch(&prompt, size, info.input_size);
    let start = Instant::now();
    let masks = backend.decode(&embedding, &batch)?;
    let decode = start.elapsed();
    let unusable = |what: &str| BackendError::BadOutput { stage: "decoder", what: what.to_owned() };
    let chosen = choose(&masks, 0, package.manifest().selection, PromptKind::of(&batch))
        .ok_or_else(|| unusable("no mask to choose"))?;
    let logits = masks.mask(0, chosen.mask).ok_or_else(|| unusable("no such mask"))?;
    let mask = postprocess::threshold(logits, masks.side, size)
        .ok_or_else(|| unusable("logits of another size"))?;
    let observed = Observed { mask, iou: chosen.iou, encode, decode };
    let report = check(golden, &reference, observed)?;
    Ok(Passed { report, embedding, prompt, batch, levels, size })
}
