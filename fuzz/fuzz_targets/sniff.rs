//! Formats told by content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam2d::domain::slice::Format;
use sam2d::imaging::sniff::sniff;

fuzz_target!(|bytes: &[u8]| {
    if sniff(bytes) == Some(Format::Dicom) {
        assert!(bytes.len() >= 132);
    }
});
