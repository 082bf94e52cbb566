use super::*;
use crate::domain::slice::Size;
use dicom_dictionary_std::tags;
use dicom_object::{DefaultDicomObject, InMemDicomObject};
use proptest::prelude::*;
use std::time::Duration;

const SIZE: Size = Size { width: 5, height: 3 };

/// A CT slice's attributes; later values replace earlier ones, empty ones remove them.
fn source_with(changes: &[(AttributeTag, &[u8])], frame: u32, frames: u32) -> SegmentationSource {
    let mut values: Vec<(AttributeTag, Vec<u8>)> = [
        (CHARACTER_SET, &b"ISO_IR 100"[..]),
        (CLASS_UID, b"1.2.840.10008.5.1.4.1.1.2"),
        (INSTANCE_UID, b"1.2.3.4"),
        ((0x0008, 0x0020), b"20240229"),
        ((0x0008, 0x0050), b"A-17"),
        ((0x0010, 0x0010), b"Phantom^One"),
        ((0x0010, 0x0020), b"P1"),
        ((0x0020, 0x000D), b"1.2.3.1"),
        (SERIES_UID, b"1.2.3.2"),
        (FRAME_OF_REFERENCE_UID, b"1.2.3.3"),
        (PIXEL_SPACING, b"0.7\\0.8"),
        (SLICE_THICKNESS, b"5"),
        (POSITION, b"-10\\-20\\30"),
        (ORIENTATION, b"1\\0\\0\\0\\1\\0"),
    ]
    .map(|(tag, value)| (tag, value.to_vec()))
    .to_vec();
    for &(tag, value) in changes {
        values.retain(|(of, _)| *of != tag);
        values.push((tag, value.to_vec()));
    }
    SegmentationSource::new(SIZE, frame, frames, values)
}

fn source() -> SegmentationSource {
    source_with(&[], 0, 1)
}

fn mask(runs: &[(u32, u32, u32)]) -> Mask {
    Mask::empty(SIZE).painted(runs.iter().copied(), true)
}

fn algorithm() -> Algorithm {
    Algorithm {
        name: "sam2-nano 1.0.0".into(),
        fingerprint: "ab".repeat(32),
        remarks: "backend cpu; demonstration".into(),
    }
}

fn written(source: &SegmentationSource, mask: &Mask) -> DefaultDicomObject {
    let algorithm = algorithm();
    read(
        &encode(&Content {
            source,
            mask,
            image_type: ImageType::L3,
            target: Target::Muscle,
            prompted: true,
            algorithm: &algorithm,
        })
        .unwrap(),
    )
}

fn read(file: &[u8]) -> DefaultDicomObject {
    assert_eq!(&file[128..132], b"DICM");
    dicom_object::from_reader(file).unwrap()
}

fn text(object: &InMemDicomObject, tag: dicom_core::Tag) -> String {
    object.element(tag).unwrap().to_str().unwrap().trim().to_owned()
}

fn item(object: &InMemDicomObject, tag: dicom_core::Tag) -> &InMemDicomObject {
    let items = object.element(tag).unwrap().items().unwrap();
    assert_eq!(items.len(), 1, "{tag}");
    &items[0]
}

fn unpacked(object: &InMemDicomObject) -> Vec<u8> {
    let bytes = object.element(tags::PIXEL_DATA).unwrap().to_bytes().unwrap();
    assert_eq!(bytes.len() % 2, 0);
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    bits.take(SIZE.pixels()).map(|bit| bit * 255).collect()
}

#[test]
fn the_mask_comes_back_bit_by_bit() {
    let mask = mask(&[(0, 1, 3), (1, 0, 5), (2, 4, 5)]);
    let object = written(&source(), &mask);
    assert_eq!(unpacked(&object), mask.pixels());
    assert_eq!(object.element(tags::ROWS).unwrap().to_int::<u16>().unwrap(), 3);
    assert_eq!(object.element(tags::COLUMNS).unwrap().to_int::<u16>().unwrap(), 5);
}

#[test]
fn an_empty_mask_is_a_frame_of_zeros() {
    let object = written(&source(), &mask(&[]));
    assert_eq!(unpacked(&object), vec![0; 15]);
    assert_eq!(text(&object, tags::NUMBER_OF_FRAMES), "1");
}

