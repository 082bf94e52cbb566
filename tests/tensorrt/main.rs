//! The TensorRT engine on stand-ins for NVIDIA's libraries: `./test tensorrt` builds them (with
//! NVIDIA's own headers) and runs these tests.
//!
//! What they prove: the tables' slots, shapes, types, addresses, order of start and end, every
//! failure's way to the log and the wire. What they can't: that a real library reads a real plan,
//! and what any of it takes on a GPU. `benches/gpu/run` does that, on a box that has one.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod calls;
mod daemon;
mod http;
mod loading;
mod model;
mod package;
mod real;
mod scripts;
mod slots;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where `./test tensorrt` has put the stand-ins.
fn standins() -> PathBuf {
    std::env::var_os("TENSORRT_STANDINS").expect("run by ./test tensorrt").into()
}

/// One driver a process, so one test at a time; what the driver pretends is forgotten.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    pretend("");
    guard
}

/// What the stand-in driver of this process pretends from now on.
fn pretend(words: &str) {
    let path = std::env::var_os("STANDIN_CUDA").expect("run by ./test tensorrt");
    std::fs::write(path, words).unwrap();
}
