//! TensorRT's runtime, engine and execution context as values that own each other.
//!
//! Invariants:
//! 1. Context goes before engine, engine before runtime, runtime before its recorder: each owns the
//!    next and deletes its own object first. The logger is never deleted.
//! 2. A [`Runtime`] is made only with a CUDA [`Context`] at hand: without one its factory hands out
//!    garbage (0x228 seen) instead of null.
//! 3. Every failure carries what TensorRT reported meanwhile.
#![expect(unsafe_code, reason = "calls TensorRT")]

use super::callbacks::{Recorder, Reported, logger, sentence};
use super::cuda::{Context, DeviceBuffer, Stream};
use super::library::{Flavour, Library, Version};
use super::sys::{self, Dims, Object, Slots};
use std::ffi::{CStr, CString, c_int};
use std::sync::Arc;

/// What TensorRT said when it failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {words}")]
pub struct Refusal {
    /// What was asked of it.
    pub call: &'static str,
    /// Its words.
    pub words: String,
    /// Did it lack memory?
    pub out_of_memory: bool,
}

/// `IRuntime`.
pub(super) struct Runtime {
    object: Object,
    library: Library,
    recorder: Box<Recorder>,
    /// Keeps CUDA alive.
    _context: Arc<Context>,
}

impl Runtime {
    pub(super) fn start(library: Library, context: &Arc<Context>) -> Result<Self, Refusal> {
        let recorder = Recorder::new();
        let Version { major, minor, patch, .. } = library.version;
        // A comparison inside the library: the headers' NV_TENSORRT_VERSION.
        let version = i32::try_from(major * 10_000 + minor * 100 + patch).unwrap_or(0);
        let logger = logger(library.layout);
        // SAFETY: CUDA runs (invariant 2); the logger has the layout of this library.
        let pointer = unsafe { (library.create)(logger, version) };
        let Some(object) = Object::new(pointer) else {
            return Err(refusal("createInferRuntime", &recorder));
        };
        let runtime = Self { object, library, recorder, _context: Arc::clone(context) };
        let (set_recorder, this) = runtime.method::<sys::SetRecorder>(|s| s.set_error_recorder);
        // SAFETY: the recorder outlives the runtime, which owns it.
        unsafe { set_recorder(this, runtime.recorder.pointer()) };
        // A version-compatible plan may carry code for the processor; the package's sums vouch for it.
        if runtime.library.flavour == Flavour::Lean {
            let (allow, this) = runtime.method::<sys::SetFlag>(|s| s.set_host_code_allowed);
            // SAFETY: takes a flag.
            unsafe { allow(this, true) };
        }
        Ok(runtime)
    }

    /// Reads a plan.
    pub(super) fn deserialize(self, plan: &[u8]) -> Result<Engine, Refusal> {
        let (deserialize, this) = self.method::<sys::Deserialize>(|s| s.deserialize);
        self.recorder.take();
        // SAFETY: the bytes are only read, during the call.
        let pointer = unsafe { deserialize(this, plan.as_ptr().cast(), plan.len()) };
        match Object::new(pointer) {
            Some(object) => Ok(Engine { object, runtime: self }),
            None => Err(refusal("deserializeCudaEngine", &self.recorder)),
        }
    }

    fn slots(&self) -> &'static Slots {
        self.library.layout.slots()
    }

    fn method<F: Copy>(&self, slot: impl FnOnce(&Slots) -> usize) -> (F, sys::Pointer) {
        // SAFETY: a runtime of this library; every use above names slot and signature of one method.
        unsafe { self.object.method(slot(self.slots())) }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: the engine, which owned it, is gone, or there never was one.
        unsafe { self.object.delete() }
    }
}

/// An input or output as the plan has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tensor {
    /// Its name.
    pub(super) name: CString,
    /// [`sys::MODE_INPUT`] or [`sys::MODE_OUTPUT`].
    pub(super) mode: c_int,
    /// [`sys::TYPE_FLOAT`], [`sys::TYPE_HALF`] or another.
    pub(super) kind: c_int,
    /// On the device? (`TensorLocation::kDEVICE`.)
    pub(super) on_device: bool,
    /// Plain rows? (`TensorFormat::kLINEAR`.)
    pub(super) linear: bool,
    /// −1 where dynamic.
    pub(super) shape: Vec<i64>,
}

