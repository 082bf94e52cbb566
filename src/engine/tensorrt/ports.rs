//! Inputs and outputs of a plan: what they must be, and the memory behind them.
//!
//! Invariants:
//! 1. A [`Port`] exists only for a tensor whose name, direction, type, place and shape are the
//!    contract's and the manifest's.
//! 2. Values are f32 outside; half precision exists only between pinned memory and the device.

use super::cuda::{Context, DeviceBuffer, PinnedBuffer, Stream};
use super::driver::CudaError;
use super::runtime::Tensor;
use super::sys;
use crate::engine::package::Role;
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::ffi::{CStr, CString};
use std::sync::Arc;

/// Type of a tensor's values on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F32,
    F16,
}

impl Element {
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }

    /// Writes values as bytes; `bytes` has room for exactly them.
    pub(super) fn write(self, values: &[f32], bytes: &mut [u8]) {
        match self {
            Self::F32 => bytes.copy_from_slice(bytemuck::cast_slice(values)),
            Self::F16 => bytemuck::cast_slice_mut::<u8, f16>(bytes).convert_from_f32_slice(values),
        }
    }

    pub(super) fn read(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytemuck::pod_collect_to_vec(bytes),
            Self::F16 => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).to_f32_vec(),
        }
    }

    /// No NaN, no infinity, without converting.
    pub(super) fn all_finite(self, bytes: &[u8]) -> bool {
        // All ones in the exponent. No early exit: so it vectorises.
        const EXPONENT: u16 = 0x7C00;
        match self {
            Self::F32 => crate::engine::contract::all_finite(bytemuck::cast_slice(bytes)),
            Self::F16 => !bytemuck::cast_slice::<u8, u16>(bytes)
                .iter()
                .fold(false, |bad, bits| bad | (bits & EXPONENT == EXPONENT)),
        }
    }
}

/// Which way a tensor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// What one extent of a shape must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// This; dynamic will do, since TensorRT then checks it against its profile.
    Is(usize),
    /// Prompts or points: whatever the profiles allow.
    Any,
}

/// A plan's inputs and outputs are not the package's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongPort(String);

/// All tensors of a plan, to be asked for by name.
pub(super) struct Ports<'a> {
    pub(super) role: Role,
    pub(super) tensors: &'a [Tensor],
}

impl Ports<'_> {
    pub(super) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The tensor of that name, if it is what it must be.
    pub(super) fn expect(
        &self,
        name: &str,
        way: Way,
        shape: &[Extent],
    ) -> Result<Declared, WrongPort> {
        let wrong = |what: String| WrongPort(format!("{} {name} {what}", self.role.name()));
        let Some(tensor) = self.find(name) else {
            let names: Vec<_> = self.tensors.iter().map(|t| t.name.to_string_lossy()).collect();
            return Err(wrong(format!("is missing; the plan has {}", names.join(", "))));
        };
        let (mode, word) = match way {
            Way::In => (sys::MODE_INPUT, "input"),
            Way::Out => (sys::MODE_OUTPUT, "output"),
        };
        if tensor.mode != mode {
            return Err(wrong(format!("is not an {word}")));
        }
        let element = match tensor.kind {
            sys::TYPE_FLOAT => Element::F32,
            sys::TYPE_HALF => Element::F16,
            other => {
                return Err(wrong(format!(
                    "has TensorRT's data type {other}; fp32 or fp16 is needed"
                )));
            }
        };
        if !tensor.on_device || !tensor.linear {
            return Err(wrong("is not in linear device memory".to_owned()));
        }
        let fits = tensor.shape.len() == shape.len()
            && tensor.shape.iter().zip(shape).all(|(found, extent)| match extent {
                Extent::Is(expected) => *found == -1 || usize::try_from(*found) == Ok(*expected),
                Extent::Any => *found != 0,
            });
        if !fits {
            let expected: Vec<_> = shape
                .iter()
                .map(|extent| match extent {
                    Extent::Is(expected) => expected.to_string(),
                    Extent::Any => "any".to_owned(),
                })
                .collect();
            let expected = expected.join(", ");
            return Err(wrong(format!("is {:?}, expected [{expected}]", tensor.shape)));
        }
        Ok(Declared { name: tensor.name.clone(), element, shape: tensor.shape.clone() })
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.iter().find(|tensor| tensor.name.as_bytes() == name.as_bytes())
    }
}

/// A tensor that is what it must be.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    pub(super) name: CString,
    pub(super) element: Element,
    pub(super) shape: Vec<i64>,
}

/// A tensor with memory of its own on both sides.
pub(super) struct Port {
    name: CString,
    element: Element,
    context: Arc<Context>,
    memory: Option<(DeviceBuffer, PinnedBuffer)>,
}

impl Port {
    pub(super) fn new(declared: &Declared, context: &Arc<Context>) -> Self {
        let Declared { name, element, .. } = declared;
        Self { name: name.clone(), element: *element, context: Arc::clone(context), memory: None }
    }

    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    pub(super) fn element(&self) -> Element {
        self.element
    }

    /// Makes room for so many values, and gives the memory to bind. Nothing may be under way.
    pub(super) fn reserve(&mut self, values: usize) -> Result<&DeviceBuffer, CudaError> {
        let bytes = values * self.element.bytes();
        if self.memory.as_ref().is_none_or(|(device, _)| device.bytes() < bytes) {
            // The old memory goes first: two don't fit on a small device.
            self.memory = None;
            let device = DeviceBuffer::new(&self.context, bytes)?;
            let pinned = PinnedBuffer::new(&self.context, bytes)?;
            self.memory = Some((device, pinned));
        }
        let (device, _) = self.memory()?;
        Ok(device)
    }

