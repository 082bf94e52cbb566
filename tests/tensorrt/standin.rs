//! What the stand-in libcuda of this process tells of itself.
#![expect(unsafe_code, reason = "calls the stand-in")]

use libloading::os::unix::Library;
use std::ffi::{c_int, c_long};
use std::sync::OnceLock;

/// What of each kind is alive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) device_memory: i32,
    pub(crate) host_memory: i32,
    pub(crate) streams: i32,
    pub(crate) graphs: i32,
    pub(crate) contexts: i32,
    pub(crate) objects: i32,
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    // SAFETY: the stand-in, which `./test tensorrt` has put on the loader's path.
    LIBRARY.get_or_init(|| unsafe { Library::new("libcuda.so.1") }.unwrap())
}

pub(crate) fn alive() -> Alive {
    // SAFETY: the stand-in's function has this signature.
    let count = unsafe { library().get::<unsafe extern "C" fn(c_int) -> c_int>("standin_alive") };
    let count = count.unwrap();
    let [device_memory, host_memory, streams, graphs, contexts, objects] =
        // SAFETY: as above; it only counts.
        [0, 1, 2, 3, 4, 5].map(|kind| unsafe { count(kind) });
    Alive { device_memory, host_memory, streams, graphs, contexts, objects }
}

/// Copies to the device so far.
pub(crate) fn copies() -> i32 {
    // SAFETY: the stand-in's function has this signature.
    let count = unsafe { library().get::<unsafe extern "C" fn() -> c_int>("standin_copies") };
    // SAFETY: as above; it only counts.
    unsafe { count.unwrap()() }
}

/// Bytes allocated on the device.
pub(crate) fn device_bytes() -> i64 {
    // SAFETY: the stand-in's function has this signature.
    let count =
        unsafe { library().get::<unsafe extern "C" fn() -> c_long>("standin_device_bytes") };
    // SAFETY: as above; it only counts.
    unsafe { count.unwrap()() }
}

/// The device is no longer lost.
pub(crate) fn forget() {
    // SAFETY: the stand-in's function has this signature.
    let forget = unsafe { library().get::<unsafe extern "C" fn()>("standin_forget") };
    // SAFETY: as above.
    unsafe { forget.unwrap()() };
}
