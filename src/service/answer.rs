//! From a request to its answer: kept from before, or decoded, rendered and kept now.

use super::error::{ServiceError, internal};
use super::image::{Resolved, blocking};
use super::options::{Options, Profile};
use super::request::{
    Answer, ImageRequest, MaskSource, ModelDescription, SegmentRequest, Segmented, Timings,
};
use super::serving::Serving;
use super::store::StoredAnswer;
use super::{Inner, add, keys, loader, oneclick, prompts, render, rows};
use crate::domain::key::{AnswerKey, EmbeddingKey};
use crate::domain::mask::{ImageType, Target};
use crate::domain::prompt::{Click, Prompt, PromptBox};
use crate::domain::tensor::{Embedding, PromptBatch};
use crate::engine::select::{PromptKind, choose};
use crate::engine::worker::{Class, LoadedInfo};
use crate::imaging::postprocess;
use std::sync::Arc;
use std::time::Instant;

/// A [`SegmentRequest`] without its image, whose bytes need not wait for the answer.
pub(super) struct Question {
    pub(super) image_type: ImageType,
    clicks: Vec<Click>,
    bounds: Option<PromptBox>,
    pub(super) target: Target,
    mask_input: Option<MaskSource>,
    prompt_from: Option<AnswerKey>,
    deadline: Instant,
}

impl Question {
    pub(super) fn of(request: SegmentRequest) -> (ImageRequest, Self) {
        let SegmentRequest { image, clicks, bounds, target, mask_input, prompt_from, deadline } =
            request;
        let image_type = image.image_type;
        let question =
            Self { image_type, clicks, bounds, target, mask_input, prompt_from, deadline };
        (image, question)
    }

    /// Did a person point at something? Else it is one click.
    pub(super) fn is_prompted(&self) -> bool {
        let Self { clicks, bounds, mask_input, prompt_from, .. } = self;
        !clicks.is_empty() || bounds.is_some() || mask_input.is_some() || prompt_from.is_some()
    }
}

/// A miss on its way to an answer.
pub(super) struct Job<'a> {
    pub(super) engine: &'a Serving,
    prompt: Prompt,
    image_type: ImageType,
    pub(super) profile: &'a Profile,
    clean: postprocess::Options,
    key: AnswerKey,
    pub(super) deadline: Instant,
}

impl Inner {
    pub(super) async fn segment(
        self: &Arc<Self>,
        request: SegmentRequest,
    ) -> Result<Segmented, ServiceError> {
        let engine = self.serving(request.deadline).await?;
        let (image, question) = Question::of(request);
        let mut timings = Timings::default();
        let resolved = self.resolve(image, &mut timings).await?;
        self.answered(question, resolved, engine, timings).await
    }

    /// An image's answer: kept from before, or made now.
    pub(super) async fn answered(
        self: &Arc<Self>,
        question: Question,
        resolved: Resolved,
        engine: Serving,
        mut timings: Timings,
    ) -> Result<Segmented, ServiceError> {
        let Question { image_type, clicks, bounds, target, mask_input, prompt_from, deadline } =
            question;
        let in_force = self.options();
        let options = &in_force.options;
        let size = resolved.record.size;
        let side = engine.info.engine.input_size / 4;
        let mask = match mask_input {
            None => None,
            Some(source) => Some(self.mask_input(source, size, side).await?),
        };
        let clicks = self.seeded(clicks, bounds, prompt_from, size, side).await?;
        let prompt = Prompt::new(size, clicks, bounds, mask, options.max_clicks)?;
        prompts::fits(&prompt, engine.info.engine.max_points)?;
        let embedding_key = keys::embedding(resolved.key, &engine.info.engine.fingerprint);
        let (profile, settings) = in_force.profile(image_type, target);
        let key = keys::answer(&keys::AnswerFields {
            embedding: embedding_key,
            prompt: &prompt,
            image_type,
            target,
            settings,
        });
        let hit = self.stored(key).await?;
        let cached = hit.is_some();
        let (stored, embedding_cached) = match hit {
            Some(stored) => (stored, true),
            None => {
                let clean = options.clean;
                let job =
                    Job { engine: &engine, prompt, image_type, profile, clean, key, deadline };
                self.answer(&resolved, embedding_key, job, &mut timings).await?
            }
        };
        let answer = stored.answer.clone();
        let warnings = warnings(options, &engine.info, &answer);
        Ok(Segmented {
            answer,
            cached,
            embedding_cached,
            image: resolved.describe(),
            model: model(&engine.info),
            timings,
            warnings,
        })
    }

