//! The use cases: segment (also as a DICOM Segmentation), embed, preview. Knows no HTTP and no CUDA.
//!
//! Invariants:
//! 1. A hit never touches the engine; a miss encodes an image once however many ask ([`flight`]).
//! 2. No mask is made up: without an engine that passed its golden self-test in this run there is
//!    no answer, and without a result there is an error that says why.
//! 3. Work that others may use (an embedding) is owned by itself and finishes when callers leave;
//!    work for one caller ends with that caller.
//! 4. What identifies a patient never comes here, but for a DICOM Segmentation's own request, and
//!    with that it goes ([`segmentation`]).

pub mod error;
mod flight;
pub mod health;
mod image;
mod inbox;
mod keys;
pub mod loader;
mod oneclick;
pub mod options;
mod record;
mod render;
pub mod request;
mod rows;
mod segmentation;
pub mod selftest;
mod store;

use crate::cache::Cache;
use crate::domain::key::{AnswerKey, EmbeddingKey};
use crate::domain::mask::{ImageType, Target};
use crate::domain::prompt::{Click, ClickLabel, Prompt, PromptBox};
use crate::domain::slice::Size;
use crate::domain::tensor::{Embedding, MaskInput, PromptBatch};
use crate::engine::package::manifest::Selection;
use crate::engine::select::{PromptKind, choose};
use crate::engine::worker::{Class, Cost, Deadline, Engine, EngineError, LoadedInfo, State};
use crate::imaging::decoder::Decoder;
use crate::imaging::{Levels, png, postprocess, preprocess};
use bytes::Bytes;
use error::ServiceError;
use flight::Flight;
use image::{Pixels, Resolved, blocking};
use inbox::Inbox;
use options::{Options, Profile};
use request::{
    Answer, Embedded, ImageDescription, ImageRequest, MaskSource, ModelDescription, SegmentRequest,
    Segmented, Timings,
};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use store::{Era, Store, StoredAnswer};

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

/// What a service is made of.
pub struct Parts<'a> {
    /// `[segment]`.
    pub options: Options,
    /// The engine's handle.
    pub engine: Engine,
    /// The decoder children.
    pub decoder: Decoder,
    /// The disk cache, where there is one.
    pub cache: Option<Cache>,
    /// `inbox.path`.
    pub inbox: Option<&'a Path>,
    /// Largest image in bytes, for the inbox.
    pub max_image_bytes: u64,
    /// How long an answer lives.
    pub lifetime: Duration,
}

struct Inner {
    /// In force now; a request keeps those that it began with.
    options: RwLock<Arc<Options>>,
    engine: Engine,
    decoder: Decoder,
    inbox: Inbox,
    store: Store,
    encodes: Flight<EmbeddingKey, Encoded>,
    /// The last engine that passed its self-test in this run.
    verified: Mutex<Option<Arc<LoadedInfo>>>,
}

/// What the flight of an embedding brings.
#[derive(Clone)]
struct Encoded {
    embedding: Embedding,
    /// Waiting and encoding; `None` when it came from disk.
    took: Option<(Duration, Duration)>,
}

impl Service {
    /// Within a runtime.
    ///
    /// # Errors
    /// When the inbox folder can't be opened.
    pub fn new(parts: Parts<'_>) -> std::io::Result<Self> {
        let service = Self(Arc::new(Inner {
            inbox: Inbox::open(parts.inbox, parts.max_image_bytes)?,
            store: Store::new(&parts.options, parts.cache, parts.lifetime),
            options: RwLock::new(Arc::new(parts.options)),
            engine: parts.engine,
            decoder: parts.decoder,
            encodes: Flight::new(),
            verified: Mutex::new(None),
        }));
        tokio::spawn(remember_verified(service.0.engine.clone(), Arc::downgrade(&service.0)));
        Ok(service)
    }

    /// Takes other options from the next request on; memory budgets stay as they were.
    pub fn reconfigure(&self, options: Options) {
        *self.0.options.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(options);
    }

    /// Segments an image.
    ///
    /// # Errors
    /// Any [`ServiceError`]; `Timeout` at the request's deadline.
    pub async fn segment(&self, request: SegmentRequest) -> Result<Segmented, ServiceError> {
        let deadline = request.deadline;
        within(deadline, self.0.segment(request)).await
    }

