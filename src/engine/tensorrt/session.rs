//! One call of the encoder, one of the decoder: copy in, infer, copy out, on one stream.
//!
//! Invariants:
//! 1. A call ends with the stream synchronised, whether it worked or not: afterwards no copy and no
//!    kernel uses the memory of a session.
//! 2. What a plan can't take is known when it was loaded, not when a user clicks.
//! 3. The encoder's shape is fixed, so from its third call on it runs as a recorded graph, where
//!    that is allowed and the plan can be recorded; outputs are the same.

use super::cuda::{Context, DeviceBuffer, Graph, Stream};
use super::driver::CudaError;
use super::ports::{Declared, Element, Extent, Port, Ports, Way, WrongPort};
use super::runtime::{Engine, Execution, Refusal};
use crate::domain::tensor::{ImageTensor, MaskLogits, PromptBatch};
use crate::engine::BackendError;
use crate::engine::contract::{
    ANSWERS, FEATURES, IMAGE, OBJECT_SCORE, PROMPTS, bad_output, finite, within_unit,
};
use crate::engine::package::Role;
use crate::engine::package::manifest::Manifest;
use std::sync::Arc;

/// The outputs of the encoder on the device, in the order of `FEATURES`.
pub(super) type Features = [DeviceBuffer; 3];

/// Something failed under a call.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    TensorRt(#[from] Refusal),
}

impl Trouble {
    /// What the caller can do; `device` is what the stream says afterwards, which alone tells a lost
    /// device from a refusal.
    pub(super) fn into_error(
        self,
        stage: &'static str,
        device: Result<(), CudaError>,
    ) -> BackendError {
        let what = self.to_string();
        if let Err(lost) = device
            && lost.is_sticky()
        {
            return BackendError::DeviceLost(format!("{lost}, in the {stage}: {what}"));
        }
        match self {
            Self::Cuda(error) if error.is_sticky() => {
                BackendError::DeviceLost(format!("{what}, in the {stage}"))
            }
            Self::Cuda(error) if error.is_out_of_memory() => {
                BackendError::OutOfMemory { stage, what }
            }
            Self::TensorRt(refusal) if refusal.out_of_memory => {
                BackendError::OutOfMemory { stage, what }
            }
            Self::Cuda(_) | Self::TensorRt(_) => BackendError::Failed { stage, what },
        }
    }
}

/// Runs `call` and synchronises, whatever came of it.
pub(super) fn settled<T>(
    stage: &'static str,
    stream: &Stream,
    call: impl FnOnce() -> Result<T, Trouble>,
) -> Result<T, BackendError> {
    let done = stream.context().enter().map_err(Trouble::from).and_then(|()| call());
    let device = stream.synchronize();
    match (done, device) {
        (Ok(value), Ok(())) => Ok(value),
        (Ok(_), Err(error)) => Err(Trouble::Cuda(error).into_error(stage, Ok(()))),
        (Err(trouble), device) => Err(trouble.into_error(stage, device)),
    }
}

/// The image encoder.
pub(super) struct Encoder {
    // Goes first: it was recorded from the execution context.
    graph: Option<Graph>,
    execution: Execution,
    stream: Arc<Stream>,
    image: Port,
    features: [Port; 3],
    /// Values of each feature.
    lengths: [usize; 3],
    /// Plain calls still to be made before recording; none: never.
    until_graph: Option<u8>,
}

/// TensorRT allocates and tunes in its first calls; only then may it be recorded.
const PLAIN_CALLS: u8 = 2;

