//! PNG and JPEG files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam2d::imaging::decode::{Limits, decode};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { max_pixels: 1 << 22, ..Limits::default() };
    if let Ok(slice) = decode(bytes, None, &limits) {
        assert!(slice.size().pixels() > 0);
    }
});
