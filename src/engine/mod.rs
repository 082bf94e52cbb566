//! Engines: the seam to whatever runs SAM2, the packages it is loaded from, and the one thread that
//! owns it.
//!
//! Architecture invariant: a [`Backend`] is blocking, not shared, and owned by exactly one thread
//! ([`worker`]); everyone else holds a handle. Nothing here knows HTTP, the cache or a request.

mod contract;
pub mod cpu;
#[cfg(feature = "faults")]
pub mod faults;
pub mod package;
pub mod select;
pub mod tensorrt;
pub mod worker;

use crate::domain::key::{KeyBuilder, Sum};
use crate::domain::tensor::{Embedding, HostEmbedding, ImageTensor, MaskLogits, PromptBatch};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `[engine]`: which engine, and when it counts as broken.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The package's folder, or its name in an engine folder. Unset: the one package that is
    /// installed (with several, one must be named here), else the embedded one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// SHA-256 of the package's `engine.toml`: any other package is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Exit with 69 instead of serving in manual-only mode when there is no engine at start.
    pub required: bool,
    /// Serve the embedded demonstration engine on a non-loopback address too.
    pub allow_demonstration: bool,
    /// Run the same package's ONNX files (its manifest's `[fallback]`) on the CPU when its plans
    /// can't be loaded here. Minutes instead of milliseconds with large models, so it must be asked
    /// for; every answer then says it.
    pub cpu_fallback: bool,
    /// Threads of the CPU engine; 0 takes the physical cores.
    pub cpu_threads: usize,
    /// Which NVIDIA device, as the driver counts them.
    pub device: u32,
    /// Folder of TensorRT's libraries, or a Python environment that has them. Unset: where the
    /// loader, JetPack and Debian keep them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensorrt_path: Option<PathBuf>,
    /// Device memory for embeddings; beyond it the least recently used go to host memory. One of
    /// SAM2.1 is 8 MiB in fp16: the last 32 of them are as many slices as a person goes back to.
    pub device_embeddings_bytes: u64,
    /// Record the encoder as a CUDA graph: one launch instead of hundreds.
    pub cuda_graphs: bool,
    /// An encoder or decoder call past this is a hang: the process ends with 70 and is started
    /// anew. A minute is ten times SAM2.1-large's encoder on one slow core.
    pub hang_s: u64,
    /// Loading past this is a hang. Reading a plan of a gigabyte from an SD card takes minutes.
    pub load_hang_s: u64,
    /// Failed inferences in a row after which the mode is manual-only.
    pub max_failures: u32,
    /// In manual-only mode the package is tried again after this…
    pub retry_first_s: u64,
    /// …and after twice the time whenever it fails, up to this.
    pub retry_max_s: u64,
    /// Jobs that may wait for the engine. Each encode holds its picture, 12.6 MB at S = 1024: 64
    /// are 0.8 GB. The deadline usually refuses earlier.
    pub max_queue: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            path: None,
            sha256: None,
            required: false,
            allow_demonstration: false,
            cpu_fallback: false,
            cpu_threads: 0,
            device: 0,
            tensorrt_path: None,
            device_embeddings_bytes: 256 << 20,
            cuda_graphs: true,
            hang_s: 60,
            load_hang_s: 600,
            max_failures: 3,
            retry_first_s: 5,
            retry_max_s: 300,
            max_queue: 64,
        }
    }
}

impl Options {
    /// What is wrong with these keys, in words that say what to write; empty when nothing is.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.sha256.as_deref().is_some_and(|sum| Sum::from_hex(sum).is_none()) {
            faults.push("engine.sha256 must be the 64 hex digits of a SHA-256 sum".to_owned());
        }
        for (name, value) in [
            ("hang_s", self.hang_s),
            ("load_hang_s", self.load_hang_s),
            ("max_failures", u64::from(self.max_failures)),
            ("retry_first_s", self.retry_first_s),
            ("max_queue", self.max_queue as u64),
        ] {
            if value == 0 {
                faults.push(format!("engine.{name} must not be 0"));
            }
        }
        if self.retry_max_s < self.retry_first_s {
            faults.push("engine.retry_max_s must not be below engine.retry_first_s".to_owned());
        }
        faults
    }
}

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

/// What makes two engines' results interchangeable.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// Digest of the package's manifest.
    pub package: Sum,
    /// `cpu` or `tensorrt`.
    pub backend: &'a str,
    /// Name and version of the runtime library.
    pub runtime: &'a str,
    /// As in the manifest.
    pub precision: &'a str,
    /// Of the card; of the processor its architecture.
    pub compute_capability: &'a str,
}

impl Identity<'_> {
    /// For [`EngineInfo::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> String {
        KeyBuilder::new("engine")
            .bytes(&self.package.0)
            .bytes(self.backend.as_bytes())
            .bytes(self.runtime.as_bytes())
            .bytes(self.precision.as_bytes())
            .bytes(self.compute_capability.as_bytes())
            .finish()
            .to_hex()
    }
}

/// Why an engine call failed, by what the caller can do.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
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