impl Encoder {
    pub(super) fn new(
        engine: Engine,
        manifest: &Manifest,
        shapes: &[Vec<usize>; 3],
        stream: &Arc<Stream>,
        graphs: bool,
    ) -> Result<Self, SessionError> {
        let context = stream.context();
        let tensors = engine.tensors()?;
        let ports = Ports { role: Role::Encoder, tensors: &tensors };
        let side = manifest.input_size;
        let image_shape = [1, 3, side, side];
        let image =
            Port::new(&ports.expect(IMAGE, Way::In, &image_shape.map(Extent::Is))?, context);
        let features = expect_features(&ports, Way::Out, shapes)?;
        let lengths = shapes.each_ref().map(|shape| shape.iter().product());
        fits_in_memory(Role::Encoder, engine.activation_bytes(), context)?;
        let mut encoder = Self {
            graph: None,
            execution: engine.into_context()?,
            stream: Arc::clone(stream),
            image,
            features: features.each_ref().map(|declared| Port::new(declared, context)),
            lengths,
            until_graph: graphs.then_some(PLAIN_CALLS),
        };
        // Once and for all: shapes and addresses never change.
        let Self { execution, image, features, .. } = &mut encoder;
        image.reserve(3 * side * side)?;
        execution.set_shape(image.name(), &image_shape)?;
        execution.bind(image.name(), image.device()?)?;
        for ((port, length), shape) in features.iter_mut().zip(lengths).zip(shapes) {
            port.reserve(length)?;
            execution.bind(port.name(), port.device()?)?;
            let found = execution.shape(port.name());
            if !same(&found, shape) {
                let name = port.name().to_string_lossy();
                return Err(SessionError::Shape(format!(
                    "{name} is {found:?}, expected {shape:?}"
                )));
            }
        }
        Ok(encoder)
    }

    /// Types of the features, in order.
    pub(super) fn elements(&self) -> [Element; 3] {
        self.features.each_ref().map(Port::element)
    }

    /// Encodes into `into`, whose buffers have the features' sizes.
    pub(super) fn run(&mut self, image: &ImageTensor, into: &Features) -> Result<(), BackendError> {
        let stream = Arc::clone(&self.stream);
        settled("encoder", &stream, || {
            self.image.send(image.data(), &stream)?;
            self.infer()?;
            for ((port, length), kept) in self.features.iter_mut().zip(self.lengths).zip(into) {
                stream.copy(kept, port.device()?)?;
                port.fetch(length, &stream)?;
            }
            Ok(())
        })?;
        for (port, length) in self.features.iter().zip(self.lengths) {
            if !port.element().all_finite(port.received(length)) {
                let name = port.name().to_string_lossy();
                return Err(bad_output("encoder", format!("{name} holds NaN or infinity")));
            }
        }
        Ok(())
    }

    fn infer(&mut self) -> Result<(), Trouble> {
        if let Some(graph) = &self.graph {
            return Ok(graph.launch()?);
        }
        match self.until_graph {
            Some(0) => {
                self.until_graph = None;
                let (execution, stream) = (&mut self.execution, &self.stream);
                match stream.capture(|| Ok::<(), Trouble>(execution.enqueue(stream)?)) {
                    Ok(graph) => {
                        graph.launch()?;
                        self.graph = Some(graph);
                        return Ok(());
                    }
                    Err(trouble) => {
                        tracing::info!(%trouble, "the encoder can't be recorded as a CUDA graph; it runs without");
                    }
                }
            }
            Some(calls) => self.until_graph = Some(calls - 1),
            None => {}
        }
        Ok(self.execution.enqueue(&self.stream)?)
    }

    /// Does it run as a recorded graph by now?
    pub(super) fn is_recorded(&self) -> bool {
        self.graph.is_some()
    }
}

/// The mask decoder.
pub(super) struct Decoder {
    execution: Execution,
    stream: Arc<Stream>,
    features: [Declared; 3],
    coords: Port,
    labels: Port,
    mask_input: Port,
    has_mask: Port,
    /// `has_mask_input` is `[1]` in some exports and `[B]` in others.
    one_mask_flag: bool,
    masks: Port,
    ious: Port,
    score: Option<Port>,
    profiles: Vec<Profile>,
    feature_shapes: [Vec<usize>; 3],
    masks_per_prompt: usize,
    side: usize,
}

/// What one optimisation profile takes, least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Profile {
    index: i32,
    batch: (usize, usize),
    points: (usize, usize),
}

