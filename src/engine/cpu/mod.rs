//! The CPU engine: `rten`, pure Rust, f32 in and out.
//!
//! Invariants:
//! 1. A [`CpuBackend`] exists only if both graphs declare the contract's inputs and outputs with the
//!    manifest's sizes, and nothing that the runtime would compute differently.
//! 2. Nothing leaves that is not finite and of the right shape; predicted IoU lies in 0..=1.
//! 3. It computes on a thread pool of its own, of the configured size, never on the global one.
//!
//! It cannot interrupt a running inference: deadlines are kept by the queue in front of it.

mod graph;

pub use graph::GraphError;

use super::contract::{
    self, ANSWERS, FEATURES, IMAGE, OBJECT_SCORE, PROMPTS, bad_output, feature_shapes, within_unit,
};
use super::package::manifest::{Format, Manifest};
use super::package::{Package, PackageError, Role};
use super::{Backend, BackendError, EngineInfo, Identity};
use crate::domain::tensor::{Embedding, HostEmbedding, ImageTensor, MaskLogits, PromptBatch};
use graph::{Declared, Dim};
use rten::{Model, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use rten_tensor::prelude::*;
use rten_tensor::{Tensor, TensorView};
use std::sync::Arc;

/// `rten` as locked in Cargo.lock (a test compares): part of the fingerprint.
const RUNTIME: &str = "rten 0.27.0";

/// SAM2 on the processor.
pub struct CpuBackend {
    info: EngineInfo,
    encoder: Model,
    decoder: Model,
    image: NodeId,
    encoder_outputs: [NodeId; 3],
    decoder_features: [NodeId; 3],
    decoder_prompts: [NodeId; 4],
    /// `masks`, `iou_predictions` and, where the file has it, `object_score_logits`.
    decoder_outputs: Vec<NodeId>,
    /// `has_mask_input` is `[1]` in some exports and `[B]` in others.
    one_mask_flag: bool,
    shapes: [Vec<usize>; 3],
    options: RunOptions,
}

/// Host tensors in the order of [`FEATURES`].
struct CpuEmbedding([Tensor<f32>; 3]);

/// Why a package can't be loaded on the CPU.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// A file of the package is not what it was.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The package is for another backend.
    #[error("{role} is a TensorRT plan; the CPU engine needs ONNX files")]
    NotOnnx {
        /// `encoder` or `decoder`.
        role: &'static str,
    },
    /// The file does not follow the contract or the manifest.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The runtime refuses the file.
    #[error("{role}: {what}")]
    Runtime {
        /// `encoder` or `decoder`.
        role: &'static str,
        /// The runtime's words.
        what: String,
    },
}

impl CpuBackend {
    /// Loads both models; `threads` 0 takes the physical cores this process may use.
    ///
    /// # Errors
    /// Any [`CpuError`].
    pub fn load(package: &Package, threads: usize) -> Result<Self, CpuError> {
        let manifest = package.manifest();
        let shapes = feature_shapes(manifest);
        let (encoder, _) = open(package, Role::Encoder, |declared| {
            let side = manifest.input_size;
            declared.expect(IMAGE, &[Dim::Is(1), Dim::Is(3), Dim::Is(side), Dim::Is(side)])?;
            expect_features(declared, &shapes)
        })?;
        let (decoder, declared) = open(package, Role::Decoder, |declared| {
            expect_features(declared, &shapes)?;
            expect_prompts(declared, manifest)
        })?;
        let mut answers = ANSWERS.to_vec();
        if declared.has(OBJECT_SCORE) {
            answers.push(OBJECT_SCORE);
        }
        let threads = if threads == 0 { usable_cores() } else { threads };
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        Ok(Self {
            info: info(package, threads),
            image: node(&encoder, Role::Encoder, IMAGE)?,
            encoder_outputs: nodes(&encoder, Role::Encoder, FEATURES)?,
            decoder_features: nodes(&decoder, Role::Decoder, FEATURES)?,
            decoder_prompts: nodes(&decoder, Role::Decoder, PROMPTS)?,
            decoder_outputs: answers
                .into_iter()
                .map(|name| node(&decoder, Role::Decoder, name))
                .collect::<Result<_, _>>()?,
            one_mask_flag: declared.is_single("has_mask_input"),
            shapes,
            options: RunOptions::default().with_thread_pool(Some(pool)),
            encoder,
            decoder,
        })
    }

    fn tensors<'e>(&self, embedding: &'e Embedding) -> Result<&'e [Tensor<f32>; 3], BackendError> {
        let tensors = embedding.downcast_ref::<CpuEmbedding>().map(|CpuEmbedding(tensors)| tensors);
        let fits = |tensors: &&[Tensor<f32>; 3]| {
            tensors.iter().zip(&self.shapes).all(|(tensor, shape)| *tensor.shape() == shape[..])
        };
        tensors.filter(fits).ok_or_else(|| {
            BackendError::BadInput("the embedding is not one of this engine's".into())
        })
    }

    fn mask_side(&self) -> usize {
        self.info.input_size / 4
    }
}

