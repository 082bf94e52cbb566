//! The use cases: segment (also as a DICOM Segmentation), embed, preview. Knows no HTTP and no CUDA.
//!
//! How a request becomes an answer: [`image`] finds out which picture, [`prompts`] what is asked,
//! [`embedding`] encodes, [`answer`] decodes (by itself: [`oneclick`]) and has it rendered.
//!
//! Invariants:
//! 1. A hit never touches the engine; a miss encodes an image once however many ask ([`flight`]).
//! 2. No mask is made up: without an engine that passed its golden self-test in this run there is
//!    no answer, and without a result there is an error that says why.
//! 3. Work that others may use (an embedding) is owned by itself and finishes when callers leave;
//!    work for one caller ends with that caller.
//! 4. What identifies a patient never comes here, but for a DICOM Segmentation's own request, and
//!    with that it goes ([`segmentation`]).

mod answer;
mod embedding;
pub mod error;
mod flight;
pub mod health;
mod image;
mod inbox;
mod keys;
pub mod loader;
mod oneclick;
pub mod options;
mod prompts;
mod record;
mod render;
pub mod request;
mod rows;
mod segmentation;
pub mod selftest;
pub mod serving;
mod store;

use crate::cache::Cache;
use crate::domain::key::{AnswerKey, EmbeddingKey};
use crate::engine::worker::{Engine, State};
use crate::imaging::decoder::Decoder;
use crate::imaging::{Levels, png};
use bytes::Bytes;
use embedding::Encoded;
use error::ServiceError;
use flight::Flight;
use image::blocking;
use inbox::Inbox;
use options::{InForce, Options};
use request::{
    Answer, Embedded, ImageDescription, ImageRequest, SegmentRequest, Segmented, Timings,
};
use serving::{Serving, Watching};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use store::{Reach, Store, StoredAnswer};
use tokio::sync::watch;

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
    options: RwLock<Arc<InForce>>,
    /// The one that serves, and whoever wants to know of another.
    engine: watch::Sender<Engine>,
    decoder: Decoder,
    inbox: Inbox,
    store: Store,
    encodes: Flight<EmbeddingKey, Encoded>,
    /// Nothing new is to be sent here.
    stopping: AtomicBool,
    /// The last engine that passed its self-test in this run.
    verified: Mutex<Option<Serving>>,
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
            options: RwLock::new(Arc::new(InForce::new(parts.options))),
            engine: watch::Sender::new(parts.engine),
            decoder: parts.decoder,
            encodes: Flight::new(),
            stopping: AtomicBool::new(false),
            verified: Mutex::new(None),
        }));
        tokio::spawn(remember_verified(service.watch(), Arc::downgrade(&service.0)));
        Ok(service)
    }

    /// Takes other options from the next request on; memory budgets stay as they were.
    pub fn reconfigure(&self, options: Options) {
        let in_force = Arc::new(InForce::new(options));
        *self.0.options.write().unwrap_or_else(PoisonError::into_inner) = in_force;
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
        let stored = self.0.stored(key).await?;
        stored.map(|stored| stored.answer.clone()).ok_or(ServiceError::UnknownMask)
    }

    /// The handle of the engine that serves.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.0.engine()
    }

    /// Has this engine serve from the next request on. Those under way are finished by the one before,
    /// which ends with the last of them.
    pub fn exchange_engine(&self, engine: Engine) {
        if let State::Ready(info) = engine.state() {
            let verified = Some(Serving { engine: engine.clone(), info });
            *self.0.verified.lock().unwrap_or_else(PoisonError::into_inner) = verified;
        }
        self.0.engine.send_replace(engine);
    }

    /// The state of whichever engine serves.
    #[must_use]
    pub fn watch(&self) -> Watching {
        Watching::new(self.0.engine.subscribe())
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

    /// Says from now on that it is not ready for more; what comes all the same is answered.
    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Writes what still waits for the disk; blocking. For the end of a drain.
    pub fn finish(&self) {
        self.0.store.finish();
    }
}

/// Said while nobody knows yet.
pub const LOADING: &str = "the engine is being loaded";

/// Keeps the last READY engine, so that its cached answers are served in manual-only mode too.
async fn remember_verified(mut watching: Watching, service: std::sync::Weak<Inner>) {
    loop {
        let ready = match watching.state() {
            State::Ready(info) => Some(Serving { engine: watching.engine().clone(), info }),
            State::Loading | State::ManualOnly { .. } => None,
        };
        let Some(service) = service.upgrade() else { return };
        if ready.is_some() {
            *service.verified.lock().unwrap_or_else(PoisonError::into_inner) = ready;
        }
        drop(service);
        if !watching.changed().await {
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

impl Inner {
    async fn view(
        self: &Arc<Self>,
        request: ImageRequest,
    ) -> Result<(ImageDescription, Arc<Levels>), ServiceError> {
        let resolved = self.resolve(request, &mut Timings::default()).await?;
        let (inner, pixels) = (Arc::clone(self), resolved.pixels.clone());
        let levels = blocking(move || inner.levels(pixels)).await??;
        Ok((resolved.describe(), levels))
    }

    fn engine(&self) -> Engine {
        self.engine.borrow().clone()
    }

    /// The engine for a request. While the first one of this run is being loaded, the request waits.
    async fn serving(&self, deadline: Instant) -> Result<Serving, ServiceError> {
        let engine = self.engine();
        let refused = match self.verified() {
            Err(refused) if matches!(engine.state(), State::Loading) => refused,
            found => return found,
        };
        let patience = Instant::now() + Duration::from_secs(self.options().options.loading_wait_s);
        let settled = tokio::time::timeout_at(patience.min(deadline).into(), engine.settled());
        if settled.await.is_ok() { self.verified() } else { Err(refused) }
    }

    /// The engine that passed its self-test in this run, or why there is none.
    fn verified(&self) -> Result<Serving, ServiceError> {
        let engine = self.engine();
        let reason = match engine.state() {
            State::Ready(info) => return Ok(Serving { engine, info }),
            State::Loading => LOADING,
            State::ManualOnly { reason, .. } => reason,
        };
        let last = self.verified.lock().unwrap_or_else(PoisonError::into_inner).clone();
        last.ok_or_else(|| ServiceError::EngineUnavailable { reason: reason.to_owned() })
    }

    /// An earlier answer: without a change of threads where it is in memory.
    async fn stored(
        self: &Arc<Self>,
        key: AnswerKey,
    ) -> Result<Option<Arc<StoredAnswer>>, ServiceError> {
        if let Some(stored) = self.store.answer(key, Reach::Memory) {
            return Ok(Some(stored));
        }
        let inner = Arc::clone(self);
        blocking(move || inner.store.answer(key, Reach::Disk)).await
    }

    fn options(&self) -> Arc<InForce> {
        Arc::clone(&self.options.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn add(total: &mut Option<Duration>, more: Duration) {
    *total = Some(total.unwrap_or_default() + more);
}
