//! Embeddings that stay on the device, and go to the host when it gets tight.
//!
//! A handle ([`Embedding`]) holds a [`Slot`]; whoever holds the last one frees it, on any thread.
//!
//! Invariants:
//! 1. What lies on the device is bounded: beyond the budget, or when an allocation fails, the least
//!    recently used embedding moves to the host. The one in use is never moved.
//! 2. An embedding is whole, on one side or the other.
//! 3. Dropping a handle calls the driver only where the memory of many others is kept already:
//!    freeing waits for the device, and handles are dropped by threads that should not wait.

use super::cuda::{DeviceBuffer, PinnedBuffer, Stream};
use super::driver::CudaError;
use super::ports::Element;
use super::session::Features;
use crate::domain::tensor::{Embedding, HostEmbedding};
use crate::engine::BackendError;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Sets of buffers kept for the next embeddings: as many as one slice's neighbours.
const MAX_SPARE: usize = 4;

/// Where an embedding is.
enum Place {
    Device(Features),
    Host([Vec<u8>; 3]),
    /// Only while it moves, or when moving failed half-way.
    Nowhere,
}

/// One embedding.
pub(super) struct Slot {
    place: Mutex<Place>,
    spare: Arc<Mutex<Vec<Features>>>,
    /// Of the engine that made it, or one that is its like.
    fingerprint: Arc<str>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let place = self.place.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Place::Device(features) = std::mem::replace(place, Place::Nowhere) {
            let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
            if spare.len() < MAX_SPARE {
                spare.push(features);
            }
        }
    }
}

impl Slot {
    fn place(&self) -> std::sync::MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_on_device(&self) -> bool {
        matches!(*self.place(), Place::Device(_))
    }
}

/// All of them, as the engine thread sees them.
pub(super) struct Embeddings {
    stream: Arc<Stream>,
    elements: [Element; 3],
    /// Values of each feature.
    lengths: [usize; 3],
    budget_bytes: u64,
    /// Least recently used first.
    live: VecDeque<Weak<Slot>>,
    spare: Arc<Mutex<Vec<Features>>>,
    staging: Option<PinnedBuffer>,
    fingerprint: Arc<str>,
}

/// What the stage is called in errors.
const STAGE: &str = "transfer";

impl Embeddings {
    pub(super) fn new(
        stream: &Arc<Stream>,
        elements: [Element; 3],
        lengths: [usize; 3],
        budget_bytes: u64,
        fingerprint: &str,
    ) -> Self {
        Self {
            stream: Arc::clone(stream),
            elements,
            lengths,
            budget_bytes,
            live: VecDeque::new(),
            spare: Arc::default(),
            staging: None,
            fingerprint: fingerprint.into(),
        }
    }

