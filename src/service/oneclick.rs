//! One click without a prompt: the daemon finds the object itself.
//!
//! A grid of single-click prompts over the body region is decoded in batches; the masks that come
//! back are filtered by predicted IoU, stability and size, checked for agreement (how many of the
//! prompts inside a mask give it again), and ranked by the profile of the context. The body region
//! comes from intensities, not from the model.
//!
//! Invariants:
//! 1. Deterministic: the same embedding, body and profile give the same choice.
//! 2. At most `profile.prompts` prompts, in batches of at most [`BATCH`], so that a click on
//!    another image waits for one batch at most.
//! 3. Where nothing passes the filters there is no choice: an honest nothing beats a guess.

mod chooser;
mod grid;

pub(super) use chooser::{Chooser, Found};
pub(super) use grid::{BodyGrid, places};

use super::answer::Job;
use super::error::ServiceError;
use super::image::Resolved;
use super::request::Timings;
use super::{Inner, add, rows};
use crate::domain::tensor::{Embedding, PromptBatch};
use crate::engine::package::manifest::Selection;
use crate::engine::select::PromptKind;
use crate::engine::worker::Class;

/// Prompts per decoder call.
const BATCH: usize = 8;

impl Inner {
    /// One click: a grid of prompts, the best of what they give.
    pub(super) async fn find(
        &self,
        resolved: &Resolved,
        embedding: &Embedding,
        job: &Job<'_>,
        timings: &mut Timings,
    ) -> Result<Option<Found>, ServiceError> {
        let body = &resolved.record.body;
        let places = places(body, job.profile);
        let info = &job.engine.engine;
        let mut chooser = Chooser::new(job.profile, body, &places, info.input_size / 4);
        // Mask 0 of four is SAM2's answer to definite prompts; a grid asks ambiguous ones.
        let multimask =
            info.masks == 4 && job.engine.package.manifest().selection == Selection::Sam2;
        let scale = info.input_size as f64;
        for chunk in places.chunks(BATCH.min(info.max_prompts)) {
            let points: Vec<_> = chunk
                .iter()
                .map(|&(x, y)| (rows::narrowed(x * scale), rows::narrowed(y * scale)))
                .collect();
            let Some(batch) = PromptBatch::single_clicks(&points) else { continue };
            let class = Class::Promptless;
            let done = self.engine.decode(embedding.clone(), batch, class, job.deadline).await?;
            add(&mut timings.queue, done.queue);
            add(&mut timings.prompt, done.took);
            chooser.add(&done.logits, usize::from(multimask));
        }
        timings.prompts = Some(places.len());
        let calibration = &job.engine.package.manifest().calibration;
        Ok(chooser.choose(|iou, logits| calibration.confidence(PromptKind::Ambiguous, iou, logits)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tensor::MaskLogits;
    use crate::service::options::Profile;

    fn body() -> BodyGrid {
        let side = BodyGrid::SIDE;
        let inside = |i: &usize| (8..56).contains(&(i % side)) && (16..48).contains(&(i / side));
        BodyGrid::new((0..side * side).map(|i| inside(&i)).collect()).unwrap()
    }

    /// A decoder that knows two squares and says "nothing" elsewhere.
    fn squares(places: &[(f64, f64)], side: usize, iou: f32) -> MaskLogits {
        let square = |x: f64, y: f64| -> Option<(f64, f64)> {
            let within = |v: f64, c: f64| (v - c).abs() < 0.1;
            [(0.3, 0.5), (0.7, 0.5)].into_iter().find(|&(cx, cy)| within(x, cx) && within(y, cy))
        };
        let mut logits = Vec::new();
        for &(x, y) in places {
            let target = square(x, y);
            for index in 0..side * side {
                let at = |v: usize| (v as f64 + 0.5) / side as f64;
                let here = square(at(index % side), at(index / side));
                logits.push(if target.is_some() && here == target { 8.0 } else { -8.0 });
            }
        }
        MaskLogits {
            batch: places.len(),
            masks: 1,
            side,
            logits,
            iou_predictions: vec![iou; places.len()],
            object_score_logits: None,
        }
    }

    fn found(profile: &Profile, iou: f32) -> Option<Found> {
        let body = body();
        let places = places(&body, profile);
        let mut chooser = Chooser::new(profile, &body, &places, 64);
        for chunk in places.chunks(BATCH) {
            chooser.add(&squares(chunk, 64, iou), 0);
        }
        chooser.choose(|iou, _| f64::from(iou))
    }

    #[test]
    fn prompts_lie_in_the_body_and_are_never_more_than_allowed() {
        for prompts in [1, 7, 64] {
            let profile = Profile { prompts, ..Profile::default() };
            let body = body();
            let places = places(&body, &profile);
            assert!(!places.is_empty() && places.len() <= prompts);
            assert!(places.iter().all(|&(x, y)| body.contains(x, y)));
        }
    }

    #[test]
    fn one_part_is_one_square_and_two_parts_are_both() {
        let area = |found: &Found| found.logits.iter().filter(|&&l| l > 0.0).count();
        let one = found(&Profile::default(), 0.9).unwrap();
        let two = found(&Profile { parts: 2, ..Profile::default() }, 0.9).unwrap();
        assert_eq!(area(&two), 2 * area(&one));
        assert!((one.confidence - 0.9).abs() < 1e-6);
    }

    /// What the decoder says after `change`, with a profile.
    fn changed(profile: &Profile, change: impl Fn(usize, &mut [f32])) -> Option<Found> {
        let body = body();
        let places = places(&body, profile);
        let mut masks = squares(&places, 64, 0.9);
        masks.logits.chunks_mut(64 * 64).enumerate().for_each(|(i, plane)| change(i, plane));
        let mut chooser = Chooser::new(profile, &body, &places, 64);
        chooser.add(&masks, 0);
        chooser.choose(|iou, _| f64::from(iou))
    }

    #[test]
    fn a_mask_that_its_other_prompts_do_not_repeat_is_dropped() {
        // Only the first prompt that finds a square keeps it.
        let alone = |profile: &Profile| {
            let first = std::cell::Cell::new(None);
            changed(profile, |prompt, plane| {
                let found = plane.iter().any(|&logit| logit > 0.0);
                if found && first.get().is_none() {
                    first.set(Some(prompt));
                } else {
                    plane.fill(-8.0);
                }
            })
        };
        assert_eq!(alone(&Profile::default()), None);
        assert!(alone(&Profile { min_agreement: 0.0, ..Profile::default() }).is_some());
    }

    #[test]
    fn undecided_masks_are_dropped() {
        let soft = |_: usize, plane: &mut [f32]| {
            plane.iter_mut().filter(|logit| **logit < 0.0).for_each(|logit| *logit = -0.1);
        };
        assert_eq!(changed(&Profile::default(), soft), None);
        assert!(changed(&Profile::default(), |_, _| ()).is_some());
    }

    #[test]
    fn a_mask_beside_its_own_prompt_is_dropped() {
        let beside = |_: usize, plane: &mut [f32]| plane.reverse();
        // Mirrored, each square lies where the other's prompts are.
        assert_eq!(changed(&Profile::default(), beside), None);
    }

    #[test]
    fn of_equal_masks_the_one_at_the_place_looked_for_is_chosen() {
        for (center, side) in [([0.15, 0.5], 0), ([0.85, 0.5], 1)] {
            let found = found(&Profile { center, ..Profile::default() }, 0.9).unwrap();
            let marked = |half: usize| {
                let inside = |i: &usize| (i % 64 >= 32) == (half == 1);
                (0..64 * 64).filter(|i| inside(i) && found.logits[*i] > 0.0).count()
            };
            assert!(marked(side) > 0 && marked(1 - side) == 0, "{center:?}");
        }
    }

    #[test]
    fn where_nothing_passes_there_is_no_mask() {
        assert_eq!(found(&Profile::default(), 0.3), None);
        assert_eq!(found(&Profile { min_area: 0.5, ..Profile::default() }, 0.9), None);
        let blank = BodyGrid::nothing();
        assert!(places(&blank, &Profile::default()).is_empty());
    }
}
