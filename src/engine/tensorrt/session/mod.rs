//! One call of the encoder, one of the decoder: copy in, infer, copy out, on one stream. Here is what
//! both share: how a call ends, what its failure means, and what a plan must bring to become one.
//!
//! Invariants:
//! 1. A call ends with the stream synchronised, whether it worked or not: afterwards no copy and no
//!    kernel uses the memory of a session.
//! 2. What a plan can't take is known when it was loaded, not when a user clicks.

mod decoder;
mod encoder;

pub(super) use decoder::Decoder;
pub(super) use encoder::Encoder;

use super::cuda::{Context, DeviceBuffer, Stream};
use super::driver::CudaError;
use super::ports::{Declared, Extent, Ports, Way, WrongPort};
use super::runtime::Refusal;
use crate::engine::BackendError;
use crate::engine::contract::FEATURES;
use crate::engine::package::Role;

/// The outputs of the encoder on the device, in the order of `FEATURES`.
pub(super) type Features = [DeviceBuffer; 3];

/// Something failed under a call.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    TensorRt(#[from] Refusal),
}

impl Trouble {
    /// What the caller can do; `device` is what the stream says afterwards, which alone tells a lost
    /// device from a refusal.
    pub(super) fn into_error(
        self,
        stage: &'static str,
        device: Result<(), CudaError>,
    ) -> BackendError {
        let what = self.to_string();
        if let Err(lost) = device
            && lost.is_sticky()
        {
            return BackendError::DeviceLost(format!("{lost}, in the {stage}: {what}"));
        }
        match self {
            Self::Cuda(error) if error.is_sticky() => {
                BackendError::DeviceLost(format!("{what}, in the {stage}"))
            }
            Self::Cuda(error) if error.is_out_of_memory() => {
                BackendError::OutOfMemory { stage, what }
            }
            Self::TensorRt(refusal) if refusal.out_of_memory => {
                BackendError::OutOfMemory { stage, what }
            }
            Self::Cuda(_) | Self::TensorRt(_) => BackendError::Failed { stage, what },
        }
    }
}

/// Runs `call` and synchronises, whatever came of it.
pub(super) fn settled<T>(
    stage: &'static str,
    stream: &Stream,
    call: impl FnOnce() -> Result<T, Trouble>,
) -> Result<T, BackendError> {
    let done = stream.context().enter().map_err(Trouble::from).and_then(|()| call());
    let device = stream.synchronize();
    match (done, device) {
        (Ok(value), Ok(())) => Ok(value),
        (Ok(_), Err(error)) => Err(Trouble::Cuda(error).into_error(stage, Ok(()))),
        (Err(trouble), device) => Err(trouble.into_error(stage, device)),
    }
}

/// Why a plan can't be made a session.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionError {
    #[error(transparent)]
    Port(#[from] WrongPort),
    #[error("{0}")]
    Shape(String),
    #[error("{needed_mb} MB of device memory are needed, {free_mb} MB are free")]
    Memory { needed_mb: u64, free_mb: u64 },
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    TensorRt(#[from] Refusal),
}

/// Is there room for what the execution context will ask for? Said beforehand, because afterwards
/// the words are the runtime's and name no number.
fn fits_in_memory(role: Role, needed: Option<u64>, context: &Context) -> Result<(), SessionError> {
    const MB: u64 = 1_000_000;
    let (needed, free) = (needed.unwrap_or(0), context.free_bytes()?);
    tracing::debug!(
        role = role.name(),
        needed_mb = needed / MB,
        free_mb = free / MB,
        "device memory"
    );
    if needed > free {
        return Err(SessionError::Memory { needed_mb: needed.div_ceil(MB), free_mb: free / MB });
    }
    Ok(())
}

fn expect_features(
    ports: &Ports<'_>,
    way: Way,
    shapes: &[Vec<usize>; 3],
) -> Result<[Declared; 3], WrongPort> {
    let [a, b, c] = FEATURES;
    let [shape_a, shape_b, shape_c] = shapes;
    let expect = |name, shape: &[usize]| {
        let extents: Vec<_> = shape.iter().copied().map(Extent::Is).collect();
        ports.expect(name, way, &extents)
    };
    Ok([expect(a, shape_a)?, expect(b, shape_b)?, expect(c, shape_c)?])
}

fn same(found: &[i64], expected: &[usize]) -> bool {
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(found, expected)| usize::try_from(*found) == Ok(*expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuda(code: i32) -> CudaError {
        CudaError { call: "cuMemAlloc", code, name: "SOMETHING".to_owned() }
    }

    #[test]
    fn what_the_caller_can_do_is_told_by_the_device_first() {
        let refusal = |out_of_memory| {
            let words = "no room".to_owned();
            Trouble::TensorRt(Refusal { call: "enqueueV3", words, out_of_memory })
        };
        let fine = || Ok(());
        for (trouble, device, expected) in [
            (Trouble::Cuda(cuda(2)), fine(), "out of memory in encoder"),
            (Trouble::Cuda(cuda(1)), fine(), "encoder failed"),
            (Trouble::Cuda(cuda(700)), fine(), "the device is lost"),
            (refusal(true), fine(), "out of memory in encoder"),
            (refusal(false), fine(), "encoder failed: enqueueV3: no room"),
            (refusal(false), Err(cuda(719)), "the device is lost"),
            (refusal(true), Err(cuda(719)), "the device is lost"),
            (refusal(false), Err(cuda(1)), "encoder failed"),
        ] {
            let words = trouble.into_error("encoder", device).to_string();
            assert!(words.starts_with(expected), "{words}");
        }
    }
}
