//! docs/dicom-conformance.md, written from the tables that reading and writing go by: `SAM2D_BLESS=1`
//! writes it, without that the test says that it is another.
//!
//! What a Segmentation holds is read off Segmentations: of two that share no file, engine or time, what
//! is the same is ours, and the rest must be explained here, attribute by attribute.

use super::source::{self, Need, Place, TAKEN};
use super::*;
use crate::domain::slice::Size;
use crate::imaging::decoder;
use crate::imaging::dicom::header::PHOTOMETRIC;
use crate::imaging::dicom::syntax::READ;
use dicom_core::dictionary::{DataDictionary as _, DataDictionaryEntry as _};
use dicom_core::header::Header as _;
use dicom_dictionary_std::StandardDataDictionary;
use dicom_object::InMemDicomObject;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

const HEAD: &str = "# DICOM conformance statement

Written by a test (`src/imaging/seg/conformance.rs`) from the tables that the code itself goes by. **Not for diagnostic
use.**

sam2d reads DICOM Part 10 files that come in a request, lie in its inbox folder or are named on its command line, and writes
Segmentations into answers and files. It opens no association, speaks neither DIMSE nor DICOMweb, sends nothing to an
archive and keeps no DICOM object.

## Reading

Any object with one or more frames of pixel data, whatever its SOP class; one frame is read per request (`frame`, from 0).
Functional groups of enhanced multi-frame objects, per frame and shared, hold before the top level. What can't be shown
rightly is refused by name, never shown on best effort: [what is read and what is refused](dicom-support.md), and
[real files by class](dicom-files.md).

";

/// Attributes that differ between two Segmentations and are not the source's: why they do.
const DIFFERS: [(AttributeTag, &str); 14] = [
    ((0x0008, 0x0018), "new"),
    ((0x0020, 0x000E), "new"),
    ((0x0020, 0x9164), "new"),
    ((0x0008, 0x0023), "of writing, in the source's time zone"),
    ((0x0008, 0x0033), "of writing, in the source's time zone"),
    ((0x0028, 0x0010), "the frame's"),
    ((0x0028, 0x0011), "the frame's"),
    ((0x0008, 0x1150), "the source's SOP Class UID"),
    ((0x0008, 0x1155), "the source's SOP Instance UID"),
    ((0x0008, 0x1160), "the frame, from 1; where the source has several"),
    ((0x0062, 0x0009), "the engine's name and version"),
    ((0x0066, 0x0036), "the engine's name and version"),
    ((0x0066, 0x0031), "the engine's fingerprint"),
    ((0x0066, 0x0032), "the engine's backend and intended use"),
];

/// What every context's segment says, beside what differs with the context.
const CONTEXTS: [(&str, ImageType, Target); 4] = [
    ("`L3`", ImageType::L3, Target::Muscle),
    ("`middle`, `target` `psoas`", ImageType::Middle, Target::Psoas),
    ("`middle`, `target` `muscle`", ImageType::Middle, Target::Muscle),
    ("`auto`", ImageType::Auto, Target::Muscle),
];

/// A source with every attribute that is taken over; `one` and the other share no value.
fn full(one: bool) -> SegmentationSource {
    let value = |taken: &source::Taken| {
        let text = match (&taken.vr, taken.tag) {
            (b"UI", (group, element)) => format!("1.2.{}.{group}.{element}", u8::from(one)),
            (b"DA", _) => if one { "20010203" } else { "20040506" }.into(),
            (b"TM", _) => if one { "0102" } else { "0304" }.into(),
            (b"AS", _) => if one { "044Y" } else { "055Y" }.into(),
            (_, TIMEZONE) => if one { "+0100" } else { "-0300" }.into(),
            (_, POSITION) => if one { "1\\2\\3" } else { "4\\5\\6" }.into(),
            (_, ORIENTATION) => if one { "1\\0\\0\\0\\1\\0" } else { "0\\1\\0\\0\\0\\1" }.into(),
            (_, PIXEL_SPACING) => if one { "1\\2" } else { "3\\4" }.into(),
            (b"DS", _) => if one { "5" } else { "6" }.into(),
            (_, CHARACTER_SET) => if one { "ISO_IR 100" } else { "ISO_IR 192" }.into(),
            _ => if one { "ONE" } else { "OTHER" }.to_owned(),
        };
        let value = source::acceptable(taken, text.as_bytes());
        (taken.tag, value.unwrap_or_else(|| panic!("{} as {text}", taken.name)))
    };
    let (width, height) = if one { (5, 3) } else { (4, 2) };
    let values = TAKEN.iter().map(value).collect();
    SegmentationSource::new(Size { width, height }, u32::from(one), 3, values)
}

