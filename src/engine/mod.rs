//! Engines: the seam to whatever runs SAM2, the packages it is loaded from, and the one thread that
//! owns it.
//!
//! Architecture invariant: a [`Backend`] is blocking, not shared, and owned by exactly one thread
//! ([`worker`]); everyone else holds a handle. Nothing here knows HTTP, the cache or a request.

pub mod cpu;
pub mod package;
pub mod tensorrt;
pub mod worker;

use crate::domain::tensor::{Embedding, HostEmbedding, ImageTensor, MaskLogits, PromptBatch};

/// What a loaded engine is.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineInfo {
    /// Package name and version, for example `sam2-nano 1.0.0`.
    pub name: String,
    /// `cpu` or `tensorrt`.
    pub backend: &'static str,
    /// Where it runs: the processor, or the card's name and compute capability.
    pub device: String,
    /// S: side of the square encoder input.
    pub input_size: usize,
    /// C: channels of `image_embed`.
    pub embed_channels: usize,
    /// M: masks per prompt (1, 3 or 4).
    pub masks: usize,
    /// Most prompts in one decoder call.
    pub max_prompts: usize,
    /// Most point rows in one prompt.
    pub max_points: usize,
    /// Hex SHA-256 of manifest digest, backend, runtime version, precision and compute capability:
    /// part of every key, so that no engine ever answers with another's results.
    pub fingerprint: String,
}

/// Why an engine call failed, by what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The input doesn't fit this engine; a bug of the caller.
    #[error("{0}")]
    BadInput(String),
    /// The engine gave something that is no answer (wrong shape, NaN, IoU outside 0..1).
    #[error("the engine's {stage} output is not usable: {what}")]
    BadOutput {
        /// `encoder` or `decoder`.
        stage: &'static str,
        /// What was wrong.
        what: String,
    },
    /// Out of device or host memory; the next request may work.
    #[error("out of memory in {stage}: {what}")]
    OutOfMemory {
        /// `encoder` or `decoder`.
        stage: &'static str,
        /// What was asked for.
        what: String,
    },
    /// The call failed; another may work.
    #[error("{stage} failed: {what}")]
    Failed {
        /// `encoder` or `decoder`.
        stage: &'static str,
        /// The runtime's words.
        what: String,
    },
    /// The device is lost for this process (sticky CUDA error): only a restart helps.
    #[error("the device is lost: {0}")]
    DeviceLost(String),
}

/// Something that runs SAM2. Blocking; owned by exactly one thread.
pub trait Backend: Send {
    /// What it is.
    fn info(&self) -> &EngineInfo;

    /// Runs the image encoder.
    ///
    /// # Errors
    /// Any [`BackendError`]; never a partial embedding.
    fn encode(&mut self, image: &ImageTensor) -> Result<Embedding, BackendError>;

    /// Runs the mask decoder for a batch of prompts on one embedding.
    ///
    /// # Errors
    /// Any [`BackendError`]; non-finite logits or an IoU outside 0..1 is `BadOutput`.
    fn decode(
        &mut self,
        embedding: &Embedding,
        prompts: &PromptBatch,
    ) -> Result<MaskLogits, BackendError>;

    /// Copies an embedding to host memory, for the disk.
    ///
    /// # Errors
    /// `BadInput` for an embedding of another backend; device errors.
    fn download(&mut self, embedding: &Embedding) -> Result<HostEmbedding, BackendError>;

    /// The way back.
    ///
    /// # Errors
    /// `BadInput` when the lengths don't fit this engine; device errors.
    fn upload(&mut self, embedding: &HostEmbedding) -> Result<Embedding, BackendError>;
}
