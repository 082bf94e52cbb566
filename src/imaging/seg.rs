//! A mask as a DICOM Segmentation (PS3.3 A.51), for archives and workstations.
//!
//! BINARY, one segment, one frame: the mask of the frame that was segmented, on that frame's own
//! pixel grid. Patient, study, frame of reference and references come from the DICOM file of the same
//! request ([`SegmentationSource`]); series, instance and time are new, so a Segmentation is never
//! cached and never the same twice.
//!
//! Invariants:
//! 1. What the file says of the patient is repeated byte for byte, in the file's character set; our
//!    own words are ASCII, which every one of those sets contains.
//! 2. "Not for diagnostic use" stands in Series Description, Content Description and Segment
//!    Description.
//! 3. An empty mask is a frame of zeros, not a missing one.
//!
//! Codes are SNOMED CT and DCM as PS3.16 lists them (CID 7150, 7151, 7162, 7203, 7202). It has no code
//! for the psoas: such a segment is coded as skeletal muscle and named in its label.

mod object;
pub(crate) mod source;

use self::object::{Object, code};
use self::source::{
    CHARACTER_SET, CLASS_UID, FRAME_OF_REFERENCE_UID, INSTANCE_UID, LOSSY, Need, ORIENTATION,
    PATIENT_ORIENTATION, PIXEL_MEASURES, PIXEL_SPACING, PLANE_ORIENTATION, PLANE_POSITION,
    POSITION, POSITION_REFERENCE, Place, SERIES_UID, SLICE_THICKNESS, TAKEN, TIMEZONE,
    offset_minutes,
};
use crate::domain::identity::{AttributeTag, SegmentationSource};
use crate::domain::mask::{ImageType, Mask, Target};
use chrono::{DateTime, FixedOffset, Local};
use std::time::SystemTime;

/// Segmentation Storage. PS3.6 table A-1.
const SEGMENTATION_STORAGE: &str = "1.2.840.10008.5.1.4.1.1.66.4";
/// What "this was made by" says, wherever DICOM asks.
const PRODUCT: &str = "sam2d";
/// Orange as the overlay's, in DICOM's scaling of CIELab. PS3.3 C.10.7.1.1.
const DISPLAY_COLOUR: [u16; 3] = [46928, 41046, 52636];

/// What the Segmentation is to say.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// The file's own attributes.
    pub source: &'a SegmentationSource,
    /// The answer's mask.
    pub mask: &'a Mask,
    /// What was segmented…
    pub image_type: ImageType,
    /// …and in a `middle` slice, which muscle.
    pub target: Target,
    /// Did a person point at it (SEMIAUTOMATIC), or was it one click (AUTOMATIC)?
    pub prompted: bool,
    /// Who made the mask.
    pub algorithm: &'a Algorithm,
}

/// The engine, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Algorithm {
    /// Name and version, for example `sam2-nano 1.0.0`.
    pub name: String,
    /// The engine's fingerprint: hex SHA-256, which is as long as DICOM lets a version be.
    pub fingerprint: String,
    /// Backend and intended use, for people.
    pub remarks: String,
}

