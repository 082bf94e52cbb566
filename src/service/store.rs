//! What the service remembers: in memory for minutes, on disk for a day.
//!
//! Writes leave the response path: the cache takes them to disk on a thread of its own. A disk that
//! can't be written or can't keep up loses the disk copy, never the answer.
//!
//! Invariants:
//! 1. What was just put can be read back at once, from memory, before it is on disk.
//! 2. Nothing is served after its day, memory or disk: an entry's age counts from its creation.

use super::options::Options;
use super::record::{AnswerRecord, ImageRecord, SliceRecord};
use super::request::Answer;
use crate::cache::memory::ByteLru;
use crate::cache::{Cache, Content, Entry, Kind};
use crate::domain::key::{AliasKey, AnswerKey, EmbeddingKey, ImageKey, Sum};
use crate::domain::slice::Size;
use crate::domain::tensor::{Embedding, HostEmbedding, MaskInput};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

/// An answer and what refining it needs.
#[derive(Clone)]
pub(super) struct StoredAnswer {
    pub(super) answer: Answer,
    pub(super) size: Size,
    /// Low-resolution logits [S/4, S/4] of the chosen mask, clamped to ±32.
    pub(super) logits: MaskInput,
}

/// Memory in front, disk behind.
pub(super) struct Store {
    disk: Option<Cache>,
    lifetime: Duration,
    answers: Mutex<ByteLru<AnswerKey, Arc<StoredAnswer>>>,
    slices: Mutex<ByteLru<AliasKey, SliceRecord>>,
    images: Mutex<ByteLru<ImageKey, (ImageRecord, SystemTime)>>,
    embeddings: Mutex<ByteLru<EmbeddingKey, (Embedding, SystemTime)>>,
}

impl Store {
    /// `disk` is `None` where no folder can be written or the cache is switched off.
    pub(super) fn new(options: &Options, disk: Option<Cache>, lifetime: Duration) -> Self {
        let budget = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Self {
            disk,
            lifetime,
            answers: Mutex::new(ByteLru::new(budget(options.recent_answers_bytes))),
            slices: Mutex::new(ByteLru::new(budget(options.known_images_bytes))),
            images: Mutex::new(ByteLru::new(budget(options.known_images_bytes))),
            embeddings: Mutex::new(ByteLru::new(budget(options.embeddings_bytes))),
        }
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    pub(super) fn disk(&self) -> Option<&Cache> {
        self.disk.as_ref()
    }

    /// What parsing these bytes gave; blocking.
    pub(super) fn slice(&self, key: AliasKey) -> Option<SliceRecord> {
        if let Some(record) = lock(&self.slices).get(&key) {
            return Some(record.clone());
        }
        let entry = self.disk.as_ref()?.get(Kind::Slice, &key.0)?;
        let record = SliceRecord::from_bytes(&entry.metadata())?;
        lock(&self.slices).put(key, record.clone(), entry.metadata().len() + 256);
        Some(record)
    }

    pub(super) fn put_slice(&self, key: AliasKey, record: SliceRecord) {
        let bytes = record.to_bytes();
        lock(&self.slices).put(key, record, bytes.len() + 256);
        self.write(Kind::Slice, key.0, &bytes, &[]);
    }

    /// An image that a reference names; blocking.
    pub(super) fn image(&self, key: ImageKey) -> Option<ImageRecord> {
        if let Some((record, expires)) = lock(&self.images).get(&key) {
            return (SystemTime::now() < *expires).then(|| record.clone());
        }
        let entry = self.disk.as_ref()?.get(Kind::Slice, &key.0)?;
        let record = ImageRecord::from_bytes(&entry.metadata())?;
        let bytes = entry.metadata().len() + 256;
        lock(&self.images).put(key, (record.clone(), entry.expires()), bytes);
        Some(record)
    }

    pub(super) fn put_image(&self, key: ImageKey, record: ImageRecord) {
        let bytes = record.to_bytes();
        let expires = SystemTime::now() + self.lifetime;
        lock(&self.images).put(key, (record, expires), bytes.len() + 256);
        self.write(Kind::Slice, key.0, &bytes, &[]);
    }

    /// A finished answer; blocking.
    pub(super) fn answer(&self, key: AnswerKey) -> Option<Arc<StoredAnswer>> {
        if let Some(stored) = lock(&self.answers).get(&key) {
            return (SystemTime::now() < stored.answer.expires).then(|| Arc::clone(stored));
        }
        let entry = self.disk.as_ref()?.get(Kind::Answer, &key.0)?;
        stored_answer(key, &entry).map(Arc::new)
    }

    /// Keeps an answer in memory and, a little later, on disk.
    pub(super) fn put_answer(&self, stored: &Arc<StoredAnswer>) {
        let answer = &stored.answer;
        let record = AnswerRecord::new(
            stored.size,
            answer.confidence,
            answer.bounding_box,
            answer.annotation.as_ref(),
            &answer.warnings,
        );
        let logits: Vec<half::f16> =
            stored.logits.iter().map(|&l| half::f16::from_f32(l)).collect();
        let metadata = record.to_bytes();
        let bytes = answer.png.len() + answer.png_base64.len() + stored.logits.len() * 4;
        lock(&self.answers).put(answer.key, Arc::clone(stored), bytes + metadata.len() + 256);
        let sections = [&*answer.png, &*answer.png_base64, bytemuck::cast_slice(&logits)];
        self.write(Kind::Answer, answer.key.0, &metadata, &sections);
    }

    /// When something put now expires.
    pub(super) fn expiry(&self) -> SystemTime {
        SystemTime::now() + self.lifetime
    }

    /// An embedding that is at hand.
    pub(super) fn embedding(&self, key: EmbeddingKey) -> Option<Embedding> {
        let mut embeddings = lock(&self.embeddings);
        let (embedding, expires) = embeddings.get(&key)?;
        (SystemTime::now() < *expires).then(|| embedding.clone())
    }

    /// An embedding on disk; blocking.
    pub(super) fn embedding_on_disk(&self, key: EmbeddingKey) -> Option<HostEmbedding> {
        let entry = self.disk.as_ref()?.get(Kind::Embedding, &key.0)?;
        let tensor = |index| -> Option<Vec<f32>> {
            let section = entry.section(index)?;
            Some(bytemuck::try_cast_slice(&section).ok()?.to_vec())
        };
        Some(HostEmbedding {
            high_res_feats_0: tensor(0)?,
            high_res_feats_1: tensor(1)?,
            image_embed: tensor(2)?,
        })
    }

    /// Keeps an embedding where it is; what it pushes out is freed here, outside the lock.
    pub(super) fn put_embedding(&self, key: EmbeddingKey, embedding: &Embedding) {
        let bytes = embedding.bytes();
        let value = (embedding.clone(), self.expiry());
        let out = lock(&self.embeddings).put(key, value, bytes);
        drop(out);
    }

    /// Whether embeddings are kept on disk.
    pub(super) fn keeps_embeddings(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.keeps(Kind::Embedding))
    }