fn written(one: bool, image_type: ImageType, target: Target) -> InMemDicomObject {
    let source = full(one);
    let which = if one { "one" } else { "other" };
    let uids = Uids {
        series: format!("2.25.{}1", u8::from(one) + 1),
        instance: format!("2.25.{}2", u8::from(one) + 1),
        organization: format!("2.25.{}3", u8::from(one) + 1),
    };
    let algorithm =
        Algorithm { name: which.into(), fingerprint: which.into(), remarks: which.into() };
    let content = Content {
        source: &source,
        mask: &Mask::empty(source.size()).painted([(0, 0, 1)], one),
        image_type,
        target,
        prompted: one,
        algorithm: &algorithm,
    };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(if one { 1 << 30 } else { 1 << 31 });
    let file = write(&content, &uids, now).unwrap();
    dicom_object::from_reader(&*file).unwrap().into_inner()
}

fn name(tag: dicom_core::Tag) -> String {
    let entry = StandardDataDictionary.by_tag(tag);
    entry.unwrap_or_else(|| panic!("{tag} is in no dictionary")).alias().to_owned()
}

fn value(element: &dicom_object::mem::InMemElement) -> String {
    let text = element.to_str().unwrap();
    text.trim_end_matches([' ', '\0']).to_owned()
}

/// One line an attribute, sequences' items indented by `>` as the standard does.
fn attributes(lines: &mut String, one: &InMemDicomObject, other: &InMemDicomObject, depth: usize) {
    for element in one {
        let tag = element.tag();
        let twin = other.element(tag).unwrap();
        let (here, vr) = (">".repeat(depth), element.vr());
        let what = if let (Some(items), Some(twins)) = (element.items(), twin.items()) {
            assert_eq!(items.len(), twins.len(), "{tag}");
            match items.len() {
                1 => "one item".to_owned(),
                items => format!("{items} items"),
            }
        } else {
            meaning(element, twin)
        };
        let _ = writeln!(lines, "| {here}{tag} | {} | {} | {what} |", name(tag), vr.to_string());
        let pairs = element.items().into_iter().zip(twin.items());
        for (item, twin) in pairs.flat_map(|(items, twins)| items.iter().zip(twins)) {
            attributes(lines, item, twin, depth + 1);
        }
    }
}

/// Where a value comes from: ours where two Segmentations share it.
fn meaning(
    one: &dicom_object::mem::InMemElement,
    other: &dicom_object::mem::InMemElement,
) -> String {
    let tag = (one.tag().0, one.tag().1);
    if tag == (0x7FE0, 0x0010) {
        return "the mask, one bit a pixel".into();
    }
    if tag == (0x0062, 0x0008) {
        return "SEMIAUTOMATIC with a prompt, AUTOMATIC for one click".into();
    }
    let source = full(true).value(tag).map(<[u8]>::to_vec);
    if value(one) != value(other) && source.as_deref() == Some(value(one).as_bytes()) {
        return "the source's".into();
    }
    if tag == (0x0018, 0x1020) {
        return "the version of sam2d".into();
    }
    if let Some((_, why)) = DIFFERS.iter().find(|(of, _)| *of == tag) {
        assert_ne!(value(one), value(other), "{} is always the same", name(one.tag()));
        return (*why).to_owned();
    }
    if value(one) == value(other) {
        return match value(one) {
            text if text.is_empty() => "empty".into(),
            text => format!("`{}`", text.replace('|', "\\|")),
        };
    }
    panic!("{} differs, and nobody says why", name(one.tag()))
}