/// Why there is no Segmentation.
#[derive(Debug, thiserror::Error)]
pub enum SegError {
    /// The file lacks what a Segmentation must refer to; in words for the user.
    #[error("the DICOM file has no valid {0}, so no DICOM Segmentation can refer to it")]
    Missing(&'static str),
    /// The mask is of another image: a bug of the caller.
    #[error("the mask is not of the source's size")]
    OtherSize,
    /// The system gave no randomness, or writing failed: ours.
    #[error("the DICOM Segmentation could not be written: {0}")]
    Failed(String),
}

/// Can a Segmentation refer to this file? Worth asking before the engine works.
///
/// # Errors
/// [`SegError::Missing`] with the first attribute that is not there.
pub fn check(source: &SegmentationSource) -> Result<(), SegError> {
    let required = TAKEN.iter().filter(|taken| taken.need == Need::Required);
    match required.into_iter().find(|taken| source.value(taken.tag).is_none()) {
        Some(missing) => Err(SegError::Missing(missing.name)),
        None => Ok(()),
    }
}

/// The Segmentation as a DICOM Part 10 file, explicit VR little endian.
///
/// # Errors
/// Any [`SegError`].
pub fn encode(content: &Content<'_>) -> Result<Vec<u8>, SegError> {
    let uids = Uids { series: uid()?, instance: uid()?, organization: uid()? };
    write(content, &uids, SystemTime::now())
}

/// The UIDs that are new.
struct Uids {
    series: String,
    instance: String,
    organization: String,
}

fn write(content: &Content<'_>, uids: &Uids, now: SystemTime) -> Result<Vec<u8>, SegError> {
    check(content.source)?;
    if content.mask.size() != content.source.size() {
        return Err(SegError::OtherSize);
    }
    let mut object = Object::default();
    identity(&mut object, content.source);
    series(&mut object, uids);
    image(&mut object, content, uids, now);
    object.sequence((0x0062, 0x0002), vec![segment(content)]);
    references(&mut object, content.source);
    frames(&mut object, content.source, &uids.organization);
    object.words((0x7FE0, 0x0010), bits(content.mask));
    object.into_file(SEGMENTATION_STORAGE, &uids.instance).map_err(SegError::Failed)
}

/// Patient, study and frame of reference: the source's own.
fn identity(object: &mut Object, source: &SegmentationSource) {
    for taken in TAKEN.iter().filter(|taken| taken.place == Place::Top) {
        match (source.value(taken.tag), taken.need) {
            // They say of the source what is said of the Segmentation elsewhere.
            _ if matches!(taken.tag, CLASS_UID | INSTANCE_UID | SERIES_UID) => {}
            // Only where nothing better is known: see `frames`.
            _ if taken.tag == PATIENT_ORIENTATION => {}
            (Some(value), _) => object.put(taken.tag, taken.vr, value),
            (None, Need::Empty) => object.put(taken.tag, taken.vr, b""),
            (None, _) => {}
        }
    }
    if source.value(FRAME_OF_REFERENCE_UID).is_some() && source.value(POSITION_REFERENCE).is_none()
    {
        object.put(POSITION_REFERENCE, *b"LO", b"");
    }
    if source.value(LOSSY).is_none() {
        object.text(LOSSY, *b"CS", "00");
    }
    if source.value(CHARACTER_SET).is_none() {
        // What we write is ASCII; a name that is not must not change its meaning either way.
        let plain = source.values().all(|(_, value)| value.is_ascii());
        if plain {
            object.text(CHARACTER_SET, *b"CS", "ISO_IR 100");
        }
    }
}

fn series(object: &mut Object, uids: &Uids) {
    object.text((0x0008, 0x0060), *b"CS", "SEG");
    object.text((0x0020, 0x000E), *b"UI", &uids.series);
    // Behind the scanner's own series in a viewer's list, and never one of theirs.
    object.text((0x0020, 0x0011), *b"IS", "9900");
    object.text((0x0008, 0x103E), *b"LO", "sam2d segmentation. Not for diagnostic use.");
    object.text((0x0008, 0x0070), *b"LO", PRODUCT);
    object.text((0x0008, 0x1090), *b"LO", PRODUCT);
    object.text((0x0018, 0x1000), *b"LO", "not assigned");
    object.text((0x0018, 0x1020), *b"LO", env!("CARGO_PKG_VERSION"));
}

fn image(object: &mut Object, content: &Content<'_>, uids: &Uids, now: SystemTime) {
    let (date, time) = stamp(now, content.source.value(TIMEZONE).and_then(offset_minutes));
    object.text((0x0008, 0x0016), *b"UI", SEGMENTATION_STORAGE);
    object.text((0x0008, 0x0018), *b"UI", &uids.instance);
    object.text((0x0008, 0x0023), *b"DA", &date);
    object.text((0x0008, 0x0033), *b"TM", &time);
    object.text((0x0020, 0x0013), *b"IS", "1");
    object.text((0x0008, 0x0008), *b"CS", "DERIVED\\PRIMARY");
    let size = content.source.size();
    object.short((0x0028, 0x0002), 1);
    object.text((0x0028, 0x0004), *b"CS", "MONOCHROME2");
    object.text((0x0028, 0x0008), *b"IS", "1");
    object.short((0x0028, 0x0010), u16::try_from(size.height).unwrap_or(u16::MAX));
    object.short((0x0028, 0x0011), u16::try_from(size.width).unwrap_or(u16::MAX));
    object.short((0x0028, 0x0100), 1);
    object.short((0x0028, 0x0101), 1);
    object.short((0x0028, 0x0102), 0);
    object.short((0x0028, 0x0103), 0);
    object.text((0x0062, 0x0001), *b"CS", "BINARY");
    object.text((0x0062, 0x0013), *b"CS", "NO");
    object.text((0x0070, 0x0080), *b"CS", "SAM2D");
    object.text((0x0070, 0x0081), *b"LO", "One-click segmentation. Not for diagnostic use.");
    object.put((0x0070, 0x0084), *b"PN", b"");
}

/// The one segment: what it is and who found it.
fn segment(content: &Content<'_>) -> Object {
    let structure = code("91723000", "SCT", "Anatomical Structure");
    let muscle = || code("127954009", "SCT", "Skeletal muscle");
    let (label, category, kind) = match (content.image_type, content.target) {
        (ImageType::L3, _) => ("L3 vertebra", structure, code("36470004", "SCT", "L3 vertebra")),
        (ImageType::Middle, Target::Psoas) => ("Psoas muscle", structure, muscle()),
        (ImageType::Middle, Target::Muscle) => ("Skeletal muscle", structure, muscle()),
        (ImageType::Auto, _) => (
            "Segmented region",
            code("309825002", "SCT", "Spatial and Relational Concept"),
            code("111030", "DCM", "Image Region"),
        ),
    };
    let algorithm = content.algorithm;
    let mut identification = Object::default();
    identification
        .sequence((0x0066, 0x002F), vec![code("123110", "DCM", "Artificial Intelligence")]);
    identification.words_of((0x0066, 0x0036), *b"LO", &algorithm.name, 64);
    identification.words_of((0x0066, 0x0031), *b"LO", &algorithm.fingerprint, 64);
    identification.words_of((0x0066, 0x0032), *b"LT", &algorithm.remarks, 10_240);
    identification.text((0x0024, 0x0202), *b"LO", PRODUCT);

    let mut segment = Object::default();
    segment.short((0x0062, 0x0004), 1);
    segment.text((0x0062, 0x0005), *b"LO", label);
    segment.text((0x0062, 0x0006), *b"ST", "Not for diagnostic use.");
    let by = if content.prompted { "SEMIAUTOMATIC" } else { "AUTOMATIC" };
    segment.text((0x0062, 0x0008), *b"CS", by);
    segment.words_of((0x0062, 0x0009), *b"LO", &algorithm.name, 64);
    segment.sequence((0x0062, 0x0007), vec![identification]);
    segment.shorts((0x0062, 0x000D), &DISPLAY_COLOUR);
    segment.sequence((0x0062, 0x0003), vec![category]);
    segment.sequence((0x0062, 0x000F), vec![kind]);
    segment
}

/// The file this was made from, as an instance of its series.
fn references(object: &mut Object, source: &SegmentationSource) {
    let mut series = Object::default();
    series.copy(source, SERIES_UID, SERIES_UID, *b"UI");
    series.sequence((0x0008, 0x114A), vec![instance(source)]);
    object.sequence((0x0008, 0x1115), vec![series]);
}

fn instance(source: &SegmentationSource) -> Object {
    let mut instance = Object::default();
    instance.copy(source, CLASS_UID, (0x0008, 0x1150), *b"UI");
    instance.copy(source, INSTANCE_UID, (0x0008, 0x1155), *b"UI");
    instance
}

/// Functional groups and dimensions of the one frame.
fn frames(object: &mut Object, source: &SegmentationSource, organization: &str) {
    let in_space = [POSITION, ORIENTATION, PIXEL_SPACING, FRAME_OF_REFERENCE_UID];
    let in_space = in_space.iter().all(|&tag| source.value(tag).is_some());

    let mut shared = Object::default();
    let mut frame = Object::default();
    if in_space {
        shared.sequence(PIXEL_MEASURES, vec![copied(source, PIXEL_MEASURES)]);
        shared.sequence(PLANE_ORIENTATION, vec![copied(source, PLANE_ORIENTATION)]);
        frame.sequence(PLANE_POSITION, vec![copied(source, PLANE_POSITION)]);
    } else {
        let words = source.value(PATIENT_ORIENTATION).unwrap_or_default();
        object.put(PATIENT_ORIENTATION, *b"CS", words);
    }
    let mut numbered = Object::default();
    numbered.short((0x0062, 0x000B), 1);
    frame.sequence((0x0062, 0x000A), vec![numbered]);

    let mut origin = instance(source);
    if source.frames() > 1 {
        origin.text((0x0008, 0x1160), *b"IS", &(source.frame() + 1).to_string());
    }
    origin.text((0x0028, 0x135A), *b"CS", "YES");
    let purpose = code("121322", "DCM", "Source image for image processing operation");
    origin.sequence((0x0040, 0xA170), vec![purpose]);
    let mut derivation = Object::default();
    derivation.sequence((0x0008, 0x2112), vec![origin]);
    derivation.sequence((0x0008, 0x9215), vec![code("113076", "DCM", "Segmentation")]);
    frame.sequence((0x0008, 0x9124), vec![derivation]);

    let mut dimensions = vec![((0x0062, 0x000B), (0x0062, 0x000A), "Segment")];
    if in_space {
        dimensions.push((POSITION, PLANE_POSITION, "Position"));
    }
    let mut content = Object::default();
    content.longs((0x0020, 0x9157), &vec![1; dimensions.len()]);
    frame.sequence((0x0020, 0x9111), vec![content]);

    let mut named = Object::default();
    named.text((0x0020, 0x9164), *b"UI", organization);
    object.sequence((0x0020, 0x9221), vec![named]);
    let index = |(pointer, group, label): (AttributeTag, AttributeTag, &str)| {
        let mut index = Object::default();
        index.text((0x0020, 0x9164), *b"UI", organization);
        index.pointer((0x0020, 0x9165), pointer);
        index.pointer((0x0020, 0x9167), group);
        index.text((0x0020, 0x9421), *b"LO", label);
        index
    };
    object.sequence((0x0020, 0x9222), dimensions.into_iter().map(index).collect());
    object.sequence((0x5200, 0x9229), vec![shared]);
    object.sequence((0x5200, 0x9230), vec![frame]);
}

/// A functional group's item with what the source has of it.
fn copied(source: &SegmentationSource, group: AttributeTag) -> Object {
    let mut item = Object::default();
    for taken in TAKEN.iter().filter(|taken| taken.place == Place::Group(group)) {
        item.copy(source, taken.tag, taken.tag, taken.vr);
    }
    // Type 1 in Pixel Measures, and no scanner's slice is without one; a picture may be.
    if group == PIXEL_MEASURES && source.value(SLICE_THICKNESS).is_none() {
        item.text(SLICE_THICKNESS, *b"DS", "1");
    }
    item
}

/// One bit a pixel, the first in the lowest bit. PS3.5 8.1.1 and annex D.
fn bits(mask: &Mask) -> Vec<u8> {
    let byte =
        |eight: &[u8]| eight.iter().rev().fold(0, |byte, &pixel| byte << 1 | u8::from(pixel != 0));
    mask.pixels().chunks(8).map(byte).collect()
}

/// Date and time as DICOM writes them: in the file's own time zone where it names one, else here.
fn stamp(now: SystemTime, offset_minutes: Option<i32>) -> (String, String) {
    let zone = offset_minutes.and_then(|minutes| FixedOffset::east_opt(minutes * 60));
    let (date, time) = ("%Y%m%d", "%H%M%S");
    match zone {
        Some(zone) => {
            let now = DateTime::<chrono::Utc>::from(now).with_timezone(&zone);
            (now.format(date).to_string(), now.format(time).to_string())
        }
        None => {
            let now = DateTime::<Local>::from(now);
            (now.format(date).to_string(), now.format(time).to_string())
        }
    }
}

/// A UID of a random UUID. PS3.5 B.2.
fn uid() -> Result<String, SegError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| SegError::Failed(error.to_string()))?;
    let random = u128::from_be_bytes(bytes);
    // Version 4, variant 1. RFC 9562.
    let uuid = random & !(0xF << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    Ok(format!("2.25.{uuid}"))
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;