    pub(super) fn write_embedding(&self, key: EmbeddingKey, embedding: &HostEmbedding) {
        let sections = [
            bytemuck::cast_slice(&embedding.high_res_feats_0),
            bytemuck::cast_slice(&embedding.high_res_feats_1),
            bytemuck::cast_slice(&embedding.image_embed),
        ];
        self.write(Kind::Embedding, key.0, &[], &sections);
    }

    /// Forgets everything, memory and device; the disk is the caller's.
    pub(super) fn clear_memory(&self) {
        lock(&self.answers).clear();
        lock(&self.slices).clear();
        lock(&self.images).clear();
        lock(&self.embeddings).clear();
    }

    /// Bytes of embeddings in memory.
    pub(super) fn embeddings_bytes(&self) -> usize {
        lock(&self.embeddings).bytes()
    }

    /// Returns once what waits for the disk is there; blocking.
    pub(super) fn finish(&self) {
        if let Some(disk) = &self.disk {
            disk.flush();
        }
    }

    fn write(&self, kind: Kind, key: Sum, metadata: &[u8], sections: &[&[u8]]) {
        if let Some(disk) = &self.disk {
            // The cache counts its faults and logs each once; a lost write is no one else's concern.
            let _ = disk.put_soon(kind, &key, Content { metadata, sections });
        }
    }
}

fn stored_answer(key: AnswerKey, entry: &Entry) -> Option<StoredAnswer> {
    let record = AnswerRecord::from_bytes(&entry.metadata())?;
    let logits = entry.section(2)?;
    let logits: &[half::f16] = bytemuck::try_cast_slice(&logits).ok()?;
    Some(StoredAnswer {
        size: record.size(),
        logits: logits.iter().map(|l| l.to_f32()).collect(),
        answer: Answer {
            key,
            png: entry.section(0)?,
            png_base64: entry.section(1)?,
            confidence: record.confidence,
            bounding_box: record.bounding_box(),
            annotation: record.annotation(),
            warnings: record.warnings,
            expires: entry.expires(),
        },
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