fn segments(page: &mut String) {
    page.push_str("| context | label | category | type |\n|---|---|---|---|\n");
    for (context, image_type, target) in CONTEXTS {
        let object = written(true, image_type, target);
        let segment = &object.element(dicom_core::Tag(0x0062, 0x0002)).unwrap().items().unwrap()[0];
        let coded = |element| {
            let item =
                &segment.element(dicom_core::Tag(0x0062, element)).unwrap().items().unwrap()[0];
            let part = |element| value(item.element(dicom_core::Tag(0x0008, element)).unwrap());
            format!("({}, {}, “{}”)", part(0x0100), part(0x0102), part(0x0104))
        };
        let label = value(segment.element(dicom_core::Tag(0x0062, 0x0005)).unwrap());
        let _ = writeln!(page, "| {context} | {label} | {} | {} |", coded(0x0003), coded(0x000F));
    }
}

fn page() -> String {
    let mut page = HEAD.to_owned();
    page.push_str("| transfer syntax | UID |\n|---|---|\n");
    for (uid, name, _) in READ {
        let _ = writeln!(page, "| {name} | {uid} |");
    }
    let names: Vec<_> = PHOTOMETRIC.iter().map(|(name, ..)| format!("`{name}`")).collect();
    let limits = decoder::Options::default();
    let _ = write!(
        page,
        "
Photometric interpretations: {}.
Bits allocated: 1, 8, 16, 32 (integers); the high bit is the highest stored. Modality LUT or rescale, VOI LUT or window (LINEAR, LINEAR_EXACT, SIGMOID), palettes and pixel padding are applied.
Limits, all of them keys of `[decoder]`: {} MiB a file, {} pixels a frame, {} frames.

## Writing: Segmentation Storage

SOP class {SEGMENTATION_STORAGE}, in Explicit VR Little Endian: `BINARY`, one segment, one frame on the pixel grid of the frame
that was segmented. An empty mask is a frame of zeros. Asked for with `Accept: application/dicom` or `sam2d segment --seg`.

Patient, study and frame of reference are those of the file in the same request and of no other, however equal the pixels;
Segmentations are not kept, and no two are the same object. Text is repeated byte for byte in the file's own character set, which
our own words, all of them ASCII, are part of.

### What is taken over from the source

A value that breaks its VR counts as missing.

| attribute | name | VR | where it stands | missing |
|---|---|---|---|---|
",
        names.join(", "),
        limits.max_bytes >> 20,
        limits.max_pixels,
        limits.max_frames,
    );
    for taken in TAKEN {
        let (group, element) = taken.tag;
        let place = match taken.place {
            Place::Top => "top level".to_owned(),
            Place::Group((group, element)) => {
                format!(
                    "{}, or the top level of a single frame",
                    name(dicom_core::Tag(group, element))
                )
            }
        };
        let missing = match taken.need {
            Need::Required => "refused, by its name",
            Need::Empty => "written empty",
            Need::Optional => "left out",
        };
        let vr = String::from_utf8_lossy(&taken.vr);
        let _ = writeln!(
            page,
            "| ({group:04X},{element:04X}) | {} | {vr} | {place} | {missing} |",
            taken.name
        );
    }
    page.push_str("\n### What a segment is called\n\n");
    segments(&mut page);
    page.push_str(
        "\nThe standard has no code for the psoas: such a segment is coded as skeletal muscle and named in its label.

### Every attribute

Of an `L3` mask of a file with all of the above and three frames. Without place or spacing in a patient, Patient Orientation stands at the top
level instead of the groups of plane and pixel measures, and the dimension of the position is left out. Slice Thickness is 1
where the source has none.

| attribute | name | VR | value |\n|---|---|---|---|\n",
    );
    let [one, other] = [true, false].map(|one| written(one, ImageType::L3, Target::Muscle));
    attributes(&mut page, &one, &other, 0);
    page
}

#[test]
fn the_conformance_statement_says_what_the_tables_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/dicom-conformance.md");
    let page = page();
    if std::env::var_os("SAM2D_BLESS").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = kept.lines().zip(page.lines()).find(|(kept, now)| kept != now);
    assert_eq!(differs, None, "docs/dicom-conformance.md: SAM2D_BLESS=1 writes it anew");
    assert_eq!(kept, page, "docs/dicom-conformance.md: SAM2D_BLESS=1 writes it anew");
}
