//! The decoder as the daemon uses it: images through real child processes.

use sam2d::domain::mask::ImageType;
use sam2d::domain::slice::{Format, Samples, Voi};
use sam2d::imaging::decode::{DecodeError, Limits, decode};
use sam2d::imaging::decoder::{Decoder, Options};
use sam2d::imaging::{Levels, window};
use std::io::Write as _;

fn options() -> Options {
    Options {
        executable: Some(env!("CARGO_BIN_EXE_sam2d").into()),
        workers: 1,
        ..Options::default()
    }
}

fn decoder() -> Decoder {
    Decoder::start(options()).unwrap()
}

/// An explicit-VR little-endian DICOM file of 16-bit signed grey, as small as one can be.
fn dicom(rows: u16, columns: u16, values: &[i16], extra: &[(u16, u16, &str, &[u8])]) -> Vec<u8> {
    let mut file = vec![0; 128];
    file.extend_from_slice(b"DICM");
    let mut put = |group: u16, element: u16, vr: &str, value: &[u8]| {
        file.extend_from_slice(&group.to_le_bytes());
        file.extend_from_slice(&element.to_le_bytes());
        file.extend_from_slice(vr.as_bytes());
        let mut value = value.to_vec();
        if value.len() % 2 == 1 {
            value.push(b' ');
        }
        if matches!(vr, "OW" | "OB" | "SQ") {
            file.extend_from_slice(&[0, 0]);
            file.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
        } else {
            file.extend_from_slice(&u16::try_from(value.len()).unwrap().to_le_bytes());
        }
        file.extend_from_slice(&value);
    };
    put(2, 0x10, "UI", b"1.2.840.10008.1.2.1\0");
    let pixels: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let mut elements: Vec<(u16, u16, &str, Vec<u8>)> = vec![
        (0x0008, 0x0060, "CS", b"CT".to_vec()),
        (0x0028, 0x0002, "US", 1u16.to_le_bytes().to_vec()),
        (0x0028, 0x0004, "CS", b"MONOCHROME2".to_vec()),
        (0x0028, 0x0010, "US", rows.to_le_bytes().to_vec()),
        (0x0028, 0x0011, "US", columns.to_le_bytes().to_vec()),
        (0x0028, 0x0100, "US", 16u16.to_le_bytes().to_vec()),
        (0x0028, 0x0101, "US", 16u16.to_le_bytes().to_vec()),
        (0x0028, 0x0102, "US", 15u16.to_le_bytes().to_vec()),
        (0x0028, 0x0103, "US", 1u16.to_le_bytes().to_vec()),
        (0x7FE0, 0x0010, "OW", pixels),
    ];
    for &(group, element, vr, value) in extra {
        elements.retain(|old| (old.0, old.1) != (group, element));
        elements.push((group, element, vr, value.to_vec()));
    }
    elements.sort_by_key(|element| (element.0, element.1));
    for (group, element, vr, value) in &elements {
        put(*group, *element, vr, value);
    }
    file
}

const HU: [(u16, u16, &str, &[u8]); 2] =
    [(0x0028, 0x1052, "DS", b"-1000"), (0x0028, 0x1053, "DS", b"2")];

#[test]
fn a_child_gives_the_same_slice_as_decoding_here() {
    let file = dicom(2, 3, &[0, 1, 2, 3, 4, -5], &HU);
    let decoder = decoder();
    let here = decode(&file, None, &Limits::default()).unwrap();
    for _ in 0..3 {
        assert_eq!(decoder.decode(&file, None).unwrap(), here);
    }
    assert_eq!(here.samples().modality().unwrap(), [-1000., -998., -996., -994., -992., -1010.]);
    assert!(here.info().is_ct);
    assert_eq!(decoder.vitals().decoded, 3);
    assert_eq!(decoder.vitals().killed, 0);
}