    /// Segments the DICOM file that this very request brings, and writes its mask as a DICOM
    /// Segmentation of that file.
    ///
    /// # Errors
    /// Any [`ServiceError`]; `NotDicom` where the request brings no DICOM file, `Invalid` where a
    /// Segmentation can't refer to it.
    pub async fn segmentation(
        &self,
        request: SegmentRequest,
    ) -> Result<(Segmented, Bytes), ServiceError> {
        let deadline = request.deadline;
        within(deadline, self.0.segmentation(request)).await
    }

    /// Computes and keeps the embedding of an image.
    ///
    /// # Errors
    /// Any [`ServiceError`]; `Timeout` at the deadline.
    pub async fn embed(
        &self,
        request: ImageRequest,
        deadline: Instant,
    ) -> Result<Embedded, ServiceError> {
        within(deadline, self.0.embed(request, deadline)).await
    }

    /// The slice as the engine would see it: an 8-bit PNG.
    ///
    /// # Errors
    /// Those of reading an image; `UnknownImage` for a reference, whose pixels are not kept.
    pub async fn preview(
        &self,
        request: ImageRequest,
        deadline: Instant,
    ) -> Result<(ImageDescription, Bytes), ServiceError> {
        let (image, levels) = self.view(request, deadline).await?;
        let size = image.size;
        let png = blocking(move || match &*levels {
            Levels::Grey(levels) => png::encode_grey(levels, size),
            Levels::Rgb(levels) => png::encode_rgb(levels, size),
        });
        Ok((image, png.await?.into()))
    }

    /// The slice as the engine would see it: levels.
    ///
    /// # Errors
    /// As [`Service::preview`].
    pub async fn view(
        &self,
        request: ImageRequest,
        deadline: Instant,
    ) -> Result<(ImageDescription, Arc<Levels>), ServiceError> {
        within(deadline, self.0.view(request)).await
    }

    /// An earlier answer.
    ///
    /// # Errors
    /// `UnknownMask` when there is none (any more).
    pub async fn mask(&self, key: AnswerKey) -> Result<Answer, ServiceError> {
        let inner = Arc::clone(&self.0);
        let stored = blocking(move || inner.store.answer(key)).await?;
        stored.map(|stored| stored.answer.clone()).ok_or(ServiceError::UnknownMask)
    }

    /// The engine's handle, for vitals.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The decoder, for vitals.
    #[must_use]
    pub fn decoder(&self) -> &Decoder {
        &self.0.decoder
    }

    /// The disk cache, where there is one.
    #[must_use]
    pub fn cache(&self) -> Option<&Cache> {
        self.0.store.disk()
    }

    /// How long an answer lives.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.0.store.lifetime()
    }

    /// Bytes of embeddings kept in memory (host or device).
    #[must_use]
    pub fn embeddings_bytes(&self) -> usize {
        self.0.store.embeddings_bytes()
    }

    /// Bytes of recent answers kept in memory.
    #[must_use]
    pub fn answers_bytes(&self) -> usize {
        self.0.store.answers_bytes()
    }

    /// Forgets everything: memory, device and disk; what is under way is still answered, but not
    /// kept. Returns the number of files removed; blocking.
    #[must_use]
    pub fn purge(&self) -> u64 {
        self.0.store.purge()
    }

    /// Writes what still waits for the disk; blocking. For the end of a drain.
    pub fn finish(&self) {
        self.0.store.finish();
    }
}

/// Said while nobody knows yet.
const LOADING: &str = "the engine is being loaded";

/// Keeps the last READY engine, so that its cached answers are served in manual-only mode too.
async fn remember_verified(engine: Engine, service: std::sync::Weak<Inner>) {
    let mut states = engine.watch();
    drop(engine);
    loop {
        let ready = match &*states.borrow_and_update() {
            State::Ready(info) => Some(Arc::clone(info)),
            State::Loading | State::ManualOnly { .. } => None,
        };
        let Some(service) = service.upgrade() else { return };
        if ready.is_some() {
            *service.verified.lock().unwrap_or_else(PoisonError::into_inner) = ready;
        }
        drop(service);
        if states.changed().await.is_err() {
            return;
        }
    }
}

async fn within<T>(
    deadline: Instant,
    work: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    let work = std::pin::pin!(work);
    tokio::time::timeout_at(deadline.into(), work).await.unwrap_or(Err(ServiceError::Timeout))
}