impl Backend for CpuBackend {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn encode(&mut self, image: &ImageTensor) -> Result<Embedding, BackendError> {
        contract::check_image(&self.info, image)?;
        let side = self.info.input_size;
        let input = TensorView::from_data(&[1, 3, side, side], image.data());
        let outputs = self
            .encoder
            .run(
                vec![(self.image, input.into())],
                &self.encoder_outputs,
                Some(self.options.clone()),
            )
            .map_err(|error| BackendError::Failed { stage: "encoder", what: error.to_string() })?;
        let mut outputs = outputs.into_iter().zip(FEATURES).zip(&self.shapes);
        let mut next = || match outputs.next() {
            Some(((value, name), shape)) => {
                let data = checked("encoder", name, value, shape)?;
                Ok(Tensor::from_data(shape.as_slice(), data))
            }
            None => Err(bad_output("encoder", "fewer outputs than asked for".into())),
        };
        Ok(kept([next()?, next()?, next()?]))
    }

    fn decode(
        &mut self,
        embedding: &Embedding,
        prompts: &PromptBatch,
    ) -> Result<MaskLogits, BackendError> {
        let features = self.tensors(embedding)?;
        contract::check_prompts(&self.info, prompts)?;
        let (batch, points, side) =
            (prompts.batch(), prompts.points_per_prompt(), self.mask_side());
        let coords: Vec<f32> = prompts.rows().iter().flat_map(|row| [row.x, row.y]).collect();
        let labels: Vec<f32> = prompts.rows().iter().map(|row| row.label.value()).collect();
        let nothing =
            vec![0.0; if prompts.mask_input().is_none() { batch * side * side } else { 0 }];
        let mask: &[f32] = prompts.mask_input().map_or(&nothing, |mask| mask);
        let flags = if self.one_mask_flag { 1 } else { batch };
        let has_mask = vec![f32::from(u8::from(prompts.mask_input().is_some())); flags];
        let views: [ValueOrView; 4] = [
            TensorView::from_data(&[batch, points, 2], &coords[..]).into(),
            TensorView::from_data(&[batch, points], &labels[..]).into(),
            TensorView::from_data(&[batch, 1, side, side], mask).into(),
            TensorView::from_data(&[flags], &has_mask[..]).into(),
        ];
        let features = features.iter().map(|tensor| ValueOrView::from(tensor.view()));
        let inputs = self.decoder_features.into_iter().zip(features);
        let inputs = inputs.chain(self.decoder_prompts.into_iter().zip(views)).collect();
        let outputs =
            self.decoder.run(inputs, &self.decoder_outputs, Some(self.options.clone())).map_err(
                |error| BackendError::Failed { stage: "decoder", what: error.to_string() },
            )?;
        let masks = self.info.masks;
        let mut outputs = outputs.into_iter();
        let mut next = |name, shape: &[usize]| match outputs.next() {
            Some(value) => checked("decoder", name, value, shape),
            None => Err(bad_output("decoder", format!("no {name}"))),
        };
        let logits = next("masks", &[batch, masks, side, side])?;
        let iou_predictions = within_unit(next("iou_predictions", &[batch, masks])?)?;
        let object_score_logits = match self.decoder_outputs.len() {
            3 => Some(next(OBJECT_SCORE, &[batch, 1])?),
            _ => None,
        };
        Ok(MaskLogits { batch, masks, side, logits, iou_predictions, object_score_logits })
    }

    fn download(&mut self, embedding: &Embedding) -> Result<HostEmbedding, BackendError> {
        let [high_res_feats_0, high_res_feats_1, image_embed] =
            self.tensors(embedding)?.each_ref().map(|tensor| tensor.to_vec());
        Ok(HostEmbedding { high_res_feats_0, high_res_feats_1, image_embed })
    }

    fn upload(&mut self, embedding: &HostEmbedding) -> Result<Embedding, BackendError> {
        let HostEmbedding { high_res_feats_0, high_res_feats_1, image_embed } = embedding;
        let [s0, s1, s2] = &self.shapes;
        let tensor = |shape: &[usize], data: &[f32], name| {
            if data.len() != shape.iter().product::<usize>() || data.iter().any(|x| !x.is_finite())
            {
                return Err(BackendError::BadInput(format!("{name} doesn't fit this engine")));
            }
            Ok(Tensor::from_data(shape, data.to_vec()))
        };
        let [n0, n1, n2] = FEATURES;
        Ok(kept([
            tensor(s0, high_res_feats_0, n0)?,
            tensor(s1, high_res_feats_1, n1)?,
            tensor(s2, image_embed, n2)?,
        ]))
    }
}