#[test]
fn it_belongs_to_the_patient_and_study_of_its_own_source() {
    let one = written(&source(), &mask(&[(0, 0, 1)]));
    let two = source_with(&[((0x0010, 0x0010), b"Phantom^Two"), ((0x0020, 0x000D), b"1.9")], 0, 1);
    let two = written(&two, &mask(&[(0, 0, 1)]));
    assert_eq!(text(&one, tags::PATIENT_NAME), "Phantom^One");
    assert_eq!(text(&two, tags::PATIENT_NAME), "Phantom^Two");
    assert_eq!(text(&one, tags::STUDY_INSTANCE_UID), "1.2.3.1");
    assert_eq!(text(&two, tags::STUDY_INSTANCE_UID), "1.9");
    assert_eq!(text(&one, tags::FRAME_OF_REFERENCE_UID), "1.2.3.3");
    for tag in [tags::SERIES_INSTANCE_UID, tags::SOP_INSTANCE_UID] {
        let (one, two) = (text(&one, tag), text(&two, tag));
        assert_ne!(one, two);
        assert!(one.starts_with("2.25.") && one.len() <= 44, "{one}");
    }
}

#[test]
fn names_keep_the_bytes_they_came_with() {
    let name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B";
    let changes: [(AttributeTag, &[u8]); 2] =
        [(CHARACTER_SET, b"\\ISO 2022 IR 87"), ((0x0010, 0x0010), name)];
    let source = source_with(&changes, 0, 1);
    let algorithm = algorithm();
    let content = Content {
        source: &source,
        mask: &mask(&[]),
        image_type: ImageType::Auto,
        target: Target::Muscle,
        prompted: false,
        algorithm: &algorithm,
    };
    let file = encode(&content).unwrap();
    assert!(file.windows(name.len()).any(|window| window == name));
    let set = b"\\ISO 2022 IR 87";
    assert!(file.windows(set.len()).any(|window| window == set));
}

#[test]
fn a_character_set_is_named_only_where_it_changes_no_name() {
    let named = |name: &[u8]| {
        let changes: [(AttributeTag, &[u8]); 2] = [(CHARACTER_SET, b""), ((0x0010, 0x0010), name)];
        let file = written(&source_with(&changes, 0, 1), &mask(&[]));
        let set = file.element(tags::SPECIFIC_CHARACTER_SET).ok();
        set.map(|set| set.to_str().unwrap().trim().to_owned())
    };
    assert_eq!(named(b"Phantom^One").as_deref(), Some("ISO_IR 100"));
    assert_eq!(named(b"Fant\xf4me^Un"), None, "nobody knows what the file's bytes mean");
}

#[test]
fn odd_text_is_padded_with_a_space_and_an_odd_uid_with_a_zero() {
    let source = source_with(&[((0x0010, 0x0010), b"ODD^X"), (INSTANCE_UID, b"1.2.345")], 0, 1);
    let algorithm = algorithm();
    let content = Content {
        source: &source,
        mask: &mask(&[]),
        image_type: ImageType::L3,
        target: Target::Muscle,
        prompted: true,
        algorithm: &algorithm,
    };
    let file = encode(&content).unwrap();
    for bytes in [&b"\x10\0\x10\0PN\x06\0ODD^X "[..], b"\x08\0\x55\x11UI\x08\x001.2.345\0"] {
        assert!(file.windows(bytes.len()).any(|window| window == bytes), "{bytes:?}");
    }
}

