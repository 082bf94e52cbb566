//! Whole DICOM files.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam2d::domain::mask::ImageType;
use sam2d::imaging::decode::{Limits, decode};
use sam2d::imaging::window;
use sam2d_fuzz::forgiving;

fuzz_target!(|bytes: &[u8]| {
    let mut file = Vec::new();
    if bytes.get(128..132) != Some(b"DICM") {
        file.resize(128, 0);
        file.extend_from_slice(b"DICM");
    }
    file.extend_from_slice(bytes);
    let limits = Limits { max_pixels: 1 << 20, max_inflated_bytes: 16 << 20, ..Limits::default() };
    for frame in [None, Some(0)] {
        let mut decoded = None;
        forgiving(|| decoded = decode(&file, frame, &limits).ok());
        if let Some(slice) = decoded {
            assert!(slice.samples().modality().is_none_or(|v| v.iter().all(|x| x.is_finite())));
            if let Ok((rendering, _)) = window::resolve(slice.info(), None, ImageType::Auto) {
                let _ = window::render(&slice, &rendering);
            }
        }
    }
});