/// `ICudaEngine`.
pub(super) struct Engine {
    object: Object,
    runtime: Runtime,
}

impl Engine {
    /// All inputs and outputs.
    pub(super) fn tensors(&self) -> Result<Vec<Tensor>, Refusal> {
        let (count, this) = self.method::<sys::Count>(|s| s.io_count);
        // SAFETY: no arguments.
        let count = unsafe { count(this) };
        let (name_at, _) = self.method::<sys::NameAt>(|s| s.io_name);
        let (mode, _) = self.method::<sys::NumberOf>(|s| s.io_mode);
        let (kind, _) = self.method::<sys::NumberOf>(|s| s.io_type);
        let (location, _) = self.method::<sys::NumberOf>(|s| s.io_location);
        let (format, _) = self.method::<sys::NumberOf>(|s| s.io_format);
        let (shape, _) = self.method::<sys::ShapeOf>(|s| s.io_shape);
        let mut tensors = Vec::new();
        for index in 0..count {
            // SAFETY: an index below the count.
            let name = unsafe { name_at(this, index) };
            if name.is_null() {
                return Err(self.refusal("getIOTensorName"));
            }
            // SAFETY: a C string that lives as long as the engine.
            let name = unsafe { CStr::from_ptr(name) }.to_owned();
            let text = name.as_ptr();
            tensors.push(Tensor {
                // SAFETY: the name of a tensor of this engine.
                mode: unsafe { mode(this, text) },
                // SAFETY: as above.
                kind: unsafe { kind(this, text) },
                // SAFETY: as above.
                on_device: unsafe { location(this, text) } == 0,
                // SAFETY: as above.
                linear: unsafe { format(this, text) } == 0,
                // SAFETY: as above.
                shape: unsafe { shape(this, text) }.shape().unwrap_or_default().to_vec(),
                name,
            });
        }
        Ok(tensors)
    }

    /// How many optimisation profiles it has.
    pub(super) fn profiles(&self) -> c_int {
        let (count, this) = self.method::<sys::Count>(|s| s.profiles);
        // SAFETY: no arguments.
        unsafe { count(this) }
    }

    /// Least and largest shape of an input in a profile; `None` where it has none.
    pub(super) fn profile(&self, input: &CStr, profile: c_int) -> Option<(Vec<i64>, Vec<i64>)> {
        let (shape, this) = self.method::<sys::ProfileShape>(|s| s.profile_shape);
        // SAFETY: a C string, an index and a selector; unknown ones give a count of −1.
        let least = unsafe { shape(this, input.as_ptr(), profile, sys::PROFILE_MIN) };
        // SAFETY: as above.
        let most = unsafe { shape(this, input.as_ptr(), profile, sys::PROFILE_MAX) };
        Some((least.shape()?.to_vec(), most.shape()?.to_vec()))
    }

    /// What an execution context will allocate on the device; `None` where the library can't say:
    /// the method came with 10.1.
    pub(super) fn activation_bytes(&self) -> Option<u64> {
        let Version { major, minor, .. } = self.runtime.library.version;
        if major == 10 && minor < 1 {
            return None;
        }
        let (size, this) = self.method::<sys::Size>(|s| s.device_memory);
        // SAFETY: no arguments; the slot exists from 10.1 on.
        u64::try_from(unsafe { size(this) }).ok()
    }

    /// Makes an execution context, with memory of its own.
    pub(super) fn into_context(self) -> Result<Execution, Refusal> {
        let (make, this) = self.method::<sys::MakeContext>(|s| s.create_context);
        self.runtime.recorder.take();
        // SAFETY: takes ExecutionContextAllocationStrategy::kSTATIC.
        let pointer = unsafe { make(this, 0) };
        match Object::new(pointer) {
            Some(object) => Ok(Execution { object, engine: self, profile: 0 }),
            None => Err(self.refusal("createExecutionContext")),
        }
    }