    /// Memory for one more embedding.
    pub(super) fn room(&mut self) -> Result<Features, BackendError> {
        self.live.retain(|slot| slot.strong_count() > 0);
        let each = self.bytes().iter().sum::<usize>() as u64;
        while (self.on_device() + 1) * each > self.budget_bytes {
            if !self.spill_oldest()? {
                break;
            }
        }
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(features) = spare {
            return Ok(features);
        }
        loop {
            match self.allocate() {
                Ok(features) => return Ok(features),
                Err(error) if error.is_out_of_memory() && self.spill_oldest()? => {
                    // What was spilled is spare now; it is freed, since a device that is tight for
                    // us may be tight for TensorRT, too.
                    self.spare.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    /// A handle for what was encoded.
    pub(super) fn keep(&mut self, features: Features) -> Embedding {
        self.insert(Place::Device(features))
    }

    /// Runs `call` on an embedding's memory on the device, bringing it back there first if need be.
    pub(super) fn with<T>(
        &mut self,
        embedding: &Embedding,
        call: impl FnOnce(&Features) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let slot = self.own(embedding)?;
        self.bring_back(&slot)?;
        self.live.retain(|other| !std::ptr::eq(other.as_ptr(), Arc::as_ptr(&slot)));
        self.live.push_back(Arc::downgrade(&slot));
        match &*slot.place() {
            Place::Device(features) => call(features),
            Place::Host(_) | Place::Nowhere => Err(lost()),
        }
    }

    /// A copy in host memory, f32.
    pub(super) fn download(
        &mut self,
        embedding: &Embedding,
    ) -> Result<HostEmbedding, BackendError> {
        let slot = self.own(embedding)?;
        let bytes = match &*slot.place() {
            Place::Device(features) => self.fetch(features)?,
            Place::Host(bytes) => bytes.clone(),
            Place::Nowhere => return Err(lost()),
        };
        let [a, b, c] = &bytes;
        let [x, y, z] = self.elements;
        Ok(HostEmbedding {
            high_res_feats_0: x.read(a),
            high_res_feats_1: y.read(b),
            image_embed: z.read(c),
        })
    }

    /// The way back.
    pub(super) fn upload(&mut self, host: &HostEmbedding) -> Result<Embedding, BackendError> {
        let HostEmbedding { high_res_feats_0, high_res_feats_1, image_embed } = host;
        let values = [high_res_feats_0, high_res_feats_1, image_embed];
        let mut bytes: [Vec<u8>; 3] = Default::default();
        let targets = bytes.iter_mut().zip(values).zip(self.elements.into_iter().zip(self.lengths));
        for ((bytes, values), (element, length)) in targets {
            bytes.resize(length * element.bytes(), 0);
            if values.len() != length {
                return Err(BackendError::BadInput("the embedding has other sizes".to_owned()));
            }
            element.write(values, bytes);
            if !element.all_finite(bytes) {
                return Err(BackendError::BadInput(
                    "the embedding holds NaN or infinity".to_owned(),
                ));
            }
        }
        let features = self.room()?;
        self.send(&bytes, &features)?;
        Ok(self.insert(Place::Device(features)))
    }

    /// How many lie on the device.
    pub(super) fn on_device(&self) -> u64 {
        let slots = self.live.iter().filter_map(Weak::upgrade);
        slots.filter(|slot| slot.is_on_device()).count() as u64
    }

    fn insert(&mut self, place: Place) -> Embedding {
        let slot = Arc::new(Slot {
            place: Mutex::new(place),
            spare: Arc::clone(&self.spare),
            fingerprint: Arc::clone(&self.fingerprint),
        });
        self.live.push_back(Arc::downgrade(&slot));
        Embedding::new(slot, self.bytes().iter().sum())
    }

    fn own(&self, embedding: &Embedding) -> Result<Arc<Slot>, BackendError> {
        embedding
            .downcast_ref::<Arc<Slot>>()
            .filter(|slot| slot.fingerprint == self.fingerprint)
            .cloned()
            .ok_or_else(|| {
                BackendError::BadInput("the embedding is not one of this engine's".into())
            })
    }

    fn bytes(&self) -> [usize; 3] {
        let mut bytes = self.lengths;
        for (bytes, element) in bytes.iter_mut().zip(self.elements) {
            *bytes *= element.bytes();
        }
        bytes
    }

    fn allocate(&self) -> Result<Features, CudaError> {
        let [a, b, c] = self.bytes();
        let buffer = |bytes| DeviceBuffer::new(self.stream.context(), bytes);
        Ok([buffer(a)?, buffer(b)?, buffer(c)?])
    }

    /// Moves the least recently used embedding to the host; false when none is left to move.
    fn spill_oldest(&mut self) -> Result<bool, BackendError> {
        let oldest = self.live.iter().filter_map(Weak::upgrade).find(|slot| slot.is_on_device());
        let Some(slot) = oldest else { return Ok(false) };
        let mut place = slot.place();
        let bytes = match &*place {
            Place::Device(features) => self.fetch(features)?,
            Place::Host(_) | Place::Nowhere => return Ok(false),
        };
        if let Place::Device(features) = std::mem::replace(&mut *place, Place::Host(bytes)) {
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(features);
        }
        Ok(true)
    }

    fn bring_back(&mut self, slot: &Slot) -> Result<(), BackendError> {
        if !matches!(*slot.place(), Place::Host(_)) {
            return Ok(());
        }
        let features = self.room()?;
        let mut place = slot.place();
        if let Place::Host(bytes) = &*place {
            self.send(bytes, &features)?;
            *place = Place::Device(features);
        }
        Ok(())
    }

    fn fetch(&mut self, features: &Features) -> Result<[Vec<u8>; 3], BackendError> {
        let mut fetched: [Vec<u8>; 3] = Default::default();
        for (bytes, buffer) in fetched.iter_mut().zip(features) {
            let mut staging = self.staging()?;
            let copied = self.stream.copy_out(&mut staging, buffer, buffer.bytes());
            let copied = copied.and(self.stream.synchronize());
            if copied.is_ok() {
                bytes.extend_from_slice(staging.as_slice().get(..buffer.bytes()).unwrap_or(&[]));
            }
            self.staging = Some(staging);
            copied.map_err(|error| self.failed(error))?;
        }
        Ok(fetched)
    }

    fn send(&mut self, bytes: &[Vec<u8>; 3], features: &Features) -> Result<(), BackendError> {
        for (bytes, buffer) in bytes.iter().zip(features) {
            let mut staging = self.staging()?;
            if let Some(room) = staging.as_mut_slice().get_mut(..bytes.len()) {
                room.copy_from_slice(bytes);
            }
            let copied = self.stream.copy_in(buffer, &staging, bytes.len());
            let copied = copied.and(self.stream.synchronize());
            self.staging = Some(staging);
            copied.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Pinned memory for the largest feature.
    fn staging(&mut self) -> Result<PinnedBuffer, BackendError> {
        let most = self.bytes().into_iter().max().unwrap_or(0);
        if let Some(staging) = self.staging.take().filter(|staging| staging.bytes() >= most) {
            return Ok(staging);
        }
        PinnedBuffer::new(self.stream.context(), most).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: CudaError) -> BackendError {
        super::session::Trouble::Cuda(error).into_error(STAGE, self.stream.synchronize())
    }
}

fn lost() -> BackendError {
    BackendError::Failed { stage: STAGE, what: "the embedding was lost on its way".to_owned() }
}
