//! The TensorRT engine: two prebuilt plans, encoder and decoder, through NVIDIA's libraries, which
//! are looked for at run time. The same binary builds, starts and says what is missing where there
//! are none.
//!
//! ```text
//! driver   libcuda, as functions that give errors        library   which libnvinfer, which version
//! cuda     context, stream, memory, graph                sys       slots of C++ tables, per major
//!    │                                                   callbacks logger → tracing, error recorder
//!    └────────────┬──────────────────────────────────────────┘
//!              runtime     IRuntime ▸ ICudaEngine ▸ IExecutionContext, each owning the next
//!              ports       names, types and shapes against the contract; memory behind them
//!              session     one call of the encoder, one of the decoder
//!              embeddings  on the device, least recently used to the host
//! ```
//!
//! Invariants:
//! 1. Order of start: libcuda, `cuInit`, device, context, and only then TensorRT, whose factory
//!    hands out garbage where CUDA does not run.
//! 2. A plan is given to TensorRT only after magic, version, device and free memory were checked;
//!    that its bytes are the package's, [`Package::read`] saw.
//! 3. A [`TensorRtBackend`] exists only if both plans have the contract's inputs and outputs with
//!    the manifest's sizes.
//! 4. Nothing leaves that is not finite and of the right shape; predicted IoU lies in 0..=1.
//!
//! It falls back to nothing: whether the same weights may run on the processor is the loader's
//! question. Of a GPU that it ran on, `engines/README.md` tells.

mod callbacks;
mod cuda;
mod driver;
mod embeddings;
mod library;
mod plan;
mod ports;
mod runtime;
mod session;
mod survey;
mod sys;

pub use cuda::{Device, NoDevice};
pub use driver::{CudaError, NoDriver};
pub use library::{Flavour, Found, Library, Unusable, Version};
pub use plan::{Header, HeaderError};
pub use ports::WrongPort;
pub use runtime::Refusal;
pub use survey::{Fit, PlanReport, Survey, survey};
pub use sys::Layout;

use super::package::manifest::{Manifest, Plan};
use super::package::{Package, PackageError, Role};
use super::{Backend, BackendError, EngineInfo, Identity, Options, contract};
use crate::domain::tensor::{Embedding, HostEmbedding, ImageTensor, MaskLogits, PromptBatch};
use cuda::{Context, Stream};
use embeddings::Embeddings;
use runtime::Runtime;
use session::{Decoder, Encoder, SessionError};
use std::path::Path;

/// SAM2 on an NVIDIA device. Fields go in this order: sessions before the stream they use.
pub struct TensorRtBackend {
    info: EngineInfo,
    encoder: Encoder,
    decoder: Decoder,
    embeddings: Embeddings,
}

/// Why a package can't be run here. The texts name the remedy, and may name folders.
#[derive(Debug, thiserror::Error)]
pub enum TensorRtError {
    /// A file of the package is not what it was.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The package is for another backend.
    #[error("the package has no [plan]: its files are not TensorRT plans")]
    NotPlans,
    /// No driver, no device.
    #[error(transparent)]
    Device(#[from] NoDevice),
    /// The plan is for another device.
    #[error(
        "the plan was built for {wanted}, this device is {found}: build it anew on this box (engines/README.md)"
    )]
    WrongDevice {
        /// From the manifest.
        wanted: String,
        /// This one.
        found: String,
    },
    /// A file is no plan.
    #[error("the {role} is no plan: {source}", role = role.name())]
    NotAPlan {
        /// Which file.
        role: Role,
        /// What it is instead.
        #[source]
        source: HeaderError,
    },
    /// Manifest and plan contradict each other.
    #[error(
        "engine.toml says TensorRT {manifest}, but the {role} plan was written by {plan}: the package is put together wrongly",
        role = role.name()
    )]
    OtherVersion {
        /// Which file.
        role: Role,
        /// From the manifest.
        manifest: String,
        /// From the plan's header.
        plan: String,
    },
    /// No library that could read the plan.
    #[error("{0}")]
    NoLibrary(String),
    /// There are libraries, none of which wrote the plan.
    #[error(
        "the plan was written by {plan}; this box has {found}: build it anew on this box, or install that TensorRT (engines/README.md)"
    )]
    WrongVersion {
        /// From the plan's header.
        plan: String,
        /// What is there.
        found: String,
    },
    /// TensorRT does not take it.
    #[error("TensorRT refuses the {role} plan: {refusal}", role = role.name())]
    Refused {
        /// Which file.
        role: Role,
        /// Its words.
        refusal: Refusal,
    },
    /// Other inputs or outputs than the manifest's.
    #[error("the plan does not follow the contract: {0}")]
    WrongPorts(String),
    /// Too little memory on the device.
    #[error("the {role} plan does not fit: {what}", role = role.name())]
    Memory {
        /// Which file.
        role: Role,
        /// What was asked for.
        what: String,
    },
    /// A call of the driver failed.
    #[error("CUDA failed while the {role} was loaded: {source}", role = role.name())]
    Cuda {
        /// Which file.
        role: Role,
        /// The call.
        #[source]
        source: CudaError,
    },
}