impl Profile {
    fn takes(&self, batch: usize, points: usize) -> bool {
        (self.batch.0..=self.batch.1).contains(&batch)
            && (self.points.0..=self.points.1).contains(&points)
    }
}

impl Decoder {
    pub(super) fn new(
        engine: Engine,
        manifest: &Manifest,
        shapes: &[Vec<usize>; 3],
        stream: &Arc<Stream>,
    ) -> Result<Self, SessionError> {
        use Extent::{Any, Is};
        let context = stream.context();
        let tensors = engine.tensors()?;
        let ports = Ports { role: Role::Decoder, tensors: &tensors };
        let (side, masks) = (manifest.input_size / 4, manifest.masks);
        let features = expect_features(&ports, Way::In, shapes)?;
        let [coords, labels, mask_input, has_mask] = PROMPTS;
        let [mask_logits, ious] = ANSWERS;
        let coords = ports.expect(coords, Way::In, &[Any, Any, Is(2)])?;
        let labels = ports.expect(labels, Way::In, &[Any, Any])?;
        let mask_input = ports.expect(mask_input, Way::In, &[Any, Is(1), Is(side), Is(side)])?;
        let has_mask = ports.expect(has_mask, Way::In, &[Any])?;
        let mask_logits =
            ports.expect(mask_logits, Way::Out, &[Any, Is(masks), Is(side), Is(side)])?;
        let ious = ports.expect(ious, Way::Out, &[Any, Is(masks)])?;
        let score = match ports.has(OBJECT_SCORE) {
            true => Some(ports.expect(OBJECT_SCORE, Way::Out, &[Any, Is(1)])?),
            false => None,
        };
        let profiles = profiles(&engine, &coords)?;
        fits_in_memory(Role::Decoder, engine.activation_bytes(), context)?;
        Ok(Self {
            execution: engine.into_context()?,
            stream: Arc::clone(stream),
            features,
            one_mask_flag: has_mask.shape == [1],
            coords: Port::new(&coords, context),
            labels: Port::new(&labels, context),
            mask_input: Port::new(&mask_input, context),
            has_mask: Port::new(&has_mask, context),
            masks: Port::new(&mask_logits, context),
            ious: Port::new(&ious, context),
            score: score.map(|declared| Port::new(&declared, context)),
            profiles,
            feature_shapes: shapes.clone(),
            masks_per_prompt: masks,
            side,
        })
    }

    /// Types of the features that it takes, in order.
    pub(super) fn elements(&self) -> [Element; 3] {
        self.features.each_ref().map(|declared| declared.element)
    }

    /// Most prompts of one point, and most points of one prompt.
    pub(super) fn capacity(&self) -> (usize, usize) {
        let one_point = self.profiles.iter().filter(|profile| profile.points.0 <= 1);
        let one_prompt = self.profiles.iter().filter(|profile| profile.batch.0 <= 1);
        (
            one_point.map(|profile| profile.batch.1).max().unwrap_or(0),
            one_prompt.map(|profile| profile.points.1).max().unwrap_or(0),
        )
    }

