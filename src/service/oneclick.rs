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
        let info = &job.engine.info.engine;
        let mut chooser = Chooser::new(job.profile, body, &places, info.input_size / 4);
        // Mask 0 of four is SAM2's answer to definite prompts; a grid asks ambiguous ones.
        let multimask =
            info.masks == 4 && job.engine.info.package.manifest().selection == Selection::Sam2;
        let scale = info.input_size as f64;
        for chunk in places.chunks(BATCH.min(info.max_prompts)) {
            let points: Vec<_> = chunk
                .iter()
                .map(|&(x, y)| (rows::narrowed(x * scale), rows::narrowed(y * scale)))
                .collect();
            let Some(batch) = PromptBatch::single_clicks(&points) else { continue };
            let class = Class::Promptless;
            let done =
                job.engine.engine.decode(embedding.clone(), batch, class, job.deadline).await?;
            add(&mut timings.queue, done.queue);
            add(&mut timings.prompt, done.took);
            chooser.add(&done.logits, usize::from(multimask));
        }
        timings.prompts = Some(places.len());
        let calibration = &job.engine.info.package.manifest().calibration;
        Ok(chooser.choose(|iou, logits| calibration.confidence(PromptKind::Ambiguous, iou, logits)))
    }
}

#[cfg(test)]
mod tests;