#[test]
fn it_refers_to_the_instance_and_to_a_frame_where_there_are_several() {
    for (frame, frames, expected) in [(0, 1, None), (2, 7, Some("3"))] {
        let object = written(&source_with(&[], frame, frames), &mask(&[]));
        let series = item(&object, tags::REFERENCED_SERIES_SEQUENCE);
        assert_eq!(text(series, tags::SERIES_INSTANCE_UID), "1.2.3.2");
        let groups = item(&object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
        let derivation = item(groups, tags::DERIVATION_IMAGE_SEQUENCE);
        let origin = item(derivation, tags::SOURCE_IMAGE_SEQUENCE);
        assert_eq!(text(origin, tags::REFERENCED_SOP_INSTANCE_UID), "1.2.3.4");
        assert_eq!(text(origin, tags::REFERENCED_SOP_CLASS_UID), "1.2.840.10008.5.1.4.1.1.2");
        let number = origin.get(tags::REFERENCED_FRAME_NUMBER).map(|e| e.to_str().unwrap());
        assert_eq!(number.as_deref().map(str::trim), expected);
    }
}

#[test]
fn it_lies_where_its_source_lies() {
    let object = written(&source(), &mask(&[]));
    let shared = item(&object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE);
    let measures = item(shared, tags::PIXEL_MEASURES_SEQUENCE);
    assert_eq!(text(measures, tags::PIXEL_SPACING), "0.7\\0.8");
    assert_eq!(text(measures, tags::SLICE_THICKNESS), "5");
    let orientation = item(shared, tags::PLANE_ORIENTATION_SEQUENCE);
    assert_eq!(text(orientation, tags::IMAGE_ORIENTATION_PATIENT), "1\\0\\0\\0\\1\\0");
    let frame = item(&object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    let position = item(frame, tags::PLANE_POSITION_SEQUENCE);
    assert_eq!(text(position, tags::IMAGE_POSITION_PATIENT), "-10\\-20\\30");
    // A picture without a place in a patient has none here either.
    let nowhere = written(&source_with(&[(POSITION, b"")], 0, 1), &mask(&[]));
    let frame = item(&nowhere, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    assert!(frame.get(tags::PLANE_POSITION_SEQUENCE).is_none());
    let indices = nowhere.element(tags::DIMENSION_INDEX_SEQUENCE).unwrap().items().unwrap();
    assert_eq!(indices.len(), 1);
}

#[test]
fn it_says_what_it_is_not_for_and_who_made_it() {
    let object = written(&source(), &mask(&[]));
    for tag in [tags::SERIES_DESCRIPTION, tags::CONTENT_DESCRIPTION] {
        assert!(text(&object, tag).contains("Not for diagnostic use"));
    }
    let segment = item(&object, tags::SEGMENT_SEQUENCE);
    assert!(text(segment, tags::SEGMENT_DESCRIPTION).contains("Not for diagnostic use"));
    assert_eq!(text(segment, tags::SEGMENT_ALGORITHM_TYPE), "SEMIAUTOMATIC");
    let kind = item(segment, tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE);
    assert_eq!(text(kind, tags::CODE_VALUE), "36470004");
    let by = item(segment, tags::SEGMENTATION_ALGORITHM_IDENTIFICATION_SEQUENCE);
    assert_eq!(text(by, tags::ALGORITHM_NAME), "sam2-nano 1.0.0");
    assert_eq!(text(by, tags::ALGORITHM_VERSION), "ab".repeat(32));
    assert_eq!(text(by, tags::ALGORITHM_PARAMETERS), "backend cpu; demonstration");
}

#[test]
fn what_it_can_not_refer_to_is_named() {
    let mask = mask(&[]);
    for (tag, name) in [
        (INSTANCE_UID, "SOP Instance UID"),
        ((0x0020, 0x000D), "Study Instance UID"),
        (SERIES_UID, "Series Instance UID"),
    ] {
        let error = check(&source_with(&[(tag, b"")], 0, 1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the DICOM file has no valid {name}, so no DICOM Segmentation can refer to it")
        );
    }
    let algorithm = algorithm();
    let other = Mask::empty(Size { width: 3, height: 5 });
    let content = |mask| Content {
        source: Box::leak(Box::new(source())),
        mask,
        image_type: ImageType::L3,
        target: Target::Muscle,
        prompted: true,
        algorithm: &algorithm,
    };
    assert!(matches!(encode(&content(&other)), Err(SegError::OtherSize)));
    assert!(encode(&content(&mask)).is_ok());
    let without = source_with(&[(SERIES_UID, b"")], 0, 1);
    let nowhere = Content { source: &without, ..content(&mask) };
    assert!(matches!(encode(&nowhere), Err(SegError::Missing("Series Instance UID"))));
}

#[test]
fn its_time_is_in_the_zone_the_file_names() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_247_599);
    let in_zone = |minutes| stamp(now, Some(minutes));
    assert_eq!(in_zone(0), ("20240229".into(), "225959".into()));
    assert_eq!(in_zone(480), ("20240301".into(), "065959".into()));
    assert_eq!(in_zone(-210), ("20240229".into(), "192959".into()));
}

#[test]
fn what_was_lossy_stays_lossy() {
    let of = |source| text(&written(&source, &mask(&[])), tags::LOSSY_IMAGE_COMPRESSION);
    assert_eq!(of(source()), "00");
    assert_eq!(of(source_with(&[(LOSSY, b"01")], 0, 1)), "01");
}

proptest! {
    #[test]
    fn any_mask_comes_back(bits in prop::collection::vec(any::<bool>(), 15)) {
        let pixels = bits.iter().map(|&bit| u8::from(bit) * 255).collect();
        let mask = Mask::new(SIZE, pixels).unwrap();
        prop_assert_eq!(unpacked(&written(&source(), &mask)), mask.pixels());
    }
}