    /// Puts values on their way to the device.
    pub(super) fn send(&mut self, values: &[f32], stream: &Stream) -> Result<(), CudaError> {
        let (element, bytes) = (self.element, values.len() * self.element.bytes());
        self.reserve(values.len())?;
        let (device, pinned) = self.memory_mut()?;
        if let Some(room) = pinned.as_mut_slice().get_mut(..bytes) {
            element.write(values, room);
        }
        stream.copy_in(device, pinned, bytes)
    }

    /// Puts zeros there, without a copy.
    pub(super) fn send_zeros(&mut self, values: usize, stream: &Stream) -> Result<(), CudaError> {
        let bytes = values * self.element.bytes();
        stream.clear(self.reserve(values)?, bytes)
    }

    /// Puts values on their way to the host; [`Port::received`] has them after the stream was
    /// synchronised.
    pub(super) fn fetch(&mut self, values: usize, stream: &Stream) -> Result<(), CudaError> {
        let bytes = values * self.element.bytes();
        let (device, pinned) = self.memory_mut()?;
        stream.copy_out(pinned, device, bytes)
    }

    /// The first values that were fetched, as they came.
    pub(super) fn received(&self, values: usize) -> &[u8] {
        let bytes = values * self.element.bytes();
        let pinned = self.memory.as_ref().map(|(_, pinned)| pinned.as_slice());
        pinned.and_then(|all| all.get(..bytes)).unwrap_or_default()
    }

    /// What it has on the device, once reserved.
    pub(super) fn device(&self) -> Result<&DeviceBuffer, CudaError> {
        self.memory().map(|(device, _)| device)
    }

    fn memory(&self) -> Result<&(DeviceBuffer, PinnedBuffer), CudaError> {
        self.memory.as_ref().ok_or_else(unreserved)
    }

    fn memory_mut(&mut self) -> Result<&mut (DeviceBuffer, PinnedBuffer), CudaError> {
        self.memory.as_mut().ok_or_else(unreserved)
    }
}

fn unreserved() -> CudaError {
    CudaError { call: "bind", code: 1, name: "no memory was reserved; this is a bug".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(name: &str, mode: i32, kind: i32, shape: &[i64]) -> Tensor {
        let name = CString::new(name).unwrap();
        Tensor { name, mode, kind, on_device: true, linear: true, shape: shape.to_vec() }
    }

    #[test]
    fn what_contradicts_the_contract_is_named() {
        let tensors = [
            tensor("image", sys::MODE_INPUT, sys::TYPE_HALF, &[1, 3, 64, 64]),
            tensor("masks", sys::MODE_OUTPUT, sys::TYPE_FLOAT, &[-1, 4, 16, 16]),
            tensor("labels", sys::MODE_INPUT, 3, &[-1, -1]),
        ];
        let ports = Ports { role: Role::Decoder, tensors: &tensors };
        use Extent::{Any, Is};
        let image = ports.expect("image", Way::In, &[Is(1), Is(3), Is(64), Is(64)]).unwrap();
        assert_eq!(image.element, Element::F16);
        assert!(ports.expect("masks", Way::Out, &[Any, Is(4), Is(16), Is(16)]).is_ok());
        for (name, way, shape, words) in [
            (
                "iou",
                Way::Out,
                vec![Any],
                "decoder iou is missing; the plan has image, masks, labels",
            ),
            ("image", Way::Out, vec![Any], "decoder image is not an output"),
            ("labels", Way::In, vec![Any, Any], "decoder labels has TensorRT's data type 3"),
            (
                "masks",
                Way::Out,
                vec![Any, Is(3), Is(16), Is(16)],
                "decoder masks is [-1, 4, 16, 16], expected [any, 3, 16, 16]",
            ),
            ("masks", Way::Out, vec![Any], "decoder masks is [-1, 4, 16, 16], expected [any]"),
        ] {
            let error = ports.expect(name, way, &shape).unwrap_err().to_string();
            assert!(error.starts_with(words), "{error}");
        }
        let elsewhere = [Tensor { linear: false, ..tensors[0].clone() }];
        let ports = Ports { role: Role::Encoder, tensors: &elsewhere };
        let error = ports.expect("image", Way::In, &[Any, Any, Any, Any]).unwrap_err().to_string();
        assert_eq!(error, "encoder image is not in linear device memory");
    }

    #[test]
    fn values_survive_their_bytes_and_half_precision_rounds() {
        let values = [0.0, 1.0, -2.5, 65504.0, 0.1];
        let mut bytes = vec![0; 20];
        Element::F32.write(&values, &mut bytes);
        assert_eq!(Element::F32.read(&bytes), values);
        let mut bytes = vec![0; 10];
        Element::F16.write(&values, &mut bytes);
        let back = Element::F16.read(&bytes);
        assert_eq!(back[..4], values[..4]);
        assert!((back[4] - 0.1).abs() < 1e-4 && back[4] != 0.1);
    }

    #[test]
    fn nan_and_infinity_are_seen_in_both_precisions() {
        for (element, bytes) in [(Element::F32, 12), (Element::F16, 6)] {
            let mut room = vec![0; bytes];
            element.write(&[1.0, -2.0, 3.0], &mut room);
            assert!(element.all_finite(&room));
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                element.write(&[1.0, bad, 3.0], &mut room);
                assert!(!element.all_finite(&room), "{element:?} {bad}");
            }
        }
        // FP16 overflow: a value that f32 has and half precision does not.
        let mut room = vec![0; 2];
        Element::F16.write(&[70_000.0], &mut room);
        assert!(!Element::F16.all_finite(&room));
    }
}
