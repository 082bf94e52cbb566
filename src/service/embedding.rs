//! The embedding of an image: from memory, from disk, or encoded, once however many ask.

use super::error::{ServiceError, internal};
use super::image::{Pixels, Resolved, blocking};
use super::request::{Embedded, ImageRequest, Timings};
use super::serving::Serving;
use super::store::Era;
use super::{Inner, add, keys};
use crate::domain::key::EmbeddingKey;
use crate::domain::slice::Size;
use crate::domain::tensor::Embedding;
use crate::engine::worker::{Class, Cost, Deadline, Engine};
use crate::imaging::preprocess;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an embedding may wait to be copied for the disk: everything else goes first.
const KEEPING: Duration = Duration::from_secs(120);

/// What the flight of an embedding brings.
#[derive(Clone)]
pub(super) struct Encoded {
    embedding: Embedding,
    /// Waiting and encoding; `None` when it came from disk.
    took: Option<(Duration, Duration)>,
}

/// A miss on its way to an embedding.
struct EncodeJob {
    key: EmbeddingKey,
    pixels: Pixels,
    size: Size,
    side: usize,
    era: Era,
    engine: Engine,
}

impl Inner {
    pub(super) async fn embed(
        self: &Arc<Self>,
        request: ImageRequest,
        deadline: Instant,
    ) -> Result<Embedded, ServiceError> {
        let engine = self.serving(deadline).await?;
        let mut timings = Timings::default();
        let resolved = self.resolve(request, &mut timings).await?;
        let key = keys::embedding(resolved.key, &engine.info.engine.fingerprint);
        let (_, embedding_cached) =
            self.embedding(&resolved, key, &engine, deadline, &mut timings).await?;
        Ok(Embedded { image: resolved.describe(), embedding_cached, timings })
    }

    /// The embedding of an image: from memory, from disk, or encoded by one for all who ask. The
    /// second value is true when the encoder did not run for this caller.
    pub(super) async fn embedding(
        self: &Arc<Self>,
        resolved: &Resolved,
        key: EmbeddingKey,
        engine: &Serving,
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
            side: engine.info.engine.input_size,
            era: resolved.era,
            engine: engine.engine.clone(),
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
        let EncodeJob { key, pixels, size, side, era, engine } = job;
        let inner = Arc::clone(&self);
        let kept = blocking(move || inner.store.embedding_on_disk(key)).await?;
        if let Some((kept, created_ms)) = kept {
            // One that no longer fits the engine is a miss, not an error.
            if let Ok(embedding) = engine.upload(kept, Class::Cold, deadline.clone()).await {
                self.store.put_embedding(era, key, &embedding, Some(created_ms));
                return Ok(Encoded { embedding, took: None });
            }
        }
        let cost = Cost { encodes: 1, prompts: 1 };
        engine.admit(Class::Cold, cost, deadline.instant())?;
        let inner = Arc::clone(&self);
        let tensor = blocking(move || {
            let levels = inner.levels(pixels)?;
            preprocess::tensor(&levels, size, side).ok_or_else(|| internal("no tensor of an image"))
        })
        .await??;
        let done = engine.encode(tensor, Class::Cold, deadline).await?;
        self.store.put_embedding(era, key, &done.embedding, None);
        if self.store.keeps_embeddings() {
            let (inner, embedding) = (Arc::clone(&self), done.embedding.clone());
            tokio::spawn(async move {
                match engine.download(embedding, Instant::now() + KEEPING).await {
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
}
