//! The TensorRT engine on stand-ins for NVIDIA's libraries: `./test tensorrt` builds them (with
//! NVIDIA's own headers) and runs these tests.
//!
//! What they prove: the tables' slots, shapes, types, addresses, order of start and end, every
//! failure's way to the log and the wire. What they can't: that a real library reads a real plan,
//! and what any of it takes on a GPU. `benches/gpu/run` does that, on a box that has one.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod calls;
mod commands;
mod daemon;
mod http;
mod loading;
mod model;
mod package;
mod real;
mod scripts;
mod slots;
mod standin;

use std::path::{Path, PathBuf};
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
    standin::forget();
    guard
}

/// What the stand-in driver of this process pretends from now on.
fn pretend(words: &str) {
    let path = std::env::var_os("STANDIN_CUDA").expect("run by ./test tensorrt");
    std::fs::write(path, words).unwrap();
}

/// Why a test that needs a box without NVIDIA's things can't run here; `./test` lists it at the end.
fn skip(reason: &str) {
    use std::io::Write as _;
    eprintln!("skipped gpu: {reason}");
    if let Some(list) = std::env::var_os("SAM2D_SKIPS") {
        let mut list = std::fs::File::options().append(true).create(true).open(list).unwrap();
        writeln!(list, "gpu: {reason}").unwrap();
    }
}

/// A folder whose `libcuda.so.1` is none: on the loader's path it stands for a box without a driver,
/// also where there is one.
fn no_driver(folder: &Path) -> PathBuf {
    let library = folder.join("no-driver");
    std::fs::create_dir_all(&library).unwrap();
    std::fs::write(library.join("libcuda.so.1"), "not a library").unwrap();
    library
}

/// Can a driver be hidden from the program? Not where it also lies in a place that is named in full.
fn can_hide_the_driver() -> bool {
    let places = ["aarch64-linux-gnu/nvidia", "aarch64-linux-gnu/tegra", "wsl/lib"];
    let is_there = |place| Path::new("/usr/lib").join(place).join("libcuda.so.1").exists();
    let seen = places.into_iter().any(is_there);
    if seen {
        skip("this box's driver can't be hidden: what is said where there is none is not tested");
    }
    !seen
}

/// Has this box a TensorRT of its own, which a test can't take away?
fn has_tensorrt() -> bool {
    use sam2d::engine::{Options, tensorrt::survey};
    let elsewhere = Options { tensorrt_path: Some("/nowhere".into()), ..Options::default() };
    let found = !survey(&elsewhere, None).libraries.is_empty();
    if found {
        skip("this box has a TensorRT of its own: what is said where there is none is not tested");
    }
    found
}
