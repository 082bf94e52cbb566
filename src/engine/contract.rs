//! The SAM2 ONNX contract: names, shapes and what an answer must be, for every backend alike.
//!
//! Invariant: a backend hands nothing out that [`finite`] and [`within_unit`] did not see, and takes
//! nothing that [`check_image`] and [`check_prompts`] refused.
//!
//! It knows no runtime; `engines/README.md` has the contract in words.

use super::package::manifest::Manifest;
use super::{BackendError, EngineInfo};
use crate::domain::tensor::{ImageTensor, PromptBatch};

/// The encoder's input [1, 3, S, S]. Names are samexporter's.
pub(super) const IMAGE: &str = "image";
/// The encoder's outputs and the decoder's inputs, in the order of [`feature_shapes`].
pub(super) const FEATURES: [&str; 3] = ["high_res_feats_0", "high_res_feats_1", "image_embed"];
/// The decoder's other inputs.
pub(super) const PROMPTS: [&str; 4] =
    ["point_coords", "point_labels", "mask_input", "has_mask_input"];
/// The decoder's outputs.
pub(super) const ANSWERS: [&str; 2] = ["masks", "iou_predictions"];
/// An output that not every decoder has.
pub(super) const OBJECT_SCORE: &str = "object_score_logits";

/// How far a predicted IoU may leave 0..=1 before it is no IoU; up to here it is clamped. SAM2's head
/// ends in a sigmoid (`iou_prediction_use_sigmoid: True` in the published configurations), but a
/// package's head may be a plain regression, and that oversteps a little: sam2-nano's gave 1.015 on
/// real CT slices. A value further out means that another output is bound to the name.
const IOU_SLACK: f32 = 0.1;

/// Shapes of [`FEATURES`]. Source: the SAM2 ONNX contract.
pub(super) fn feature_shapes(manifest: &Manifest) -> [Vec<usize>; 3] {
    let (side, channels) = (manifest.input_size, manifest.embed_channels);
    [(8, 4), (4, 8), (1, 16)]
        .map(|(thinner, stride)| vec![1, channels / thinner, side / stride, side / stride])
}

/// A picture that this engine can take.
pub(super) fn check_image(info: &EngineInfo, image: &ImageTensor) -> Result<(), BackendError> {
    let side = info.input_size;
    if image.side() != side {
        return Err(BackendError::BadInput(format!(
            "the image tensor's side is {}, this engine's is {side}",
            image.side()
        )));
    }
    // rten's Relu and Softmax turn NaN into numbers (seen): it has to be stopped here, the
    // embedding would look healthy.
    if !all_finite(image.data()) {
        return Err(BackendError::BadInput("the image tensor holds NaN or infinity".into()));
    }
    Ok(())
}

/// Prompts that this engine can take.
pub(super) fn check_prompts(info: &EngineInfo, prompts: &PromptBatch) -> Result<(), BackendError> {
    let (batch, points) = (prompts.batch(), prompts.points_per_prompt());
    if batch == 0 || batch > info.max_prompts || points > info.max_points {
        return Err(BackendError::BadInput(format!(
            "{batch} prompts of {points} rows; this engine takes {} of {}",
            info.max_prompts, info.max_points
        )));
    }
    if prompts.rows().iter().any(|row| !row.x.is_finite() || !row.y.is_finite()) {
        return Err(BackendError::BadInput("a prompt's coordinate is not finite".into()));
    }
    let Some(mask) = prompts.mask_input() else { return Ok(()) };
    let side = info.input_size / 4;
    if batch != 1 || mask.len() != side * side || !all_finite(mask) {
        return Err(BackendError::BadInput(format!(
            "a mask to refine has {side}×{side} finite values and goes with one prompt"
        )));
    }
    Ok(())
}

/// No NaN, no infinity.
pub(super) fn finite(stage: &'static str, name: &str, data: &[f32]) -> Result<(), BackendError> {
    if all_finite(data) {
        return Ok(());
    }
    Err(bad_output(stage, format!("{name} holds NaN or infinity")))
}

/// No early exit: so it vectorises, and an embedding has 16 MB.
pub(super) fn all_finite(data: &[f32]) -> bool {
    !data.iter().fold(false, |bad, x| bad | !x.is_finite())
}

/// Predicted IoU within 0..=1, a little overstep clamped.
pub(super) fn within_unit(mut ious: Vec<f32>) -> Result<Vec<f32>, BackendError> {
    for iou in &mut ious {
        if *iou < -IOU_SLACK || *iou > 1.0 + IOU_SLACK {
            let what = format!("iou_predictions holds {iou}, outside 0..1");
            return Err(bad_output("decoder", what));
        }
        *iou = iou.clamp(0.0, 1.0);
    }
    Ok(ious)
}

pub(super) fn bad_output(stage: &'static str, what: String) -> BackendError {
    BackendError::BadOutput { stage, what }
}
