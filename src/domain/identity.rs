//! What a DICOM Segmentation takes over from the DICOM file it was made from: whose it is, and where
//! in that person it lies.
//!
//! Invariants:
//! 1. It comes from the bytes of the request that is being answered, and dies with that request: it
//!    is never part of a key, an entry, a log line or an error text.
//! 2. [`fmt::Debug`] shows nothing of it but geometry.
//! 3. Values are the file's own bytes, in the file's own character set, unchanged.
//!
//! Which attributes, and what makes a value acceptable, is [`crate::imaging::seg`]'s business.

use super::slice::Size;
use std::fmt;

/// A DICOM attribute: group and element.
pub type AttributeTag = (u16, u16);

/// The attributes of one frame's file that its Segmentation repeats.
#[derive(Clone, PartialEq, Eq)]
pub struct SegmentationSource {
    size: Size,
    frame: u32,
    frames: u32,
    values: Vec<(AttributeTag, Vec<u8>)>,
}

impl SegmentationSource {
    /// `frame` of `frames` (0-based), its size, and the values there are; empty ones are left out.
    #[must_use]
    pub fn new(
        size: Size,
        frame: u32,
        frames: u32,
        mut values: Vec<(AttributeTag, Vec<u8>)>,
    ) -> Self {
        values.retain(|(_, value)| !value.is_empty());
        Self { size, frame, frames, values }
    }

    /// Size of the frame.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// Which frame, 0-based.
    #[must_use]
    pub fn frame(&self) -> u32 {
        self.frame
    }

    /// Frames in the file.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// The value's bytes without padding; `None` where the file has none.
    #[must_use]
    pub fn value(&self, tag: AttributeTag) -> Option<&[u8]> {
        self.values.iter().find(|(of, _)| *of == tag).map(|(_, value)| value.as_slice())
    }

    /// All values, in no particular order.
    pub fn values(&self) -> impl Iterator<Item = (AttributeTag, &[u8])> {
        self.values.iter().map(|(tag, value)| (*tag, value.as_slice()))
    }
}

impl fmt::Debug for SegmentationSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, frame, frames, values: _ } = self;
        f.debug_struct("SegmentationSource")
            .field("size", size)
            .field("frame", frame)
            .field("frames", frames)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_person_is_printed() {
        let name = b"Canary^Bird".to_vec();
        let size = Size { width: 2, height: 3 };
        let source = SegmentationSource::new(size, 0, 1, vec![((0x0010, 0x0010), name)]);
        let text = format!("{source:?}{source:#?}");
        assert!(!text.contains("Canary") && !text.contains("67"), "{text}");
        assert!(text.contains("width: 2"));
    }
}