/// A plan takes as many points as it was built for; that is the package's limit, not the user's
/// fault, so the number is named.
fn fits(prompt: &Prompt, max_points: usize) -> Result<(), ServiceError> {
    let points = prompt.clicks().len() + if prompt.bounds().is_some() { 2 } else { 0 };
    if points <= max_points {
        return Ok(());
    }
    Err(ServiceError::Invalid(format!(
        "click_points: this engine takes at most {max_points} points a prompt, of which a box takes two; {points} were sent"
    )))
}

impl Inner {
    async fn segment(self: &Arc<Self>, request: SegmentRequest) -> Result<Segmented, ServiceError> {
        let engine = self.verified()?;
        let (image, question) = Question::of(request);
        let mut timings = Timings::default();
        let resolved = self.resolve(image, &mut timings).await?;
        self.answered(question, resolved, engine, timings).await
    }

    /// An image's answer: kept from before, or made now.
    async fn answered(
        self: &Arc<Self>,
        question: Question,
        resolved: Resolved,
        engine: Arc<LoadedInfo>,
        mut timings: Timings,
    ) -> Result<Segmented, ServiceError> {
        let Question { image_type, clicks, bounds, target, mask_input, prompt_from, deadline } =
            question;
        let options = self.options();
        let size = resolved.record.size;
        let side = engine.engine.input_size / 4;
        let mask = match mask_input {
            None => None,
            Some(source) => Some(self.mask_input(source, size, side).await?),
        };
        let clicks = self.seeded(clicks, bounds, prompt_from, size, side).await?;
        let prompt = Prompt::new(size, clicks, bounds, mask, options.max_clicks)?;
        fits(&prompt, engine.engine.max_points)?;
        let embedding_key = keys::embedding(resolved.key, &engine.engine.fingerprint);
        let profile = profile(&options, image_type, target);
        let key = keys::answer(&keys::AnswerFields {
            embedding: embedding_key,
            prompt: &prompt,
            image_type,
            target,
            profile,
            clean: &options.clean,
        });
        let inner = Arc::clone(self);
        let hit = blocking(move || inner.store.answer(key)).await?;
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
        let warnings = warnings(&options, &engine, &answer);
        Ok(Segmented {
            answer,
            cached,
            embedding_cached,
            image: resolved.describe(),
            model: model(&engine),
            timings,
            warnings,
        })
    }

    async fn embed(
        self: &Arc<Self>,
        request: ImageRequest,
        deadline: Instant,
    ) -> Result<Embedded, ServiceError> {
        let engine = self.verified()?;
        let mut timings = Timings::default();
        let resolved = self.resolve(request, &mut timings).await?;
        let key = keys::embedding(resolved.key, &engine.engine.fingerprint);
        let (_, embedding_cached) =
            self.embedding(&resolved, key, &engine, deadline, &mut timings).await?;
        Ok(Embedded { image: resolved.describe(), embedding_cached, timings })
    }

    async fn view(
        self: &Arc<Self>,
        request: ImageRequest,
    ) -> Result<(ImageDescription, Arc<Levels>), ServiceError> {
        let resolved = self.resolve(request, &mut Timings::default()).await?;
        let (inner, pixels) = (Arc::clone(self), resolved.pixels.clone());
        let levels = blocking(move || inner.levels(pixels)).await??;
        Ok((resolved.describe(), levels))
    }

    /// The engine that passed its self-test in this run, or why there is none.
    fn verified(&self) -> Result<Arc<LoadedInfo>, ServiceError> {
        let reason = match self.engine.state() {
            State::Ready(info) => return Ok(info),
            State::Loading => LOADING,
            State::ManualOnly { reason, .. } => reason,
        };
        let last = self.verified.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.ok_or_else(|| ServiceError::EngineUnavailable { reason: reason.to_owned() })
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
                rows::batch(&job.prompt, resolved.record.size, job.engine.engine.input_size);
            Some(self.decode_one(&embedding, batch, &job, class, timings).await?)
        };
        let side = job.engine.engine.input_size / 4;
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