#[test]
fn a_child_that_waits_is_locked_in_already() {
    let _decoder = decoder();
    let own = std::process::id().to_string();
    let locked = std::fs::read_dir("/proc").unwrap().flatten().any(|process| {
        let status = std::fs::read_to_string(process.path().join("status")).unwrap_or_default();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        field("PPid:") == Some(&own) && field("Seccomp:") == Some("2")
    });
    assert!(locked, "a child under a seccomp filter");
}

#[test]
fn errors_of_a_child_arrive_whole() {
    let decoder = decoder();
    assert!(matches!(decoder.decode(b"GIF89a", None), Err(DecodeError::UnsupportedFormat)));
    let file = dicom(1, 1, &[1], &[(0x0028, 0x0008, "IS", b"4")]);
    assert!(matches!(decoder.decode(&file, None), Err(DecodeError::FrameRequired { frames: 4 })));
    assert!(matches!(
        decoder.decode(&file, Some(4)),
        Err(DecodeError::FrameOutOfRange { frame: 4, frames: 4 })
    ));
    let mut file = dicom(1, 1, &[1], &[]);
    let uid = file.windows(19).position(|w| w == b"1.2.840.10008.1.2.1").unwrap();
    file[uid..uid + 20].copy_from_slice(b"1.2.840.10008.1.2.6\0");
    match decoder.decode(&file, None) {
        Err(DecodeError::UnsupportedTransferSyntax { uid, .. }) => {
            assert_eq!(uid, "1.2.840.10008.1.2.6");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_past_the_limits_is_too_large() {
    let decoder = Decoder::start(Options { max_pixels: 5, ..options() }).unwrap();
    let file = dicom(2, 3, &[0; 6], &[]);
    assert!(matches!(decoder.decode(&file, None), Err(DecodeError::TooLarge(_))));
    let decoder = Decoder::start(Options { max_bytes: 100, ..options() }).unwrap();
    assert!(matches!(decoder.decode(&file, None), Err(DecodeError::TooLarge(_))));
}

#[test]
fn a_declared_length_past_the_end_is_refused_and_nothing_is_allocated_for_it() {
    let mut file = dicom(2, 3, &[0; 6], &[]);
    let length = file.len() - 12 - 4;
    file[length..length + 4].copy_from_slice(&0xFFFF_FFF0u32.to_le_bytes());
    match decoder().decode(&file, None) {
        Err(DecodeError::Unreadable(reason)) => assert!(reason.contains("7FE0,0010"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn pictures_that_claim_to_be_huge_are_refused_by_their_size() {
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    for extent in [30_000u32, 30_000] {
        png.extend_from_slice(&extent.to_be_bytes());
    }
    png.extend_from_slice(&[8, 6, 0, 0, 0, 0, 0, 0, 0]);
    // Baseline, 8 bits, 65,500 × 65,500, three components.
    let mut jpeg = b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03".to_vec();
    jpeg.extend_from_slice(&[1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
    let mut dcm = dicom(1, 1, &[1], &[(0x0028, 0x0008, "IS", b"4294967295")]);
    let decoder = decoder();
    for (name, file) in [("PNG", &png), ("JPEG", &jpeg), ("frames", &dcm)] {
        match decoder.decode(file, Some(0)) {
            Err(DecodeError::TooLarge(_)) => {}
            other => panic!("{name}: {other:?}"),
        }
    }
    // As many frames as may be, of the largest size: more than the file has, and nothing is allocated.
    dcm = dicom(8192, 8192, &[1], &[(0x0028, 0x0008, "IS", b"65536")]);
    assert!(matches!(decoder.decode(&dcm, Some(65_535)), Err(DecodeError::Unreadable(_))));
    assert_eq!(decoder.vitals().killed, 0, "every one was refused by a child that lived");
}

#[test]
fn an_image_that_needs_more_memory_than_a_child_has_is_refused_and_the_next_one_decodes() {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 6_000, 6_000);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.write_header().unwrap().write_image_data(&vec![0; 72_000_000]).unwrap();
    let decoder = Decoder::start(Options { memory_bytes: 160 << 20, ..options() }).unwrap();
    assert!(matches!(decoder.decode(&png, None), Err(DecodeError::Unreadable(_))));
    assert!(decoder.decode(&dicom(2, 3, &[0; 6], &[]), None).is_ok());
}

#[test]
fn a_deflated_bomb_is_refused_as_too_large_by_a_child_that_lives() {
    let plain = dicom(2, 3, &[0; 6], &[]);
    let syntax = plain.windows(19).position(|part| part == b"1.2.840.10008.1.2.1").unwrap() + 20;
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&vec![0; 300 << 20]).unwrap();
    let mut bomb = plain[..syntax - 22].to_vec();
    // The length of the UID, and the UID.
    bomb.extend_from_slice(&22u16.to_le_bytes());
    bomb.extend_from_slice(b"1.2.840.10008.1.2.1.99");
    bomb.extend_from_slice(&packer.finish().unwrap());
    for memory_bytes in [160 << 20, 512 << 20] {
        let decoder = Decoder::start(Options { memory_bytes, ..options() }).unwrap();
        let said = decoder.decode(&bomb, None);
        assert!(matches!(said, Err(DecodeError::TooLarge(_))), "{memory_bytes}: {said:?}");
        assert_eq!(decoder.vitals().killed, 0);
    }
}

#[test]
fn a_child_that_can_not_be_started_is_our_fault() {
    let missing = Options { executable: Some("/nonexistent/sam2d".into()), ..options() };
    assert!(Decoder::start(missing).is_err());
    let other = Options { executable: Some("/bin/true".into()), ..options() };
    assert!(Decoder::start(other).is_err());
}

#[test]
fn windows_follow_the_rule_of_the_contract() {
    let plain = decode(&dicom(1, 3, &[0, 10, 20], &HU), None, &Limits::default()).unwrap();
    let (rendering, source) = window::resolve(plain.info(), None, ImageType::Auto).unwrap();
    assert_eq!(source, window::Source::MinMax);
    assert_eq!(window::render(&plain, &rendering), Levels::Grey(vec![0, 128, 255]));
    let (rendering, source) = window::resolve(plain.info(), None, ImageType::Middle).unwrap();
    assert_eq!(source, window::Source::Context);
    assert_eq!(rendering, window::Rendering::Window(window::CONTEXT_WINDOW));
    let not_hu = decode(&dicom(1, 3, &[0, 10, 20], &[]), None, &Limits::default()).unwrap();
    for context in [ImageType::L3, ImageType::Middle] {
        let (_, source) = window::resolve(not_hu.info(), None, context).unwrap();
        assert_eq!(source, window::Source::MinMax, "a window in HU is for HU");
    }
    let extra: Vec<_> = HU
        .into_iter()
        .chain([(0x0028, 0x1050, "DS", &b"-980"[..]), (0x0028, 0x1051, "DS", &b"41"[..])])
        .collect();
    let file = decode(&dicom(1, 3, &[0, 10, 20], &extra), None, &Limits::default()).unwrap();
    assert!(matches!(file.info().voi, Voi::Window(_)));
    let (rendering, source) = window::resolve(file.info(), None, ImageType::Auto).unwrap();
    assert_eq!(source, window::Source::File);
    // PS3.3: (x − (c − 0.5)) / (w − 1) + 0.5 → 0.0125, 0.5125, 1.0125 of 255.
    assert_eq!(window::render(&file, &rendering), Levels::Grey(vec![3, 131, 255]));
}

#[test]
fn monochrome1_is_inverted_and_padding_does_not_stretch_the_range() {
    let extra: Vec<_> = HU
        .into_iter()
        .chain([
            (0x0028, 0x0004, "CS", &b"MONOCHROME1"[..]),
            (0x0028, 0x0120, "SS", &[0x30, 0xF8][..]), // −2000
        ])
        .collect();
    let slice =
        decode(&dicom(1, 4, &[-2000, 0, 10, 20], &extra), None, &Limits::default()).unwrap();
    assert_eq!(slice.info().range, Some((-1000., -960.)));
    let (rendering, _) = window::resolve(slice.info(), None, ImageType::Auto).unwrap();
    assert_eq!(window::render(&slice, &rendering), Levels::Grey(vec![255, 255, 127, 0]));
}

#[test]
fn a_16_bit_png_keeps_its_stored_units() {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 2, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Sixteen);
    encoder.write_header().unwrap().write_image_data(&[0x12, 0x34, 0xFF, 0xFF]).unwrap();
    let slice = decoder().decode(&png, None).unwrap();
    assert_eq!(slice.info().format, Format::Png);
    assert!(matches!(slice.samples(), Samples::Modality(_)));
    assert_eq!(slice.samples().modality().unwrap(), [4660., 65535.]);
    assert_eq!(slice.info().range, Some((4660., 65535.)));
}

#[test]
fn transparent_16_bit_grey_is_flattened_on_black_in_its_stored_units() {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 3, 1);
    encoder.set_color(png::ColorType::GrayscaleAlpha);
    encoder.set_depth(png::BitDepth::Sixteen);
    let pixels = [0x80, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x80, 0, 0x12, 0x34, 0, 0];
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
    let slice = decode(&png, None, &Limits::default()).unwrap();
    assert_eq!(slice.samples().modality().unwrap(), [32_768., 32_768., 0.]);
}

#[test]
fn the_orientation_in_a_pngs_exif_block_is_applied() {
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, 2, 1);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().unwrap();
    // TIFF, little endian, one entry: Orientation, short, 1, "turn right by a quarter".
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    writer.write_chunk(png::chunk::ChunkType(*b"eXIf"), exif).unwrap();
    writer.write_image_data(&[10, 200]).unwrap();
    drop(writer);
    let slice = decode(&png, None, &Limits::default()).unwrap();
    assert_eq!((slice.size().width, slice.size().height), (1, 2));
    assert_eq!(slice.samples().bytes()[..], [10, 200]);
}

const CANARY: &[u8] = b"Canary^Bird";

/// Identity as a scanner writes it, and a UID that is none.
const IDENTIFIED: [(u16, u16, &str, &[u8]); 6] = [
    (0x0008, 0x0016, "UI", b"1.2.840.10008.5.1.4.1.1.2"),
    (0x0008, 0x0018, "UI", b"1.2.3.4"),
    (0x0010, 0x0010, "PN", CANARY),
    (0x0020, 0x000D, "UI", b"1..2"),
    (0x0020, 0x0032, "DS", b"1\\2\\3"),
    (0x0028, 0x0030, "DS", b"0.5\\0.5"),
];

#[test]
fn who_it_is_leaves_a_child_only_when_asked_for() {
    let file = dicom(1, 3, &[0, 10, 20], &IDENTIFIED);
    let decoder = decoder();
    let (slice, source) = decoder.decode_with_source(&file, None).unwrap();
    let source = source.unwrap();
    assert_eq!(decoder.decode(&file, None).unwrap(), slice);
    assert_eq!(source.value((0x0010, 0x0010)), Some(CANARY));
    assert_eq!(source.value((0x0008, 0x0018)), Some(&b"1.2.3.4"[..]));
    assert_eq!(source.value((0x0020, 0x000D)), None, "not a UID");
    assert_eq!(source.value((0x0028, 0x0030)), Some(&b"0.5\\0.5"[..]));
    assert_eq!((source.size(), source.frame(), source.frames()), (slice.size(), 0, 1));
    let png = std::fs::read("samples/phantom-axial.png").unwrap();
    assert!(decoder.decode_with_source(&png, None).unwrap().1.is_none());
}

#[test]
fn a_place_at_the_top_of_a_file_of_several_frames_is_no_frames_place() {
    let mut extra = IDENTIFIED.to_vec();
    extra.push((0x0028, 0x0008, "IS", b"2"));
    let file = dicom(1, 3, &[0, 10, 20, 30, 40, 50], &extra);
    let source = decoder().decode_with_source(&file, Some(1)).unwrap().1.unwrap();
    assert_eq!(source.value((0x0020, 0x0032)), None);
    assert_eq!((source.frame(), source.frames()), (1, 2));
}
