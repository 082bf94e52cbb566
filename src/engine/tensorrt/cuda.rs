//! A CUDA device made safe: context, stream, device and pinned memory, graph.
//!
//! Order of start: the driver's library, `cuInit`, a device, its primary context (the one that
//! TensorRT's own CUDA runtime uses). Only with a [`Context`] in hand can TensorRT be started.
//!
//! Invariants:
//! 1. What lives on the device holds its context; the context goes last.
//! 2. Memory may be freed on any thread: the context is made that thread's first.
//! 3. A buffer that a copy or a kernel uses is not freed and, on the host, not touched before
//!    [`Stream::synchronize`]: callers hold both, and synchronise before they give either away.
#![expect(unsafe_code, reason = "calls the CUDA driver")]

use super::driver::{CudaError, DevicePointer, Driver, Handle, NoDriver, driver};
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR`.
const MAJOR: c_int = 75;
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR`.
const MINOR: c_int = 76;
/// `CU_STREAM_NON_BLOCKING`: doesn't wait for the null stream, which others may use.
const NON_BLOCKING: c_uint = 1;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`: other threads may free memory meanwhile.
const CAPTURE_THREAD_LOCAL: c_uint = 1;
/// Drivers below CUDA 12 don't run TensorRT 10's libraries.
const LEAST_DRIVER: i32 = 12_000;

/// Why there is no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// No driver.
    #[error(transparent)]
    NoDriver(#[from] NoDriver),
    /// A driver that is too old.
    #[error(
        "the NVIDIA driver speaks CUDA {}.{}, TensorRT 10 needs 12.0: update the driver (on a Jetson: JetPack 6)",
        version / 1000, version % 1000 / 10
    )]
    OldDriver {
        /// major · 1000 + minor · 10.
        version: i32,
    },
    /// The driver has no device for us.
    #[error(
        "the NVIDIA driver finds no device ({0}): is a card fitted, and may this user open /dev/nvidia* (on a Jetson: is the user in group video)?"
    )]
    None(CudaError),
    /// `engine.device` names one that is not there.
    #[error("engine.device = {ordinal}, but this box has {count} CUDA devices, counted from 0")]
    NoSuchDevice {
        /// Asked for.
        ordinal: u32,
        /// There.
        count: i32,
    },
    /// A call failed.
    #[error("the device can't be used: {0}")]
    Cuda(#[from] CudaError),
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// As counted by the driver.
    pub ordinal: u32,
    /// For example `Orin` or `NVIDIA GeForce RTX 4090`.
    pub name: String,
    /// For example `8.7`.
    pub compute_capability: String,
    /// Its memory; shared with the processor on a Jetson.
    pub memory_bytes: u64,
    /// CUDA version of the driver, for example `12.6`.
    pub driver: String,
    /// The driver's library, as it was found.
    pub driver_library: PathBuf,
}

/// A device's primary context.
pub(super) struct Context {
    driver: &'static Driver,
    device: Device,
    handle: Handle,
    id: c_int,
}

// SAFETY: a CUDA context may be current on several threads; the driver's functions are thread-safe.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// Starts CUDA on a device and makes its context this thread's.
    pub(super) fn start(ordinal: u32) -> Result<Arc<Self>, NoDevice> {
        let (driver, device, id) = look(ordinal)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `id` is a device of the initialised driver; `handle` is ours to write.
        let code = unsafe { (driver.retain_context)(&raw mut handle, id) };
        driver.check("cuDevicePrimaryCtxRetain", code)?;
        let context = Arc::new(Self { driver, device, handle, id });
        context.enter()?;
        Ok(context)
    }

    /// Makes it this thread's.
    pub(super) fn enter(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained as long as `self` lives.
        let code = unsafe { (self.driver.set_context)(self.handle) };
        self.driver.check("cuCtxSetCurrent", code)
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// Bytes that are free on the device now.
    pub(super) fn free_bytes(&self) -> Result<u64, CudaError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: both are ours to write; a context is current.
        let code = unsafe { (self.driver.memory_info)(&raw mut free, &raw mut total) };
        self.driver.check("cuMemGetInfo", code)?;
        Ok(free as u64)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once in `start`; whatever lives on the device held `self` and is gone.
        let _ = unsafe { (self.driver.release_context)(self.id) };
    }
}

/// What the device is, without a context on it.
pub(super) fn describe(ordinal: u32) -> Result<Device, NoDevice> {
    look(ordinal).map(|(_, device, _)| device)
}

fn look(ordinal: u32) -> Result<(&'static Driver, Device, c_int), NoDevice> {
    let driver = driver()?;
    // SAFETY: takes no memory; may be called again.
    let started = driver.check("cuInit", unsafe { (driver.init)(0) });
    started.map_err(|error| {
        if error.is_no_device() { NoDevice::None(error) } else { NoDevice::Cuda(error) }
    })?;
    let number = |call, read: &dyn Fn(*mut c_int) -> c_int| {
        let mut value = 0;
        driver.check(call, read(&raw mut value)).map(|()| value)
    };
    let read = |value| {
        // SAFETY: the pointer is to a local of `number`.
        unsafe { (driver.driver_version)(value) }
    };
    let version = number("cuDriverGetVersion", &read)?;
    if version < LEAST_DRIVER {
        return Err(NoDevice::OldDriver { version });
    }
    // SAFETY: as above.
    let count = number("cuDeviceGetCount", &|value| unsafe { (driver.device_count)(value) })?;
    let wanted = c_int::try_from(ordinal).ok().filter(|wanted| *wanted < count);
    let Some(wanted) = wanted else { return Err(NoDevice::NoSuchDevice { ordinal, count }) };
    // SAFETY: as above; the ordinal is below the count.
    let id = number("cuDeviceGet", &|value| unsafe { (driver.device)(value, wanted) })?;
    let attribute = |which| {
        // SAFETY: as above; `id` is a device.
        let read = |value| unsafe { (driver.device_attribute)(value, which, id) };
        number("cuDeviceGetAttribute", &read)
    };
    let (major, minor) = (attribute(MAJOR)?, attribute(MINOR)?);
    let mut memory = 0;
    // SAFETY: `memory` is ours to write; `id` is a device.
    let code = unsafe { (driver.device_memory)(&raw mut memory, id) };
    driver.check("cuDeviceTotalMem", code)?;
    let device = Device {
        ordinal,
        name: device_name(driver, id)?,
        compute_capability: format!("{major}.{minor}"),
        memory_bytes: memory as u64,
        driver: format!("{}.{}", version / 1000, version % 1000 / 10),
        driver_library: driver.path.clone(),
    };
    Ok((driver, device, id))
}

fn device_name(driver: &Driver, id: c_int) -> Result<String, CudaError> {
    const LENGTH: c_int = 256;
    let mut text: [c_char; LENGTH as usize] = [0; LENGTH as usize];
    // SAFETY: writes at most LENGTH bytes, with a final 0; `id` is a device.
    let code = unsafe { (driver.device_name)(text.as_mut_ptr(), LENGTH, id) };
    driver.check("cuDeviceGetName", code)?;
    // SAFETY: zeroed above, and the driver ends what it writes with 0.
    let name = unsafe { CStr::from_ptr(text.as_ptr()) };
    Ok(name.to_string_lossy().trim().to_owned())
}

/// A stream of its own.
pub(super) struct Stream {
    context: Arc<Context>,
    handle: Handle,
}

// SAFETY: a stream may be used from any thread; the driver's functions are thread-safe.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Arc<Self>, CudaError> {
        context.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: `handle` is ours to write; a context is current.
        let code = unsafe { (context.driver.create_stream)(&raw mut handle, NON_BLOCKING) };
        context.driver.check("cuStreamCreate", code)?;
        Ok(Arc::new(Self { context: Arc::clone(context), handle }))
    }

    /// `CUstream`, which is also `cudaStream_t`; valid as long as `self`.
    pub(super) fn handle(&self) -> Handle {
        self.handle
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Waits for all that was put on it; reports what failed on the way.
    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        // SAFETY: the stream lives.
        let code = unsafe { (self.context.driver.synchronize)(self.handle) };
        self.context.driver.check("cuStreamSynchronize", code)
    }

    /// Puts a copy to the device on the stream; the caller keeps both until it is synchronised.
    pub(super) fn copy_in(&self, to: &DeviceBuffer, from: &PinnedBuffer, bytes: usize) -> Outcome {
        debug_assert!(bytes <= to.bytes && bytes <= from.bytes);
        let bytes = bytes.min(to.bytes).min(from.bytes);
        let (to, from) = (to.pointer, from.pointer.as_ptr().cast());
        // SAFETY: both have that many bytes, live, and are not touched until synchronised.
        let code = unsafe { (self.context.driver.copy_in)(to, from, bytes, self.handle) };
        self.context.driver.check("cuMemcpyHtoDAsync", code)
    }

    /// Puts a copy from the device on the stream; the caller keeps both until it is synchronised.
    pub(super) fn copy_out(
        &self,
        to: &mut PinnedBuffer,
        from: &DeviceBuffer,
        bytes: usize,
    ) -> Outcome {
        debug_assert!(bytes <= to.bytes && bytes <= from.bytes);
        let bytes = bytes.min(to.bytes).min(from.bytes);
        let (to, from) = (to.pointer.as_ptr().cast(), from.pointer);
        // SAFETY: both have that many bytes, live, and are not touched until synchronised.
        let code = unsafe { (self.context.driver.copy_out)(to, from, bytes, self.handle) };
        self.context.driver.check("cuMemcpyDtoHAsync", code)
    }

    /// Puts a copy on the device on the stream; the caller keeps both until it is synchronised.
    pub(super) fn copy(&self, to: &DeviceBuffer, from: &DeviceBuffer) -> Outcome {
        debug_assert_eq!(to.bytes, from.bytes);
        let bytes = to.bytes.min(from.bytes);
        let (to, from) = (to.pointer, from.pointer);
        // SAFETY: both have that many bytes and live until synchronised.
        let code = unsafe { (self.context.driver.copy)(to, from, bytes, self.handle) };
        self.context.driver.check("cuMemcpyDtoDAsync", code)
    }

    /// Puts zeros into the first `bytes` of a buffer.
    pub(super) fn clear(&self, buffer: &DeviceBuffer, bytes: usize) -> Outcome {
        let bytes = bytes.min(buffer.bytes);
        // SAFETY: the buffer has that many bytes and lives until synchronised.
        let code = unsafe { (self.context.driver.fill)(buffer.pointer, 0, bytes, self.handle) };
        self.context.driver.check("cuMemsetD8Async", code)
    }

    /// Records what `work` puts on the stream, instead of doing it. The addresses in it stay those
    /// of now: whoever launches the graph must have kept the memory.
    pub(super) fn capture<E: From<CudaError>>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        let driver = self.context.driver;
        // SAFETY: the stream lives and nothing is being captured on it.
        let code = unsafe { (driver.begin_capture)(self.handle, CAPTURE_THREAD_LOCAL) };
        driver.check("cuStreamBeginCapture", code)?;
        let done = work();
        let mut graph = std::ptr::null_mut();
        // SAFETY: a capture is under way; `graph` is ours to write. It ends even a failed one.
        let code = unsafe { (driver.end_capture)(self.handle, &raw mut graph) };
        let ended = driver.check("cuStreamEndCapture", code);
        done?;
        ended?;
        let mut executable = std::ptr::null_mut();
        // SAFETY: `graph` was just made; `executable` is ours to write.
        let code = unsafe { (driver.instantiate)(&raw mut executable, graph, 0) };
        let made = driver.check("cuGraphInstantiate", code);
        // SAFETY: the graph was just made and is not used any more; the executable is a copy.
        let _ = unsafe { (driver.destroy_graph)(graph) };
        made?;
        Ok(Graph { stream: Arc::clone(self), executable })
    }
}

/// A call of the driver that gives nothing.
type Outcome = Result<(), CudaError>;

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: nobody else has it; the driver lets work under way finish first.
        let _ = unsafe { (self.context.driver.destroy_stream)(self.handle) };
    }
}

/// Recorded work.
pub(super) struct Graph {
    stream: Arc<Stream>,
    executable: Handle,
}

// SAFETY: used through `&self` only to launch it, which the driver allows from any thread.
unsafe impl Send for Graph {}

impl Graph {
    /// Puts the recorded work on its stream.
    pub(super) fn launch(&self) -> Result<(), CudaError> {
        let driver = self.stream.context.driver;
        // SAFETY: both live; the session that recorded it keeps the memory it names.
        let code = unsafe { (driver.launch)(self.executable, self.stream.handle) };
        driver.check("cuGraphLaunch", code)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.stream.context.enter();
        // SAFETY: nobody else has it.
        let _ = unsafe { (self.stream.context.driver.destroy_executable)(self.executable) };
    }
}

/// Memory on the device.
pub(super) struct DeviceBuffer {
    context: Arc<Context>,
    pointer: DevicePointer,
    bytes: usize,
}

impl DeviceBuffer {
    /// Not cleared.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        context.enter()?;
        let mut pointer = 0;
        // SAFETY: `pointer` is ours to write; a context is current.
        let code = unsafe { (context.driver.allocate)(&raw mut pointer, bytes.max(1)) };
        context.driver.check("cuMemAlloc", code)?;
        Ok(Self { context: Arc::clone(context), pointer, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Its address on the device; valid as long as `self`.
    pub(super) fn address(&self) -> DevicePointer {
        self.pointer
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: allocated in `new`; the driver waits for what still uses it.
        let _ = unsafe { (self.context.driver.free)(self.pointer) };
    }
}

/// Host memory that the device can copy to and from by itself. Cached, not write-combined: answers
/// are read from it.
pub(super) struct PinnedBuffer {
    context: Arc<Context>,
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns its memory, which any thread may use.
unsafe impl Send for PinnedBuffer {}

impl PinnedBuffer {
    /// Zeroed.
    pub(super) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        context.enter()?;
        let mut pointer = std::ptr::null_mut();
        // SAFETY: `pointer` is ours to write; a context is current.
        let code = unsafe { (context.driver.allocate_host)(&raw mut pointer, bytes.max(1), 0) };
        context.driver.check("cuMemHostAlloc", code)?;
        let Some(pointer) = NonNull::new(pointer.cast::<u8>()) else {
            let name = "success, and no memory".to_owned();
            return Err(CudaError { call: "cuMemHostAlloc", code: 2, name });
        };
        // SAFETY: just allocated with that many bytes.
        unsafe { pointer.as_ptr().write_bytes(0, bytes) };
        Ok(Self { context: Arc::clone(context), pointer, bytes })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: allocated and zeroed with that many bytes; no copy is under way (invariant 3).
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.bytes) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.bytes) }
    }
}

impl Drop for PinnedBuffer {
    fn drop(&mut self) {
        let _ = self.context.enter();
        // SAFETY: allocated in `new` and used by nobody else.
        let _ = unsafe { (self.context.driver.free_host)(self.pointer.as_ptr().cast()) };
    }
}
