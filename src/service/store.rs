//! What the service remembers: in memory for minutes, on disk for a day.
//!
//! Writes leave the response path: the cache takes them to disk on a thread of its own. A disk that
//! can't be written or can't keep up loses the disk copy, never the answer.
//!
//! Invariants:
//! 1. What was just put can be read back at once, from memory, before it is on disk.
//! 2. Nothing is served after its day, memory or disk: an entry's age counts from its creation, by
//!    the cache's guarded clock, so that a wall clock that jumps neither ends nor prolongs it.
//! 3. What was under way when everything was purged is not kept: whoever puts says since when it
//!    has been at it ([`Era`]).

use super::options::Options;
use super::record::{AnswerRecord, ImageRecord, SliceRecord};
use super::request::Answer;
use crate::cache::memory::ByteLru;
use crate::cache::{Cache, Clock, Content, Entry, GuardedClock, Kind};
use crate::domain::key::{AliasKey, AnswerKey, EmbeddingKey, ImageKey, Sum};
use crate::domain::slice::Size;
use crate::domain::tensor::{Embedding, HostEmbedding, MaskInput};
use half::f16;
use half::slice::HalfFloatSliceExt as _;
use half::vec::HalfFloatVecExt as _;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

/// Metadata of an embedding's entry: says what its sections are. Another (or none) is a miss.
const EMBEDDING_FORM: &[u8] = b"f16";

/// An answer and what refining it needs.
#[derive(Clone)]
pub(super) struct StoredAnswer {
    pub(super) answer: Answer,
    pub(super) size: Size,
    /// Low-resolution logits [S/4, S/4] of the chosen mask, clamped to ±32.
    pub(super) logits: MaskInput,
}

/// How far to look for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Into memory only: never blocks.
    Memory,
    /// To the disk: blocking.
    Disk,
}

/// The time between two purges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(u64);

/// In memory, with the time of its creation.
type Kept<K, V> = Mutex<ByteLru<K, (V, u64)>>;

/// Memory in front, disk behind.
pub(super) struct Store {
    disk: Option<Cache>,
    clock: GuardedClock,
    lifetime: Duration,
    era: RwLock<u64>,
    answers: Kept<AnswerKey, Arc<StoredAnswer>>,
    slices: Kept<AliasKey, SliceRecord>,
    images: Kept<ImageKey, ImageRecord>,
    embeddings: Kept<EmbeddingKey, Embedding>,
}