impl TensorRtError {
    /// What anyone may read: no path.
    #[must_use]
    pub fn public(&self) -> &'static str {
        match self {
            Self::Package(_) => "the engine package is missing, damaged or not the pinned one",
            Self::Device(NoDevice::NoDriver(_)) => "no NVIDIA driver on this box",
            Self::Device(NoDevice::OldDriver { .. }) => "the NVIDIA driver is too old",
            Self::Device(_) => "no usable NVIDIA device on this box",
            Self::WrongDevice { .. } => "the engine was built for another device",
            Self::NotAPlan { .. } | Self::NotPlans => "the engine's file is no TensorRT plan",
            Self::NoLibrary(_) => "TensorRT is not installed, or not a version that can be used",
            Self::OtherVersion { .. } | Self::WrongVersion { .. } => {
                "the engine was built by another version of TensorRT"
            }
            Self::Refused { .. } => "TensorRT refuses the engine",
            Self::WrongPorts(_) => "the engine has other inputs or outputs than its package says",
            Self::Memory { .. } => "too little device memory for the engine",
            Self::Cuda { .. } => "the NVIDIA device failed while the engine was loaded",
        }
    }

    /// Is the device lost for this process? Then only a new one helps.
    #[must_use]
    pub fn is_device_lost(&self) -> bool {
        match self {
            Self::Device(NoDevice::Cuda(error)) | Self::Cuda { source: error, .. } => {
                error.is_sticky()
            }
            _ => false,
        }
    }
}

impl TensorRtBackend {
    /// Loads both plans.
    ///
    /// # Errors
    /// Any [`TensorRtError`].
    pub fn load(package: &Package, options: &Options) -> Result<Self, TensorRtError> {
        let manifest = package.manifest();
        let Some(plan) = &manifest.plan else { return Err(TensorRtError::NotPlans) };
        let context = Context::start(options.device)?;
        let device = context.device().clone();
        check_device(plan, &device)?;
        let stream = Stream::new(&context).map_err(cuda(Role::Encoder))?;
        let shapes = contract::feature_shapes(manifest);

        let (library, engine) = open(package, Role::Encoder, plan, &stream, options)?;
        let encoder = Encoder::new(engine, manifest, &shapes, &stream, options.cuda_graphs)
            .map_err(session(Role::Encoder, &stream))?;
        let (_, engine) = open(package, Role::Decoder, plan, &stream, options)?;
        let decoder = Decoder::new(engine, manifest, &shapes, &stream)
            .map_err(session(Role::Decoder, &stream))?;
        if encoder.elements() != decoder.elements() {
            let words = "the encoder's features and the decoder's have different precisions";
            return Err(TensorRtError::WrongPorts(words.to_owned()));
        }
        let info = info(package, &library, &device, decoder.capacity());
        tracing::info!(library = %library.title(), path = %library.path.display(), device = %info.device, "TensorRT engine loaded");
        let lengths = shapes.each_ref().map(|shape| shape.iter().product());
        let budget = options.device_embeddings_bytes;
        let embeddings =
            Embeddings::new(&stream, encoder.elements(), lengths, budget, &info.fingerprint);
        Ok(Self { info, encoder, decoder, embeddings })
    }

    /// How many embeddings lie on the device, and does the encoder run as a recorded graph?
    #[must_use]
    pub fn residence(&self) -> (u64, bool) {
        (self.embeddings.on_device(), self.encoder.is_recorded())
    }
}

impl Backend for TensorRtBackend {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn encode(&mut self, image: &ImageTensor) -> Result<Embedding, BackendError> {
        contract::check_image(&self.info, image)?;
        let room = self.embeddings.room()?;
        self.encoder.run(image, &room)?;
        Ok(self.embeddings.keep(room))
    }

    fn decode(
        &mut self,
        embedding: &Embedding,
        prompts: &PromptBatch,
    ) -> Result<MaskLogits, BackendError> {
        contract::check_prompts(&self.info, prompts)?;
        let decoder = &mut self.decoder;
        self.embeddings.with(embedding, |features| decoder.run(features, prompts))
    }

    fn download(&mut self, embedding: &Embedding) -> Result<HostEmbedding, BackendError> {
        self.embeddings.download(embedding)
    }

    fn upload(&mut self, embedding: &HostEmbedding) -> Result<Embedding, BackendError> {
        self.embeddings.upload(embedding)
    }
}

/// A plan for one model of card runs on that model; TensorRT itself only warns.
fn check_device(plan: &Plan, device: &Device) -> Result<(), TensorRtError> {
    if plan.compute_capability == device.compute_capability && plan.device == device.name {
        return Ok(());
    }
    let words = |name: &str, capability: &str| format!("{name} (compute capability {capability})");
    Err(TensorRtError::WrongDevice {
        wanted: words(&plan.device, &plan.compute_capability),
        found: words(&device.name, &device.compute_capability),
    })
}