    fn refusal(&self, call: &'static str) -> Refusal {
        refusal(call, &self.runtime.recorder)
    }

    fn method<F: Copy>(&self, slot: impl FnOnce(&Slots) -> usize) -> (F, sys::Pointer) {
        // SAFETY: an engine of this library; every use above names slot and signature of one method.
        unsafe { self.object.method(slot(self.runtime.slots())) }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: its execution context, which owned it, is gone, or there never was one.
        unsafe { self.object.delete() }
    }
}

/// `IExecutionContext`. Its first profile is set from the start.
pub(super) struct Execution {
    object: Object,
    engine: Engine,
    profile: c_int,
}

impl Execution {
    /// Chooses an optimisation profile; shapes must be set anew afterwards.
    pub(super) fn set_profile(&mut self, profile: c_int, stream: &Stream) -> Result<(), Refusal> {
        if self.profile == profile {
            return Ok(());
        }
        let (set, this) = self.method::<sys::SetProfile>(|s| s.set_profile);
        // SAFETY: an index, and a stream that lives during the call; the next enqueue is put on the
        // same stream, so it comes after.
        let done = unsafe { set(this, profile, stream.handle()) };
        self.checked("setOptimizationProfile", done)?;
        self.profile = profile;
        Ok(())
    }

    pub(super) fn set_shape(&mut self, input: &CStr, shape: &[usize]) -> Result<(), Refusal> {
        let (set, this) = self.method::<sys::SetShape>(|s| s.set_input_shape);
        let Some(dims) = Dims::new(shape) else { return self.checked("setInputShape", false) };
        // SAFETY: a C string and dims that live during the call.
        let done = unsafe { set(this, input.as_ptr(), &raw const dims) };
        self.checked("setInputShape", done)
    }

    /// The shape of a tensor for the inputs set; −1 where it can't be told yet.
    pub(super) fn shape(&self, tensor: &CStr) -> Vec<i64> {
        let (shape, this) = self.method::<sys::ShapeOf>(|s| s.context_shape);
        // SAFETY: a C string.
        unsafe { shape(this, tensor.as_ptr()) }.shape().unwrap_or_default().to_vec()
    }

    /// Binds memory to a tensor. The caller keeps it until the work that uses it is synchronised,
    /// and binds anew before the next if it gave it away.
    pub(super) fn bind(&mut self, tensor: &CStr, buffer: &DeviceBuffer) -> Result<(), Refusal> {
        let (set, this) = self.method::<sys::SetAddress>(|s| s.set_address);
        let Ok(address) = usize::try_from(buffer.address()) else {
            return self.checked("setTensorAddress", false);
        };
        let address = std::ptr::with_exposed_provenance_mut(address);
        // SAFETY: an address on the device, which TensorRT keeps and only kernels use.
        let done = unsafe { set(this, tensor.as_ptr(), address) };
        self.checked("setTensorAddress", done)
    }

    /// Puts the inference on a stream.
    pub(super) fn enqueue(&mut self, stream: &Stream) -> Result<(), Refusal> {
        let (enqueue, this) = self.method::<sys::Enqueue>(|s| s.enqueue);
        self.engine.runtime.recorder.take();
        // SAFETY: a stream that lives; the session keeps all that is bound until it synchronises.
        let done = unsafe { enqueue(this, stream.handle()) };
        self.checked("enqueueV3", done)
    }

    fn checked(&self, call: &'static str, done: bool) -> Result<(), Refusal> {
        if done { Ok(()) } else { Err(self.engine.refusal(call)) }
    }

    fn method<F: Copy>(&self, slot: impl FnOnce(&Slots) -> usize) -> (F, sys::Pointer) {
        // SAFETY: a context of this library; every use above names slot and signature of one method.
        unsafe { self.object.method(slot(self.engine.runtime.slots())) }
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        // SAFETY: sessions synchronise their stream before they let go of it.
        unsafe { self.object.delete() }
    }
}

fn refusal(call: &'static str, recorder: &Recorder) -> Refusal {
    let reported = recorder.take();
    let out_of_memory = reported.iter().any(Reported::is_allocation);
    Refusal { call, words: sentence(&reported), out_of_memory }
}