    /// Decodes prompts on an embedding.
    pub(super) fn run(
        &mut self,
        features: &Features,
        prompts: &PromptBatch,
    ) -> Result<MaskLogits, BackendError> {
        let (batch, points, side) = (prompts.batch(), prompts.points_per_prompt(), self.side);
        let Some(profile) = self.profiles.iter().find(|profile| profile.takes(batch, points))
        else {
            return Err(BackendError::BadInput(format!(
                "no optimisation profile of the decoder takes {batch} prompts of {points} points"
            )));
        };
        let index = profile.index;
        let stream = Arc::clone(&self.stream);
        let (plane, per_prompt) = (side * side, self.masks_per_prompt);
        let (logits, scores) = (batch * per_prompt * plane, batch * per_prompt);
        let mut shapes_right = Ok(());
        settled("decoder", &stream, || {
            self.execution.set_profile(index, &stream)?;
            self.send(features, prompts)?;
            shapes_right = self.bind_outputs(batch)?;
            if shapes_right.is_err() {
                return Ok(());
            }
            self.execution.enqueue(&stream)?;
            self.masks.fetch(logits, &stream)?;
            self.ious.fetch(scores, &stream)?;
            if let Some(score) = &mut self.score {
                score.fetch(batch, &stream)?;
            }
            Ok(())
        })?;
        shapes_right?;
        let received = |port: &Port, name, values| {
            let data = port.element().read(port.received(values));
            finite("decoder", name, &data).map(|()| data)
        };
        let [masks_name, ious_name] = ANSWERS;
        let score = self.score.as_ref();
        Ok(MaskLogits {
            batch,
            masks: per_prompt,
            side,
            logits: received(&self.masks, masks_name, logits)?,
            iou_predictions: within_unit(received(&self.ious, ious_name, scores)?)?,
            object_score_logits: score
                .map(|port| received(port, OBJECT_SCORE, batch))
                .transpose()?,
        })
    }

    fn send(&mut self, features: &Features, prompts: &PromptBatch) -> Result<(), Trouble> {
        let (batch, points, side) = (prompts.batch(), prompts.points_per_prompt(), self.side);
        let stream = &self.stream;
        let coords: Vec<f32> = prompts.rows().iter().flat_map(|row| [row.x, row.y]).collect();
        let labels: Vec<f32> = prompts.rows().iter().map(|row| row.label.value()).collect();
        let flags = if self.one_mask_flag { 1 } else { batch };
        let has_mask = vec![f32::from(u8::from(prompts.mask_input().is_some())); flags];
        self.coords.send(&coords, stream)?;
        self.labels.send(&labels, stream)?;
        self.has_mask.send(&has_mask, stream)?;
        match prompts.mask_input() {
            Some(mask) => self.mask_input.send(mask, stream)?,
            None => self.mask_input.send_zeros(batch * side * side, stream)?,
        }
        let execution = &mut self.execution;
        for ((declared, buffer), shape) in
            self.features.iter().zip(features).zip(&self.feature_shapes)
        {
            execution.set_shape(&declared.name, shape)?;
            execution.bind(&declared.name, buffer)?;
        }
        for (port, shape) in [
            (&self.coords, &[batch, points, 2][..]),
            (&self.labels, &[batch, points]),
            (&self.mask_input, &[batch, 1, side, side]),
            (&self.has_mask, &[flags]),
        ] {
            execution.set_shape(port.name(), shape)?;
            execution.bind(port.name(), port.device()?)?;
        }
        Ok(())
    }

    /// Binds memory for the outputs; within, whether their shapes are what they must be.
    fn bind_outputs(&mut self, batch: usize) -> Result<Result<(), BackendError>, Trouble> {
        let (masks, side) = (self.masks_per_prompt, self.side);
        let outputs = [
            Some((&mut self.masks, vec![batch, masks, side, side])),
            Some((&mut self.ious, vec![batch, masks])),
            self.score.as_mut().map(|score| (score, vec![batch, 1])),
        ];
        for (port, expected) in outputs.into_iter().flatten() {
            let found = self.execution.shape(port.name());
            if !same(&found, &expected) {
                let name = port.name().to_string_lossy();
                let what = format!("{name} has shape {found:?} instead of {expected:?}");
                return Ok(Err(bad_output("decoder", what)));
            }
            port.reserve(expected.iter().product())?;
            self.execution.bind(port.name(), port.device()?)?;
        }
        Ok(Ok(()))
    }
}

/// Why a plan can't be made a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Port(#[from] WrongPort),
    #[error("{0}")]
    Shape(String),
    #[error("{needed_mb} MB of device memory are needed, {free_mb} MB are free")]
    Memory { needed_mb: u64, free_mb: u64 },
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    TensorRt(#[from] Refusal),
}

