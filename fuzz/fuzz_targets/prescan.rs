//! What is read of a DICOM file before any pixel: meta group, data set, geometry, and what a Segmentation
//! takes over.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam2d::imaging::decode::{Limits, segmentation_source};

fuzz_target!(|bytes: &[u8]| {
    let mut file = Vec::new();
    if bytes.get(128..132) != Some(b"DICM") {
        file.resize(128, 0);
        file.extend_from_slice(b"DICM");
    }
    file.extend_from_slice(bytes);
    let limits = Limits { max_inflated_bytes: 16 << 20, ..Limits::default() };
    for frame in [None, Some(1)] {
        if let Ok(Some(source)) = segmentation_source(&file, frame, &limits) {
            assert!(source.size().pixels() as u64 <= limits.max_pixels);
            assert!(source.frame() < source.frames() && source.frames() <= limits.max_frames);
        }
    }
});
