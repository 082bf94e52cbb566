//! What are these bytes? Told by their content alone: names and media types lie.

use crate::domain::slice::Format;

const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
const JPEG_START: &[u8] = b"\xff\xd8\xff";
const DICOM_MAGIC: &[u8] = b"DICM";
/// PS3.10 7.1: 128 bytes of anything, then the magic.
const DICOM_PREAMBLE: usize = 128;

/// The format, or `None` for anything else.
///
/// The DICOM magic is asked first: its 128 bytes of preamble may hold anything, a TIFF header or
/// a PNG signature included.
#[must_use]
pub fn sniff(bytes: &[u8]) -> Option<Format> {
    let magic = bytes.get(DICOM_PREAMBLE..DICOM_PREAMBLE + DICOM_MAGIC.len());
    if magic == Some(DICOM_MAGIC) {
        Some(Format::Dicom)
    } else if bytes.starts_with(PNG_SIGNATURE) {
        Some(Format::Png)
    } else if bytes.starts_with(JPEG_START) {
        Some(Format::Jpeg)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_told_by_content() {
        let mut dicom = vec![0; 128];
        dicom.extend_from_slice(b"DICM");
        assert_eq!(sniff(&dicom), Some(Format::Dicom));
        assert_eq!(sniff(b"\x89PNG\r\n\x1a\n...."), Some(Format::Png));
        assert_eq!(sniff(b"\xff\xd8\xff\xe0"), Some(Format::Jpeg));
        assert_eq!(sniff(b"GIF89a"), None);
        assert_eq!(sniff(b""), None);
    }

    #[test]
    fn a_preamble_that_looks_like_a_png_does_not_hide_a_dicom() {
        let mut dicom = b"\x89PNG\r\n\x1a\n".to_vec();
        dicom.resize(128, 0);
        dicom.extend_from_slice(b"DICM");
        assert_eq!(sniff(&dicom), Some(Format::Dicom));
    }
}