/// Is there room for what the execution context will ask for? Said beforehand, because afterwards
/// the words are the runtime's and name no number.
fn fits_in_memory(role: Role, needed: Option<u64>, context: &Context) -> Result<(), SessionError> {
    const MB: u64 = 1_000_000;
    let (needed, free) = (needed.unwrap_or(0), context.free_bytes()?);
    tracing::debug!(
        role = role.name(),
        needed_mb = needed / MB,
        free_mb = free / MB,
        "device memory"
    );
    if needed > free {
        return Err(SessionError::Memory { needed_mb: needed.div_ceil(MB), free_mb: free / MB });
    }
    Ok(())
}

fn expect_features(
    ports: &Ports<'_>,
    way: Way,
    shapes: &[Vec<usize>; 3],
) -> Result<[Declared; 3], WrongPort> {
    let [a, b, c] = FEATURES;
    let [shape_a, shape_b, shape_c] = shapes;
    let expect = |name, shape: &[usize]| {
        let extents: Vec<_> = shape.iter().copied().map(Extent::Is).collect();
        ports.expect(name, way, &extents)
    };
    Ok([expect(a, shape_a)?, expect(b, shape_b)?, expect(c, shape_c)?])
}

/// What each profile takes of prompts and points, by the shapes of `point_coords`.
fn profiles(engine: &Engine, coords: &Declared) -> Result<Vec<Profile>, SessionError> {
    let range = |least: &[i64], most: &[i64], place: usize| {
        let (least, most) = (least.get(place)?, most.get(place)?);
        Some((usize::try_from(*least).ok()?, usize::try_from(*most).ok()?))
    };
    let mut profiles = Vec::new();
    for index in 0..engine.profiles().max(1) {
        let fixed = (coords.shape.clone(), coords.shape.clone());
        let (least, most) = engine.profile(&coords.name, index).unwrap_or(fixed);
        let (Some(batch), Some(points)) = (range(&least, &most, 0), range(&least, &most, 1)) else {
            let words = format!("point_coords has no shape in optimisation profile {index}");
            return Err(SessionError::Shape(words));
        };
        profiles.push(Profile { index, batch, points });
    }
    if !profiles.iter().any(|profile| profile.takes(1, 1)) {
        let words = "no optimisation profile of the decoder takes one prompt of one point";
        return Err(SessionError::Shape(words.to_owned()));
    }
    Ok(profiles)
}

fn same(found: &[i64], expected: &[usize]) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, expected)| usize::try_from(*found) == Ok(*expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuda(code: i32) -> CudaError {
        CudaError { call: "cuMemAlloc", code, name: "SOMETHING".to_owned() }
    }

    #[test]
    fn what_the_caller_can_do_is_told_by_the_device_first() {
        let refusal = |out_of_memory| {
            let words = "no room".to_owned();
            Trouble::TensorRt(Refusal { call: "enqueueV3", words, out_of_memory })
        };
        let fine = || Ok(());
        for (trouble, device, expected) in [
            (Trouble::Cuda(cuda(2)), fine(), "out of memory in encoder"),
            (Trouble::Cuda(cuda(1)), fine(), "encoder failed"),
            (Trouble::Cuda(cuda(700)), fine(), "the device is lost"),
            (refusal(true), fine(), "out of memory in encoder"),
            (refusal(false), fine(), "encoder failed: enqueueV3: no room"),
            (refusal(false), Err(cuda(719)), "the device is lost"),
            (refusal(true), Err(cuda(719)), "the device is lost"),
            (refusal(false), Err(cuda(1)), "encoder failed"),
        ] {
            let words = trouble.into_error("encoder", device).to_string();
            assert!(words.starts_with(expected), "{words}");
        }
    }

    #[test]
    fn a_profile_takes_what_lies_within_it() {
        let profile = Profile { index: 0, batch: (1, 64), points: (1, 2) };
        assert!(profile.takes(1, 1) && profile.takes(64, 2));
        assert!(!profile.takes(65, 1) && !profile.takes(1, 3) && !profile.takes(0, 1));
    }
}