fn open(
    package: &Package,
    role: Role,
    expect: impl FnOnce(&Declared) -> Result<(), GraphError>,
) -> Result<(Model, Declared), CpuError> {
    if package.file(role).format != Format::Onnx {
        return Err(CpuError::NotOnnx { role: role.name() });
    }
    let bytes = package.read(role)?;
    let declared = Declared::read(role, &bytes)?;
    expect(&declared)?;
    let model = Model::load(bytes.into_owned())
        .map_err(|error| CpuError::Runtime { role: role.name(), what: error.to_string() })?;
    Ok((model, declared))
}

fn expect_features(declared: &Declared, shapes: &[Vec<usize>; 3]) -> Result<(), GraphError> {
    FEATURES.iter().zip(shapes).try_for_each(|(name, shape)| {
        let dims: Vec<_> = shape.iter().copied().map(Dim::Is).collect();
        declared.expect(name, &dims)
    })
}

fn expect_prompts(declared: &Declared, manifest: &Manifest) -> Result<(), GraphError> {
    use Dim::{Dynamic, Is, OneOrDynamic};
    let (side, masks) = (Is(manifest.input_size / 4), Is(manifest.masks));
    declared.expect("point_coords", &[Dynamic, Dynamic, Is(2)])?;
    declared.expect("point_labels", &[Dynamic, Dynamic])?;
    declared.expect("mask_input", &[Dynamic, Is(1), side, side])?;
    declared.expect("has_mask_input", &[OneOrDynamic])?;
    declared.expect("masks", &[Dynamic, masks, side, side])?;
    declared.expect("iou_predictions", &[Dynamic, masks])?;
    if declared.has(OBJECT_SCORE) {
        declared.expect(OBJECT_SCORE, &[Dynamic, Is(1)])?;
    }
    Ok(())
}

fn node(model: &Model, role: Role, name: &str) -> Result<NodeId, CpuError> {
    model
        .node_id(name)
        .map_err(|error| CpuError::Runtime { role: role.name(), what: error.to_string() })
}

fn nodes<const N: usize>(
    model: &Model,
    role: Role,
    names: [&str; N],
) -> Result<[NodeId; N], CpuError> {
    let found: Vec<_> =
        names.iter().map(|name| node(model, role, name)).collect::<Result<_, _>>()?;
    let missing = |_| CpuError::Runtime { role: role.name(), what: "missing names".into() };
    found.try_into().map_err(missing)
}

fn info(package: &Package, threads: usize) -> EngineInfo {
    let manifest = package.manifest();
    EngineInfo {
        name: manifest.title(),
        backend: "cpu",
        device: format!("{}, {threads} threads", processor()),
        input_size: manifest.input_size,
        embed_channels: manifest.embed_channels,
        masks: manifest.masks,
        max_prompts: manifest.limits.max_prompts,
        max_points: manifest.limits.max_points,
        fingerprint: Identity {
            package: package.digest(),
            backend: "cpu",
            runtime: RUNTIME,
            precision: &manifest.precision,
            compute_capability: std::env::consts::ARCH,
        }
        .fingerprint(),
    }
}

/// Physical cores, or fewer where the process may not use them all: two hyper-threads of one core
/// share its arithmetic units, so the second only adds contention.
fn usable_cores() -> usize {
    num_cpus::get_physical().min(num_cpus::get()).max(1)
}

/// The processor's name as Linux tells it; ARM kernels don't.
fn processor() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            line.split_once(':').map(|(_, name)| name.trim().to_owned())
        })
        .unwrap_or_else(|| format!("{} processor", std::env::consts::ARCH))
}

fn kept(tensors: [Tensor<f32>; 3]) -> Embedding {
    let bytes = tensors.iter().map(|tensor| tensor.len() * size_of::<f32>()).sum();
    Embedding::new(CpuEmbedding(tensors), bytes)
}

/// The values of one output, if it has the shape it must have and no NaN or infinity.
fn checked(
    stage: &'static str,
    name: &str,
    value: Value,
    shape: &[usize],
) -> Result<Vec<f32>, BackendError> {
    let tensor = value
        .into_tensor::<f32>()
        .ok_or_else(|| bad_output(stage, format!("{name} is not an f32 tensor")))?;
    if tensor.shape() != shape {
        let found = tensor.shape().to_vec();
        return Err(bad_output(stage, format!("{name} has shape {found:?} instead of {shape:?}")));
    }
    let data = tensor.into_data();
    contract::finite(stage, name, &data)?;
    Ok(data)
}

#[cfg(test)]
mod tests;
