//! The CUDA driver, loaded at run time: the functions in use, as values, with their errors.
//!
//! Why not `cudarc`, which was meant for this: its error codes are a Rust enum, so that a driver
//! newer than its headers which answers a code they lack is undefined behaviour; it panics where the
//! library or a function is missing; and it would take a toolkit's link-time stub `libcuda.so` for
//! the driver. Here a code is a number, and what is missing is an error with a name.
//!
//! Invariant: a [`Driver`] has all functions in use; it is never unloaded.
#![expect(unsafe_code, reason = "loads the driver's library")]

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// `CUresult`.
pub(super) type Code = c_int;
/// `CUdeviceptr`.
pub(super) type DevicePointer = u64;
/// `CUcontext`, `CUstream`, `CUgraph`, `CUgraphExec`.
pub(super) type Handle = *mut c_void;

/// `CUDA_ERROR_OUT_OF_MEMORY`.
const OUT_OF_MEMORY: Code = 2;
/// `CUDA_ERROR_NO_DEVICE`.
const NO_DEVICE: Code = 100;

/// After these, every further call in this process fails, whatever it asks for: deinitialised,
/// uncorrectable ECC and NVLink errors, illegal address, launch
/// time-out, a destroyed context, device-side assert, hardware stack, illegal instruction,
/// misaligned address, address space, program counter, launch failure, and "unknown".
/// Source: the CUDA driver API's `CUresult`, where it says that the process must be relaunched.
const STICKY: [Code; 15] =
    [4, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 999];

/// A failed call of the driver.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {name} ({code})")]
pub struct CudaError {
    /// The function.
    pub call: &'static str,
    /// `CUresult`.
    pub code: i32,
    /// Its name, in the driver's words.
    pub name: String,
}

impl CudaError {
    /// Out of memory: another call may work.
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.code == OUT_OF_MEMORY
    }

    /// The driver is there, but no device.
    pub(super) fn is_no_device(&self) -> bool {
        self.code == NO_DEVICE
    }

    /// Only a new process helps.
    pub(super) fn is_sticky(&self) -> bool {
        STICKY.contains(&self.code)
    }
}

/// Why there is no driver to speak to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDriver {
    /// The library is not there.
    #[error("libcuda.so.1 can't be loaded ({0}): install NVIDIA's driver (on a Jetson: JetPack)")]
    Missing(String),
    /// It is there, and too old.
    #[error("{} has no {function}: the NVIDIA driver is too old, CUDA 12 is needed", path.display())]
    TooOld {
        /// The library.
        path: PathBuf,
        /// What it lacks.
        function: &'static str,
    },
}

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),*)),+ $(,)?) => {
        /// The driver's functions.
        pub(super) struct Driver {
            /// What was loaded.
            pub(super) path: PathBuf,
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) -> Code,)+
        }

        fn bind(library: &Library, path: PathBuf) -> Result<Driver, NoDriver> {
            $(
                // SAFETY: the signature is the driver API's for this symbol, whose versioned names
                // (`_v2`) pin it.
                let found = unsafe {
                    library.get::<unsafe extern "C" fn($($argument),*) -> Code>($symbol)
                };
                let Ok($field) = found else {
                    return Err(NoDriver::TooOld { path, function: $symbol });
                };
                let $field = *$field;
            )+
            Ok(Driver { path, $($field),+ })
        }
    };
}

functions! {
    init = "cuInit"(c_uint),
    driver_version = "cuDriverGetVersion"(*mut c_int),
    device_count = "cuDeviceGetCount"(*mut c_int),
    device = "cuDeviceGet"(*mut c_int, c_int),
    device_name = "cuDeviceGetName"(*mut c_char, c_int, c_int),
    device_attribute = "cuDeviceGetAttribute"(*mut c_int, c_int, c_int),
    device_memory = "cuDeviceTotalMem_v2"(*mut usize, c_int),
    retain_context = "cuDevicePrimaryCtxRetain"(*mut Handle, c_int),
    release_context = "cuDevicePrimaryCtxRelease_v2"(c_int),
    set_context = "cuCtxSetCurrent"(Handle),
    memory_info = "cuMemGetInfo_v2"(*mut usize, *mut usize),
    allocate = "cuMemAlloc_v2"(*mut DevicePointer, usize),
    free = "cuMemFree_v2"(DevicePointer),
    allocate_host = "cuMemHostAlloc"(*mut *mut c_void, usize, c_uint),
    free_host = "cuMemFreeHost"(*mut c_void),
    copy_in = "cuMemcpyHtoDAsync_v2"(DevicePointer, *const c_void, usize, Handle),
    copy_out = "cuMemcpyDtoHAsync_v2"(*mut c_void, DevicePointer, usize, Handle),
    copy = "cuMemcpyDtoDAsync_v2"(DevicePointer, DevicePointer, usize, Handle),
    fill = "cuMemsetD8Async"(DevicePointer, u8, usize, Handle),
    create_stream = "cuStreamCreate"(*mut Handle, c_uint),
    destroy_stream = "cuStreamDestroy_v2"(Handle),
    synchronize = "cuStreamSynchronize"(Handle),
    begin_capture = "cuStreamBeginCapture_v2"(Handle, c_uint),
    end_capture = "cuStreamEndCapture"(Handle, *mut Handle),
    instantiate = "cuGraphInstantiateWithFlags"(*mut Handle, Handle, u64),
    launch = "cuGraphLaunch"(Handle, Handle),
    destroy_executable = "cuGraphExecDestroy"(Handle),
    destroy_graph = "cuGraphDestroy"(Handle),
    error_name = "cuGetErrorName"(Code, *mut *const c_char),
}