/// Reads a plan and has the right library read it.
fn open(
    package: &Package,
    role: Role,
    plan: &Plan,
    stream: &Stream,
    options: &Options,
) -> Result<(Library, runtime::Engine), TensorRtError> {
    let context = stream.context();
    let bytes = package.read(role)?;
    let header = Header::read(&bytes).map_err(|source| TensorRtError::NotAPlan { role, source })?;
    check_version(role, plan, header)?;
    let library = choose(header, options.tensorrt_path.as_deref())?;
    let free = context.free_bytes().map_err(cuda(role))?;
    // The weights go to the device as they lie in the plan, more or less.
    if bytes.len() as u64 > free {
        let what = format!("it has {} bytes, {free} are free on the device", bytes.len());
        return Err(TensorRtError::Memory { role, what });
    }
    let engine = Runtime::start(library.clone(), context)
        .and_then(|runtime| runtime.deserialize(&bytes))
        .map_err(|refusal| refused(role, refusal, stream))?;
    Ok((library, engine))
}

/// What the manifest says must be what the plan's header says, as far as it says anything.
fn check_version(role: Role, plan: &Plan, header: Header) -> Result<(), TensorRtError> {
    let Some(version) = header.version else { return Ok(()) };
    let written = version.to_string();
    let same = written.split('.').zip(plan.tensorrt.split('.')).all(|(a, b)| a == b);
    if same {
        return Ok(());
    }
    let manifest = plan.tensorrt.clone();
    Err(TensorRtError::OtherVersion { role, manifest, plan: written })
}

/// The library that can read a plan: the full one, else the lean one; RTX's for RTX's.
fn choose(header: Header, configured: Option<&Path>) -> Result<Library, TensorRtError> {
    let wanted = match header.version {
        None => vec![(Flavour::Rtx, 1)],
        Some(version) => vec![(Flavour::Full, version.major), (Flavour::Lean, version.major)],
    };
    let mut others = Vec::new();
    for (flavour, major) in &wanted {
        for found in library::find(*flavour, *major, configured) {
            match found {
                Found::Usable(library) if header.fits(library.flavour, library.version) => {
                    return Ok(library);
                }
                Found::Usable(library) => {
                    others.push(format!("{} ({})", library.title(), library.path.display()));
                }
                Found::Unusable(Unusable { path, why }) => {
                    others.push(format!("{} ({why})", path.display()));
                }
            }
        }
    }
    let plan = header.version.map_or("TensorRT-RTX".to_owned(), |v| format!("TensorRT {v}"));
    if !others.is_empty() {
        return Err(TensorRtError::WrongVersion { plan, found: others.join(", ") });
    }
    let files: Vec<_> = wanted.iter().map(|(flavour, major)| flavour.file(*major)).collect();
    Err(TensorRtError::NoLibrary(format!(
        "the plan needs {plan}, and no {} was found: install it, or name its folder in engine.tensorrt_path",
        files.join(" or ")
    )))
}

fn info(
    package: &Package,
    library: &Library,
    device: &Device,
    (prompts, points): (usize, usize),
) -> EngineInfo {
    let manifest: &Manifest = package.manifest();
    let Device { name, compute_capability, .. } = device;
    let runtime = library.title();
    EngineInfo {
        name: manifest.title(),
        backend: "tensorrt",
        device: format!("{name}, compute capability {compute_capability}, {runtime}"),
        input_size: manifest.input_size,
        embed_channels: manifest.embed_channels,
        masks: manifest.masks,
        max_prompts: manifest.limits.max_prompts.min(prompts),
        max_points: manifest.limits.max_points.min(points),
        fingerprint: Identity {
            package: package.digest(),
            backend: "tensorrt",
            runtime: &runtime,
            precision: &manifest.precision,
            compute_capability,
        }
        .fingerprint(),
    }
}

fn cuda(role: Role) -> impl FnOnce(CudaError) -> TensorRtError {
    move |source| match source.is_out_of_memory() {
        true => TensorRtError::Memory { role, what: source.to_string() },
        false => TensorRtError::Cuda { role, source },
    }
}

/// A session that was not made.
fn session(role: Role, stream: &Stream) -> impl FnOnce(SessionError) -> TensorRtError {
    move |error| match error {
        SessionError::Port(_) | SessionError::Shape(_) => {
            TensorRtError::WrongPorts(error.to_string())
        }
        SessionError::Memory { .. } => TensorRtError::Memory { role, what: error.to_string() },
        SessionError::Cuda(source) => cuda(role)(source),
        SessionError::TensorRt(refusal) => refused(role, refusal, stream),
    }
}

/// What TensorRT refused. Its words don't tell a lost device, so the device itself is asked.
fn refused(role: Role, refusal: Refusal, stream: &Stream) -> TensorRtError {
    match stream.synchronize() {
        Err(source) if source.is_sticky() => TensorRtError::Cuda { role, source },
        _ if refusal.out_of_memory => TensorRtError::Memory { role, what: refusal.to_string() },
        _ => TensorRtError::Refused { role, refusal },
    }
}

#[cfg(test)]
mod tests;
