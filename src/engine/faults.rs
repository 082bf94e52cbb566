//! A backend that can be told to hang, fail or lie, around the real one. Behind the feature `faults`,
//! for tests on a real system; a test proves that the shipped binary has none of it.
//!
//! Orders are words in a file that [`ORDERS`] names; they are read before every call. `hang`, `lost`
//! and `crash` are obeyed once and struck out, so that the next process is well; `fail`, `nan` and
//! `slow` hold until the file is gone.

use super::{Backend, BackendError, EngineInfo};
use crate::domain::tensor::{Embedding, HostEmbedding, ImageTensor, MaskLogits, PromptBatch};
use std::path::PathBuf;
use std::time::Duration;

/// Environment name of the file with orders.
pub const ORDERS: &str = "FAULTS_ORDERED_FROM_SAM2D";

/// Time that `slow` takes.
const SLOW: Duration = Duration::from_secs(1);

/// See the module's head.
pub struct Faulty {
    inner: Box<dyn Backend>,
    orders: Option<PathBuf>,
}

impl Faulty {
    /// Around a real one.
    #[must_use]
    pub fn around(inner: Box<dyn Backend>) -> Box<dyn Backend> {
        let orders = std::env::var_os(ORDERS).map(PathBuf::from);
        if orders.is_some() {
            tracing::warn!("this build can be told to fail; it is for tests");
        }
        Box::new(Self { inner, orders })
    }

    fn obey(&self, stage: &'static str) -> Result<bool, BackendError> {
        let Some(path) = &self.orders else { return Ok(false) };
        let order = std::fs::read_to_string(path).unwrap_or_default();
        let once = || drop(std::fs::remove_file(path));
        match order.trim() {
            "hang" => {
                once();
                loop {
                    std::thread::park();
                }
            }
            "lost" => {
                once();
                Err(BackendError::DeviceLost("as ordered".to_owned()))
            }
            "crash" => {
                once();
                std::process::abort();
            }
            "fail" => Err(BackendError::Failed { stage, what: "as ordered".to_owned() }),
            "slow" => {
                std::thread::sleep(SLOW);
                Ok(false)
            }
            "nan" => Ok(true),
            _ => Ok(false),
        }
    }
}

impl Backend for Faulty {
    fn info(&self) -> &EngineInfo {
        self.inner.info()
    }

    fn encode(&mut self, image: &ImageTensor) -> Result<Embedding, BackendError> {
        self.obey("encoder")?;
        self.inner.encode(image)
    }

    fn decode(
        &mut self,
        embedding: &Embedding,
        prompts: &PromptBatch,
    ) -> Result<MaskLogits, BackendError> {
        if self.obey("decoder")? {
            let what = "not a number, as ordered".to_owned();
            return Err(BackendError::BadOutput { stage: "decoder", what });
        }
        self.inner.decode(embedding, prompts)
    }

    fn download(&mut self, embedding: &Embedding) -> Result<HostEmbedding, BackendError> {
        self.inner.download(embedding)
    }

    fn upload(&mut self, embedding: &HostEmbedding) -> Result<Embedding, BackendError> {
        self.inner.upload(embedding)
    }
}
