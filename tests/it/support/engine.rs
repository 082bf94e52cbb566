//! Engines for tests: the seeded package on the CPU, and one that does what it is told.

use super::seeded;
use sam2d::domain::tensor::{Embedding, HostEmbedding, ImageTensor, MaskLogits, PromptBatch};
use sam2d::engine::cpu::CpuBackend;
use sam2d::engine::package::Package;
use sam2d::engine::worker::{LoadError, Loaded};
use sam2d::engine::{Backend, BackendError, EngineInfo};
use sam2d::service::selftest;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The seeded package with its golden self-test, as the daemon loads one.
pub(crate) fn load_seeded() -> Result<Loaded, LoadError> {
    load(Package::load(&seeded())?, 1)
}

/// The embedded package, on so many threads.
pub(crate) fn load_embedded(threads: usize) -> Result<Loaded, LoadError> {
    load(Package::embedded()?, threads)
}

fn load(package: Package, threads: usize) -> Result<Loaded, LoadError> {
    let package = Arc::new(package);
    let backend = Box::new(CpuBackend::load(&package, threads)?);
    Ok(loaded(package, backend))
}

/// The same with an obedient engine round it.
pub(crate) fn load_obedient(orders: &Arc<Orders>) -> Result<Loaded, LoadError> {
    let package = Arc::new(Package::load(&seeded())?);
    let inner = Box::new(CpuBackend::load(&package, 1)?);
    let mut info = inner.info().clone();
    if let Some(fingerprint) = orders.fingerprint {
        info.fingerprint = fingerprint.to_owned();
    }
    Ok(loaded(package, Box::new(Obedient { inner, info, orders: Arc::clone(orders) })))
}

fn loaded(package: Arc<Package>, mut backend: Box<dyn Backend>) -> Loaded {
    let passed = selftest::run(&package, backend.as_mut()).unwrap();
    Loaded {
        backend,
        package,
        self_test: passed.report,
        probe_embedding: passed.embedding,
        probe_prompts: passed.batch,
    }
}

/// What an obedient engine is told.
#[derive(Default)]
pub(crate) struct Orders {
    /// Fail every call.
    pub(crate) fail: AtomicBool,
    /// Take this long for an encode, in ms.
    pub(crate) encode_ms: AtomicU64,
    /// Call yourself another engine.
    pub(crate) fingerprint: Option<&'static str>,
}

struct Obedient {
    inner: Box<CpuBackend>,
    info: EngineInfo,
    orders: Arc<Orders>,
}

impl Obedient {
    fn obey(&self, stage: &'static str) -> Result<(), BackendError> {
        if self.orders.fail.load(Ordering::SeqCst) {
            return Err(BackendError::Failed { stage, what: "told to fail".to_owned() });
        }
        Ok(())
    }
}

impl Backend for Obedient {
    fn info(&self) -> &EngineInfo {
        &self.info
    }

    fn encode(&mut self, image: &ImageTensor) -> Result<Embedding, BackendError> {
        self.obey("encoder")?;
        std::thread::sleep(Duration::from_millis(self.orders.encode_ms.load(Ordering::SeqCst)));
        self.inner.encode(image)
    }

    fn decode(
        &mut self,
        embedding: &Embedding,
        prompts: &PromptBatch,
    ) -> Result<MaskLogits, BackendError> {
        self.obey("decoder")?;
        self.inner.decode(embedding, prompts)
    }

    fn download(&mut self, embedding: &Embedding) -> Result<HostEmbedding, BackendError> {
        self.inner.download(embedding)
    }

    fn upload(&mut self, embedding: &HostEmbedding) -> Result<Embedding, BackendError> {
        self.inner.upload(embedding)
    }
}