/// The loader's path first; then where a driver may lie that was not made known to the loader:
/// Jetson's two folders, and the one that WSL mounts.
const PLACES: [&str; 4] = [
    "libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1",
    "/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1",
    "/usr/lib/wsl/lib/libcuda.so.1",
];

/// Loads the driver; what was loaded once stays, what was missing is looked for again.
pub(super) fn driver() -> Result<&'static Driver, NoDriver> {
    static LOADED: Mutex<Option<&'static Driver>> = Mutex::new(None);
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(driver) = *loaded {
        return Ok(driver);
    }
    let driver: &'static Driver = Box::leak(Box::new(load(&PLACES)?));
    *loaded = Some(driver);
    Ok(driver)
}

/// The first that can be loaded, for good; else why the first place's could not be.
fn load(places: &[&str]) -> Result<Driver, NoDriver> {
    let mut first = None;
    for place in places {
        // SAFETY: runs the initialisers of the system's CUDA driver.
        match unsafe { Library::open(Some(*place), RTLD_NOW | RTLD_LOCAL) } {
            Ok(library) => {
                let driver = bind(&library, place.into())?;
                std::mem::forget(library);
                return Ok(driver);
            }
            Err(error) => {
                let words = std::error::Error::source(&error)
                    .map_or_else(|| error.to_string(), ToString::to_string);
                first.get_or_insert(words);
            }
        }
    }
    Err(NoDriver::Missing(first.unwrap_or_default()))
}

impl Driver {
    /// Turns a code into words.
    pub(super) fn check(&self, call: &'static str, code: Code) -> Result<(), CudaError> {
        if code == 0 {
            return Ok(());
        }
        let mut text = std::ptr::null();
        // SAFETY: takes any code; writes one pointer to a string of the library's, or null.
        let known = unsafe { (self.error_name)(code, &raw mut text) } == 0 && !text.is_null();
        let name = if known {
            // SAFETY: a C string that lives as long as the library, which is never unloaded.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        } else {
            "an error that the driver has no name for".to_owned()
        };
        Err(CudaError { call, code, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_device_is_told_from_an_error_that_passes() {
        let error = |code| CudaError { call: "cuStreamSynchronize", code, name: String::new() };
        for lost in [214, 700, 702, 719, 999] {
            assert!(error(lost).is_sticky(), "{lost}");
        }
        for passing in [1, 2, 100, 101, 201, 400, 801, 900] {
            assert!(!error(passing).is_sticky(), "{passing}");
        }
        assert!(error(2).is_out_of_memory() && error(100).is_no_device());
    }

    #[test]
    fn without_a_library_of_the_drivers_functions_there_is_no_driver() {
        let words = |places: &[&str]| load(places).err().unwrap().to_string();
        let missing = words(&["libcuda.so.10077", "/nowhere/libcuda.so.1"]);
        assert!(missing.contains("can't be loaded (libcuda.so.10077: "), "{missing}");
        assert!(missing.ends_with("install NVIDIA's driver (on a Jetson: JetPack)"), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("libcuda.so.1");
        std::fs::write(&broken, b"not a library").unwrap();
        let broken = words(&[broken.to_str().unwrap()]);
        assert!(broken.contains("libcuda.so.1: "), "{broken}");
        // A library that is there and is no driver, or one from before CUDA 12, lacks functions.
        let other = words(&["/nowhere/libcuda.so.1", "libc.so.6"]);
        assert_eq!(
            other,
            "libc.so.6 has no cuInit: the NVIDIA driver is too old, CUDA 12 is needed"
        );
    }
}