    /// Encodes (once), decodes, renders, keeps.
    async fn answer(
        self: &Arc<Self>,
        resolved: &Resolved,
        embedding_key: EmbeddingKey,
        job: Job<'_>,
        timings: &mut Timings,
    ) -> Result<(Arc<StoredAnswer>, bool), ServiceError> {
        let (embedding, embedding_cached) =
            self.embedding(resolved, embedding_key, job.engine, job.deadline, timings).await?;
        let class = match (job.prompt.is_empty(), embedding_cached) {
            (true, _) => Class::Promptless,
            (false, true) => Class::Warm,
            (false, false) => Class::Cold,
        };
        let found = if job.prompt.is_empty() {
            self.find(resolved, &embedding, &job, timings).await?
        } else {
            let batch =
                rows::batch(&job.prompt, resolved.record.size, job.engine.info.engine.input_size);
            Some(self.decode_one(&embedding, batch, &job, class, timings).await?)
        };
        let side = job.engine.info.engine.input_size / 4;
        let confidence = found.as_ref().map_or(0.0, |found| found.confidence);
        let (inner, size, expires) = (Arc::clone(self), resolved.record.size, self.store.expiry());
        let (key, image_type, prompt) = (job.key, job.image_type, job.prompt);
        let (clean, era) = (job.clean, resolved.era);
        let started = Instant::now();
        let stored = blocking(move || {
            let recipe = render::Recipe {
                key,
                size,
                image_type,
                prompt: &prompt,
                clean: &clean,
                confidence,
                expires,
            };
            let stored = match found {
                Some(found) => render::answer(&recipe, &found.logits, side)
                    .ok_or_else(|| internal("logits of another size"))?,
                None => render::nothing(&recipe, side),
            };
            let stored = Arc::new(stored);
            inner.store.put_answer(era, &stored);
            Ok::<_, ServiceError>(stored)
        })
        .await??;
        timings.render = Some(started.elapsed());
        Ok((stored, embedding_cached))
    }

    /// One prompt → the mask that the package's rule picks.
    async fn decode_one(
        &self,
        embedding: &Embedding,
        batch: PromptBatch,
        job: &Job<'_>,
        class: Class,
        timings: &mut Timings,
    ) -> Result<oneclick::Found, ServiceError> {
        let kind = PromptKind::of(&batch);
        let manifest = job.engine.info.package.manifest();
        let done = job.engine.engine.decode(embedding.clone(), batch, class, job.deadline).await?;
        add(&mut timings.queue, done.queue);
        add(&mut timings.prompt, done.took);
        timings.prompts = Some(1);
        let masks = done.logits;
        let found = choose(&masks, 0, manifest.selection, kind).and_then(|chosen| {
            let logits = masks.mask(0, chosen.mask)?.to_vec();
            let confidence = manifest.calibration.confidence(kind, chosen.iou, &logits);
            Some(oneclick::Found { logits, confidence })
        });
        found.ok_or_else(|| internal("the decoder's output has no mask to choose"))
    }
}

fn warnings(options: &Options, engine: &LoadedInfo, answer: &Answer) -> Vec<String> {
    let mut warnings = loader::warnings(engine);
    let confidence = answer.confidence;
    if answer.bounding_box.is_some() && confidence < options.low_confidence {
        warnings.push(format!("low confidence ({confidence:.2}): check this mask with care"));
    }
    warnings
}

pub(super) fn model(engine: &LoadedInfo) -> ModelDescription {
    ModelDescription {
        engine: Arc::clone(&engine.engine),
        intended_use: engine.package.manifest().intended_use.clone(),
    }
}
