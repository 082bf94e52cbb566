//! The mask decoder: prompts on an embedding, in the optimisation profile that takes them.
//!
//! Invariant: what [`Decoder::run`] gives has the contract's shapes, is finite, and its predicted IoU
//! lies in 0..=1, or it fails.

use super::{Features, SessionError, Trouble, expect_features, fits_in_memory, same, settled};
use crate::domain::tensor::{MaskLogits, PromptBatch};
use crate::engine::BackendError;
use crate::engine::contract::{ANSWERS, OBJECT_SCORE, PROMPTS, bad_output, finite, within_unit};
use crate::engine::package::Role;
use crate::engine::package::manifest::Manifest;
use crate::engine::tensorrt::cuda::Stream;
use crate::engine::tensorrt::ports::{Declared, Element, Extent, Port, Ports, Way};
use crate::engine::tensorrt::runtime::{Engine, Execution};
use std::sync::Arc;

/// The mask decoder.
pub(in crate::engine::tensorrt) struct Decoder {
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
    pub(in crate::engine::tensorrt) fn new(
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
    pub(in crate::engine::tensorrt) fn elements(&self) -> [Element; 3] {
        self.features.each_ref().map(|declared| declared.element)
    }

    /// Most prompts of one point, and most points of one prompt.
    pub(in crate::engine::tensorrt) fn capacity(&self) -> (usize, usize) {
        let one_point = self.profiles.iter().filter(|profile| profile.points.0 <= 1);
        let one_prompt = self.profiles.iter().filter(|profile| profile.batch.0 <= 1);
        (
            one_point.map(|profile| profile.batch.1).max().unwrap_or(0),
            one_prompt.map(|profile| profile.points.1).max().unwrap_or(0),
        )
    }

    /// Decodes prompts on an embedding.
    pub(in crate::engine::tensorrt) fn run(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_takes_what_lies_within_it() {
        let profile = Profile { index: 0, batch: (1, 64), points: (1, 2) };
        assert!(profile.takes(1, 1) && profile.takes(64, 2));
        assert!(!profile.takes(65, 1) && !profile.takes(1, 3) && !profile.takes(0, 1));
    }
}