impl Store {
    /// `disk` is `None` where there is none to use: it belongs to somebody else.
    pub(super) fn new(options: &Options, disk: Option<Cache>, lifetime: Duration) -> Self {
        let budget = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let own_clock = || GuardedClock::new(Clock::system());
        Self {
            clock: disk.as_ref().map_or_else(own_clock, Cache::clock),
            disk,
            lifetime,
            era: RwLock::new(0),
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

    /// To be asked for before the work whose result is put.
    pub(super) fn era(&self) -> Era {
        Era(*self.era.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Still that era; no purge begins while this is held.
    fn within(&self, era: Era) -> Option<RwLockReadGuard<'_, u64>> {
        let now = self.era.read().unwrap_or_else(PoisonError::into_inner);
        (*now == era.0).then_some(now)
    }

    /// What parsing these bytes gave.
    pub(super) fn slice(&self, key: AliasKey, reach: Reach) -> Option<SliceRecord> {
        let era = self.era();
        if let Some(record) = self.kept(&self.slices, &key) {
            self.used(Kind::Slice, &key.0);
            return Some(record);
        }
        let entry = self.entry(Kind::Slice, &key.0, reach)?;
        let record = SliceRecord::from_bytes(&entry.metadata())?;
        let value = (record.clone(), entry.created_ms());
        self.keep(era, &self.slices, key, value, entry.metadata().len() + 256);
        Some(record)
    }

    pub(super) fn put_slice(&self, era: Era, key: AliasKey, record: SliceRecord) {
        let bytes = record.to_bytes();
        let value = (record, self.clock.now().ms);
        self.keep(era, &self.slices, key, value, bytes.len() + 256);
        self.write(era, Kind::Slice, key.0, &bytes, &[]);
    }

    /// An image that a reference names.
    pub(super) fn image(&self, key: ImageKey, reach: Reach) -> Option<ImageRecord> {
        let era = self.era();
        if let Some(record) = self.kept(&self.images, &key) {
            self.used(Kind::Slice, &key.0);
            return Some(record);
        }
        let entry = self.entry(Kind::Slice, &key.0, reach)?;
        let record = ImageRecord::from_bytes(&entry.metadata())?;
        let value = (record.clone(), entry.created_ms());
        self.keep(era, &self.images, key, value, entry.metadata().len() + 256);
        Some(record)
    }

    pub(super) fn put_image(&self, era: Era, key: ImageKey, record: ImageRecord) {
        let bytes = record.to_bytes();
        let value = (record, self.clock.now().ms);
        self.keep(era, &self.images, key, value, bytes.len() + 256);
        self.write(era, Kind::Slice, key.0, &bytes, &[]);
    }

    /// A finished answer.
    pub(super) fn answer(&self, key: AnswerKey, reach: Reach) -> Option<Arc<StoredAnswer>> {
        let era = self.era();
        if let Some(stored) = self.recent_answer(key) {
            self.used(Kind::Answer, &key.0);
            return Some(stored);
        }
        let entry = self.entry(Kind::Answer, &key.0, reach)?;
        let stored = Arc::new(stored_answer(key, &entry)?);
        let value = (Arc::clone(&stored), entry.created_ms());
        self.keep(era, &self.answers, key, value, entry.bytes() + stored.logits.len() * 4 + 256);
        Some(stored)
    }

    fn recent_answer(&self, key: AnswerKey) -> Option<Arc<StoredAnswer>> {
        let now = self.clock.now();
        let mut answers = lock(&self.answers);
        let (stored, created_ms) = answers.get(&key)?;
        if now.is_over(*created_ms, self.lifetime) {
            return None;
        }
        let expires = now.expiry(*created_ms, self.lifetime);
        let off = expires.duration_since(stored.answer.expires);
        // Only a clock that was set makes a difference; then clients are told by the new one.
        if off.unwrap_or_else(|error| error.duration()) < Duration::from_secs(1) {
            return Some(Arc::clone(stored));
        }
        let answer = Answer { expires, ..stored.answer.clone() };
        Some(Arc::new(StoredAnswer { answer, ..StoredAnswer::clone(stored) }))
    }

    /// Keeps an answer in memory and, a little later, on disk.
    pub(super) fn put_answer(&self, era: Era, stored: &Arc<StoredAnswer>) {
        let answer = &stored.answer;
        let record = AnswerRecord::new(
            stored.size,
            answer.confidence,
            answer.bounding_box,
            answer.annotation.as_ref(),
            &answer.warnings,
        );
        let logits = f16_vec(&stored.logits);
        let metadata = record.to_bytes();
        let bytes = answer.png.len() + answer.png_base64.len() + stored.logits.len() * 4;
        let value = (Arc::clone(stored), self.clock.now().ms);
        self.keep(era, &self.answers, answer.key, value, bytes + metadata.len() + 256);
        let sections = [&*answer.png, &*answer.png_base64, bytemuck::cast_slice(&logits)];
        self.write(era, Kind::Answer, answer.key.0, &metadata, &sections);
    }

    /// When something put now expires.
    pub(super) fn expiry(&self) -> SystemTime {
        let now = self.clock.now();
        now.expiry(now.ms, self.lifetime)
    }

    /// An embedding that is at hand.
    pub(super) fn embedding(&self, key: EmbeddingKey) -> Option<Embedding> {
        let embedding = self.kept(&self.embeddings, &key)?;
        self.used(Kind::Embedding, &key.0);
        Some(embedding)
    }

    /// An embedding on disk and when it was made; blocking.
    pub(super) fn embedding_on_disk(&self, key: EmbeddingKey) -> Option<(HostEmbedding, u64)> {
        let entry = self.disk.as_ref()?.get(Kind::Embedding, &key.0)?;
        if entry.metadata() != EMBEDDING_FORM {
            return None;
        }
        let tensor = |index| -> Option<Vec<f32>> {
            let section = entry.section(index)?;
            let halves: &[f16] = bytemuck::try_cast_slice(&section).ok()?;
            Some(halves.to_f32_vec())
        };
        let host = HostEmbedding {
            high_res_feats_0: tensor(0)?,
            high_res_feats_1: tensor(1)?,
            image_embed: tensor(2)?,
        };
        Some((host, entry.created_ms()))
    }

    /// Keeps an embedding where it is. `created_ms` is `None` for one that was made now.
    pub(super) fn put_embedding(
        &self,
        era: Era,
        key: EmbeddingKey,
        embedding: &Embedding,
        created_ms: Option<u64>,
    ) {
        let created_ms = created_ms.unwrap_or_else(|| self.clock.now().ms);
        let value = (embedding.clone(), created_ms);
        self.keep(era, &self.embeddings, key, value, embedding.bytes());
    }

    /// Whether embeddings are kept on disk.
    pub(super) fn keeps_embeddings(&self) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.keeps(Kind::Embedding))
    }

    /// To the disk, in half precision: half the flash worn and half the bytes read, for masks that
    /// differ by less than the measured 0.5 % of their pixels (`docs/cache-format.md`).
    pub(super) fn write_embedding(&self, era: Era, key: EmbeddingKey, embedding: &HostEmbedding) {
        let HostEmbedding { high_res_feats_0, high_res_feats_1, image_embed } = embedding;
        let halves = [high_res_feats_0, high_res_feats_1, image_embed].map(|t| f16_vec(t));
        if halves.iter().flatten().any(|half| !half.is_finite()) {
            tracing::debug!("an embedding is beyond half precision: not kept on disk");
            return;
        }
        let sections = halves.each_ref().map(|half| bytemuck::cast_slice(half));
        self.write(era, Kind::Embedding, key.0, EMBEDDING_FORM, &sections);
    }

    /// Forgets everything: memory, device, disk; what is under way won't be kept. Returns the number
    /// of files removed; blocking.
    pub(super) fn purge(&self) -> u64 {
        // Whoever puts something holds this for reading meanwhile: after it, nothing old comes in.
        *self.era.write().unwrap_or_else(PoisonError::into_inner) += 1;
        lock(&self.answers).clear();
        lock(&self.slices).clear();
        lock(&self.images).clear();
        lock(&self.embeddings).clear();
        self.disk.as_ref().map_or(0, Cache::purge)
    }

    /// Bytes of answers in memory.
    pub(super) fn answers_bytes(&self) -> usize {
        lock(&self.answers).bytes()
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

    fn entry(&self, kind: Kind, key: &Sum, reach: Reach) -> Option<Entry> {
        let disk = self.disk.as_ref()?;
        match reach {
            Reach::Memory => disk.peek(kind, key),
            Reach::Disk => disk.get(kind, key),
        }
    }

    /// What is served from memory all day is not what the disk should give up first.
    fn used(&self, kind: Kind, key: &Sum) {
        if let Some(disk) = &self.disk {
            disk.touch(kind, key);
        }
    }

    /// From memory, unless its day is over.
    fn kept<K: Eq + Hash, V: Clone>(&self, values: &Kept<K, V>, key: &K) -> Option<V> {
        let now = self.clock.now();
        let mut values = lock(values);
        let (value, created_ms) = values.get(key)?;
        (!now.is_over(*created_ms, self.lifetime)).then(|| value.clone())
    }

    /// Into memory; what it pushes out is freed here, outside the lock.
    fn keep<K: Eq + Hash, V>(
        &self,
        era: Era,
        values: &Kept<K, V>,
        key: K,
        value: (V, u64),
        bytes: usize,
    ) {
        let Some(_no_purge) = self.within(era) else { return };
        let out = lock(values).put(key, value, bytes);
        drop(out);
    }

    fn write(&self, era: Era, kind: Kind, key: Sum, metadata: &[u8], sections: &[&[u8]]) {
        let Some(_no_purge) = self.within(era) else { return };
        if let Some(disk) = &self.disk {
            // The cache counts its faults and logs each once; a lost write is no one else's concern.
            let _ = disk.put_soon(kind, &key, Content { metadata, sections });
        }
    }
}

fn stored_answer(key: AnswerKey, entry: &Entry) -> Option<StoredAnswer> {
    let record = AnswerRecord::from_bytes(&entry.metadata())?;
    let logits = entry.section(2)?;
    let logits: &[f16] = bytemuck::try_cast_slice(&logits).ok()?;
    Some(StoredAnswer {
        size: record.size(),
        logits: logits.to_f32_vec().into(),
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

fn f16_vec(values: &[f32]) -> Vec<f16> {
    Vec::from_f32_slice(values)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