    /// The embedding of an image: from memory, from disk, or encoded by one for all who ask. The
    /// second value is true when the encoder did not run for this caller.
    async fn embedding(
        self: &Arc<Self>,
        resolved: &Resolved,
        key: EmbeddingKey,
        engine: &Arc<LoadedInfo>,
        deadline: Instant,
        timings: &mut Timings,
    ) -> Result<(Embedding, bool), ServiceError> {
        if let Some(embedding) = self.store.embedding(key) {
            return Ok((embedding, true));
        }
        let inner = Arc::clone(self);
        let job = EncodeJob {
            key,
            pixels: resolved.pixels.clone(),
            size: resolved.record.size,
            side: engine.engine.input_size,
            era: resolved.era,
        };
        let work = move |deadline| inner.encode(job, deadline);
        let (outcome, started) = self.encodes.join(key, deadline, work).await;
        let Encoded { embedding, took } = outcome?;
        let Some((queue, encode)) = took.filter(|_| started) else { return Ok((embedding, true)) };
        add(&mut timings.queue, queue);
        timings.encode = Some(encode);
        Ok((embedding, false))
    }

    async fn encode(
        self: Arc<Self>,
        job: EncodeJob,
        deadline: Deadline,
    ) -> Result<Encoded, ServiceError> {
        let EncodeJob { key, pixels, size, side, era } = job;
        let inner = Arc::clone(&self);
        let kept = blocking(move || inner.store.embedding_on_disk(key)).await?;
        if let Some((kept, created_ms)) = kept {
            // One that no longer fits the engine is a miss, not an error.
            if let Ok(embedding) = self.engine.upload(kept, Class::Cold, deadline.clone()).await {
                self.store.put_embedding(era, key, &embedding, Some(created_ms));
                return Ok(Encoded { embedding, took: None });
            }
        }
        let cost = Cost { encodes: 1, prompts: 1 };
        self.engine.admit(Class::Cold, cost, deadline.instant())?;
        let inner = Arc::clone(&self);
        let tensor = blocking(move || {
            let levels = inner.levels(pixels)?;
            preprocess::tensor(&levels, size, side).ok_or_else(|| internal("no tensor of an image"))
        })
        .await??;
        let done = self.engine.encode(tensor, Class::Cold, deadline).await?;
        self.store.put_embedding(era, key, &done.embedding, None);
        if self.store.keeps_embeddings() {
            let (inner, embedding) = (Arc::clone(&self), done.embedding.clone());
            tokio::spawn(async move {
                match inner.engine.download(embedding, Instant::now() + KEEPING).await {
                    Ok(host) => {
                        let _ =
                            blocking(move || inner.store.write_embedding(era, key, &host)).await;
                    }
                    Err(error) => tracing::debug!(%error, "an embedding was not kept on disk"),
                }
            });
        }
        Ok(Encoded { embedding: done.embedding, took: Some((done.queue, done.took)) })
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
        let manifest = job.engine.package.manifest();
        let done = self.engine.decode(embedding.clone(), batch, class, job.deadline).await?;
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

    /// One click: a grid of prompts, the best of what they give.
    async fn find(
        &self,
        resolved: &Resolved,
        embedding: &Embedding,
        job: &Job<'_>,
        timings: &mut Timings,
    ) -> Result<Option<oneclick::Found>, ServiceError> {
        let body = &resolved.record.body;
        let places = oneclick::places(body, job.profile);
        let info = &job.engine.engine;
        let mut chooser = oneclick::Chooser::new(job.profile, body, &places, info.input_size / 4);
        // Mask 0 of four is SAM2's answer to definite prompts; a grid asks ambiguous ones.
        let multimask =
            info.masks == 4 && job.engine.package.manifest().selection == Selection::Sam2;
        let scale = info.input_size as f64;
        for chunk in places.chunks(oneclick::BATCH.min(info.max_prompts)) {
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

    /// `mask_input` as the decoder takes it.
    async fn mask_input(
        self: &Arc<Self>,
        source: MaskSource,
        size: Size,
        side: usize,
    ) -> Result<MaskInput, ServiceError> {
        let inner = Arc::clone(self);
        blocking(move || match source {
            MaskSource::Answer(key) => {
                let stored = inner.store.answer(key).ok_or(ServiceError::UnknownMask)?;
                if stored.logits.len() != side * side {
                    return Err(ServiceError::UnknownMask);
                }
                Ok(Arc::clone(&stored.logits))
            }
            MaskSource::Png(bytes) => {
                let slice = inner.decode(&bytes, None).map_err(|error| match error {
                    ServiceError::Unreadable(what) => {
                        ServiceError::Invalid(format!("mask_input can't be read: {what}"))
                    }
                    other => other,
                })?;
                render::mask_input(&slice, size, side)
            }
        })
        .await?
    }

    /// Clicks, with one more in the middle of a neighbouring slice's answer where nobody has said
    /// what is inside. The click alone, not the neighbour's box: walking through a volume, boxes
    /// shrink or grow from slice to slice until the object is lost (docs/quality.md has figures).
    async fn seeded(
        self: &Arc<Self>,
        mut clicks: Vec<Click>,
        bounds: Option<PromptBox>,
        prompt_from: Option<AnswerKey>,
        size: Size,
        side: usize,
    ) -> Result<Vec<Click>, ServiceError> {
        let Some(key) = prompt_from else { return Ok(clicks) };
        let inner = Arc::clone(self);
        let stored = blocking(move || inner.store.answer(key)).await?;
        let stored = stored.ok_or(ServiceError::UnknownMask)?;
        let place = (stored.logits.len() == side * side)
            .then(|| render::place(&stored.logits, side))
            .flatten();
        let Some((x, y)) = place else {
            let text = "prompt_from names an answer whose mask is empty: click on the structure";
            return Err(ServiceError::Invalid(text.into()));
        };
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        let told = clicks.iter().any(|click| click.label == ClickLabel::Inside);
        if !told && bounds.is_none() {
            clicks.insert(0, Click { x: x * w, y: y * h, label: ClickLabel::Inside });
        }
        Ok(clicks)
    }

    fn options(&self) -> Arc<Options> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn profile(options: &Options, image_type: ImageType, target: Target) -> &Profile {
    let profiles = &options.profiles;
    match (image_type, target) {
        (ImageType::L3, _) => &profiles.l3,
        (ImageType::Middle, Target::Psoas) => &profiles.psoas,
        (ImageType::Middle, Target::Muscle) => &profiles.muscle,
        (ImageType::Auto, _) => &profiles.auto,
    }
}

/// A [`SegmentRequest`] without its image, whose bytes need not wait for the answer.
struct Question {
    image_type: ImageType,
    clicks: Vec<Click>,
    bounds: Option<PromptBox>,
    target: Target,
    mask_input: Option<MaskSource>,
    prompt_from: Option<AnswerKey>,
    deadline: Instant,
}

impl Question {
    fn of(request: SegmentRequest) -> (ImageRequest, Self) {
        let SegmentRequest { image, clicks, bounds, target, mask_input, prompt_from, deadline } =
            request;
        let image_type = image.image_type;
        let question =
            Self { image_type, clicks, bounds, target, mask_input, prompt_from, deadline };
        (image, question)
    }

    /// Did a person point at something? Else it is one click.
    fn is_prompted(&self) -> bool {
        let Self { clicks, bounds, mask_input, prompt_from, .. } = self;
        !clicks.is_empty() || bounds.is_some() || mask_input.is_some() || prompt_from.is_some()
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

/// A miss on its way to an answer.
struct Job<'a> {
    engine: &'a Arc<LoadedInfo>,
    prompt: Prompt,
    image_type: ImageType,
    profile: &'a Profile,
    clean: postprocess::Options,
    key: AnswerKey,
    deadline: Instant,
}

/// A miss on its way to an embedding.
struct EncodeJob {
    key: EmbeddingKey,
    pixels: Pixels,
    size: Size,
    side: usize,
    era: Era,
}

/// How long an embedding may wait to be copied for the disk: everything else goes first.
const KEEPING: Duration = Duration::from_secs(120);

/// What can't happen unless this program is wrong.
fn internal(what: &'static str) -> ServiceError {
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Bug(&'static str);
    ServiceError::Internal(Arc::new(Bug(what)))
}

impl From<EngineError> for ServiceError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { estimate } => Self::Overloaded { retry_after: estimate },
            EngineError::Unavailable { reason } => {
                Self::EngineUnavailable { reason: reason.to_owned() }
            }
            EngineError::Expired => Self::Timeout,
            EngineError::Failed(error) => Self::InferenceFailed(Arc::new(error)),
        }
    }
}

fn add(total: &mut Option<Duration>, more: Duration) {
    *total = Some(total.unwrap_or_default() + more);
}

fn model(engine: &LoadedInfo) -> ModelDescription {
    ModelDescription {
        engine: Arc::clone(&engine.engine),
        intended_use: engine.package.manifest().intended_use.clone(),
    }
}
