//! DICOM files made in code, one feature each.

mod claims;
mod colour;
mod display;

use super::super::window;
use super::*;
use crate::domain::mask::ImageType;
use crate::imaging::Levels;
use std::io::Write as _;

const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const ENCAPSULATED: &str = "1.2.840.10008.1.2.1.98";
const RLE: &str = "1.2.840.10008.1.2.5";

/// A value to write.
#[derive(Clone)]
enum Value {
    Words(Vec<u16>),
    Text(String),
    Bytes(Vec<u8>),
    Items(Vec<Elements>),
    Fragments(Vec<Vec<u8>>),
}

type Elements = Vec<(u16, u16, &'static str, Value)>;

fn words(values: &[u16]) -> Value {
    Value::Words(values.to_vec())
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

/// A file of 16-bit grey, one row of `values`.
fn grey(values: &[u16]) -> Elements {
    let columns = u16::try_from(values.len()).unwrap();
    vec![
        (0x0008, 0x0060, "CS", text("CT")),
        (0x0028, 0x0002, "US", words(&[1])),
        (0x0028, 0x0004, "CS", text("MONOCHROME2")),
        (0x0028, 0x0010, "US", words(&[1])),
        (0x0028, 0x0011, "US", words(&[columns])),
        (0x0028, 0x0100, "US", words(&[16])),
        (0x0028, 0x0101, "US", words(&[16])),
        (0x0028, 0x0102, "US", words(&[15])),
        (0x0028, 0x0103, "US", words(&[0])),
        (0x7FE0, 0x0010, "OW", words(values)),
    ]
}

/// The same with elements replaced or added.
fn with(mut elements: Elements, changes: Elements) -> Elements {
    for change in changes {
        elements.retain(|old| (old.0, old.1) != (change.0, change.1));
        elements.push(change);
    }
    elements.sort_by_key(|element| (element.0, element.1));
    elements
}

/// Sets bits allocated, stored and representation.
fn bits(elements: Elements, allocated: u16, stored: u16, signed: u16) -> Elements {
    with(
        elements,
        vec![
            (0x0028, 0x0100, "US", words(&[allocated])),
            (0x0028, 0x0101, "US", words(&[stored])),
            (0x0028, 0x0102, "US", words(&[stored - 1])),
            (0x0028, 0x0103, "US", words(&[signed])),
        ],
    )
}

fn written(elements: &Elements, implicit: bool, big: bool) -> Vec<u8> {
    let u16s = |value: u16| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let u32s = |value: u32| if big { value.to_be_bytes() } else { value.to_le_bytes() };
    let item =
        |element: u16, length: u32| [&u16s(0xFFFE)[..], &u16s(element), &u32s(length)].concat();
    let mut out = Vec::new();
    for (group, element, vr, value) in elements {
        let mut undefined = false;
        let mut body: Vec<u8> = match value {
            Value::Words(values) => values.iter().flat_map(|&v| u16s(v)).collect(),
            Value::Text(text) => text.as_bytes().to_vec(),
            Value::Bytes(bytes) => bytes.clone(),
            Value::Items(items) => items
                .iter()
                .flat_map(|set| {
                    let body = written(set, implicit, big);
                    [item(0xE000, u32::try_from(body.len()).unwrap()), body].concat()
                })
                .collect(),
            Value::Fragments(fragments) => {
                undefined = true;
                let mut body: Vec<u8> = fragments
                    .iter()
                    .flat_map(|f| {
                        [item(0xE000, u32::try_from(f.len()).unwrap()), f.clone()].concat()
                    })
                    .collect();
                body.extend(item(0xE0DD, 0));
                body
            }
        };
        if body.len() % 2 == 1 {
            body.push(b' ');
        }
        let length = if undefined { u32::MAX } else { u32::try_from(body.len()).unwrap() };
        out.extend(u16s(*group));
        out.extend(u16s(*element));
        if implicit {
            out.extend(u32s(length));
        } else {
            out.extend(vr.as_bytes());
            if matches!(*vr, "OB" | "OW" | "OF" | "OD" | "SQ" | "UN") {
                out.extend([0, 0]);
                out.extend(u32s(length));
            } else {
                out.extend(u16s(u16::try_from(length).unwrap()));
            }
        }
        out.extend(body);
    }
    out
}

fn wrapped(uid: &str, body: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 128];
    file.extend(b"DICM");
    let meta: Elements = vec![(2, 0x10, "UI", text(uid))];
    file.extend(written(&meta, false, false));
    file.extend(body);
    file
}

fn file(elements: &Elements) -> Vec<u8> {
    wrapped(EXPLICIT, &written(elements, false, false))
}

fn slice_of(file: &[u8]) -> Slice {
    decode(file, None, &Limits::default()).unwrap()
}

fn values(elements: &Elements) -> Vec<f32> {
    slice_of(&file(elements)).samples().modality().unwrap().to_vec()
}

fn levels(slice: &Slice) -> Vec<u8> {
    let (rendering, _) = window::resolve(slice.info(), None, ImageType::Auto).unwrap();
    match window::render(slice, &rendering) {
        Levels::Grey(levels) | Levels::Rgb(levels) => levels,
    }
}

fn reason(elements: &Elements) -> String {
    decode(&file(elements), None, &Limits::default()).unwrap_err().to_string()
}

#[test]
fn bits_above_bits_stored_are_not_believed() {
    for stored in 10..=16u16 {
        let mask = u16::try_from((1u32 << stored) - 1).unwrap();
        let raw = [0xFFFF, 0x8001, 0x0200, 0x5555];
        let unsigned: Vec<f32> = raw.iter().map(|&v| f32::from(v & mask)).collect();
        assert_eq!(values(&bits(grey(&raw), 16, stored, 0)), unsigned, "{stored}");
        let shift = 16 - stored;
        let signed: Vec<f32> =
            raw.iter().map(|&v| f32::from((v.cast_signed() << shift) >> shift)).collect();
        assert_eq!(values(&bits(grey(&raw), 16, stored, 1)), signed, "{stored} signed");
    }
}

#[test]
fn bytes_and_double_words_and_floats_are_read() {
    let bytes = |vr, bytes: Vec<u8>, columns: u16, allocated: u16, signed: u16| {
        let base = bits(grey(&[0]), allocated, allocated, signed);
        with(
            base,
            vec![
                (0x0028, 0x0011, "US", words(&[columns])),
                (0x7FE0, 0x0010, vr, Value::Bytes(bytes)),
            ],
        )
    };
    assert_eq!(values(&bytes("OB", vec![0, 127, 128, 255], 4, 8, 0)), [0., 127., 128., 255.]);
    assert_eq!(values(&bytes("OB", vec![0, 127, 128, 255], 4, 8, 1)), [0., 127., -128., -1.]);
    let double = [1_254_000u32, u32::MAX].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(values(&bytes("OW", double, 2, 32, 0)), [1_254_000., 4_294_967_300.]);
    let double = [-70_000i32, 3].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(values(&bytes("OW", double, 2, 32, 1)), [-70_000., 3.]);
    let float: Vec<u8> = [0.25f32, -3e5].iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut floats = bytes("OF", float, 2, 32, 0);
    floats.retain(|element| element.0 != 0x7FE0);
    let float: Vec<u8> = [0.25f32, -3e5].iter().flat_map(|v| v.to_le_bytes()).collect();
    floats.push((0x7FE0, 0x0008, "OF", Value::Bytes(float)));
    assert_eq!(values(&floats), [0.25, -3e5]);
    let nan: Vec<u8> = [f32::NAN, 1.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let infinite = with(floats, vec![(0x7FE0, 0x0008, "OF", Value::Bytes(nan))]);
    assert!(reason(&infinite).contains("not finite"));
}

#[test]
fn frames_of_single_bits_follow_each_other_without_a_gap() {
    let base = bits(grey(&[0; 3]), 1, 1, 0);
    let elements = with(
        base,
        vec![
            (0x0028, 0x0008, "IS", text("3")),
            (0x7FE0, 0x0010, "OB", Value::Bytes(vec![0b1_011_001, 0b1])),
        ],
    );
    let frames: Vec<Vec<f32>> = (0..3)
        .map(|frame| {
            let slice = decode(&file(&elements), Some(frame), &Limits::default()).unwrap();
            slice.samples().modality().unwrap().to_vec()
        })
        .collect();
    assert_eq!(frames, [[1., 0., 0.], [1., 1., 0.], [1., 0., 1.]]);
    let short = with(elements, vec![(0x7FE0, 0x0010, "OB", Value::Bytes(vec![0b1_011_001]))]);
    let short = with(short, vec![(0x0028, 0x0008, "IS", text("6"))]);
    let cut = decode(&file(&short), Some(5), &Limits::default()).unwrap_err();
    assert!(cut.to_string().contains("cut off"), "{cut}");
}

#[test]
fn every_way_to_write_a_data_set_gives_the_same_slice() {
    let elements = with(
        grey(&[1, 500, 65_535]),
        vec![
            (0x0028, 0x1050, "DS", text("40\\50")),
            (0x0028, 0x1051, "DS", text("400\\500")),
            (0x0028, 0x0030, "DS", text("0.5\\0.25")),
        ],
    );
    let plain = slice_of(&file(&elements));
    assert_eq!(plain.info().spacing_mm, Some((0.5, 0.25)));
    let implicit = written(&elements, true, false);
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&written(&elements, false, false)).unwrap();
    let others = [
        wrapped("1.2.840.10008.1.2", &implicit),
        wrapped("1.2.840.10008.1.2.2", &written(&elements, false, true)),
        wrapped("1.2.840.10008.1.2.1.99", &packer.finish().unwrap()),
        // What some writers do: the data set is not what its syntax says.
        wrapped(EXPLICIT, &implicit),
        wrapped("1.2.840.10008.1.2", &written(&elements, false, false)),
    ];
    for other in others {
        assert_eq!(slice_of(&other), plain);
    }
}

#[test]
fn a_deflated_bomb_is_too_large_and_stops_at_the_limit() {
    let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(&vec![0; 3 << 20]).unwrap();
    let bomb = wrapped("1.2.840.10008.1.2.1.99", &packer.finish().unwrap());
    let limits = Limits { max_inflated_bytes: 1 << 20, ..Limits::default() };
    assert!(matches!(decode(&bomb, None, &limits), Err(DecodeError::TooLarge(_))));
}

#[test]
fn what_can_not_be_shown_rightly_is_refused_by_name() {
    let change = |tag: u16, vr, value| reason(&with(grey(&[1, 2]), vec![(0x0028, tag, vr, value)]));
    assert!(change(0x0004, "CS", text("HSV")).contains("HSV"));
    assert!(change(0x0004, "CS", text("SMITH^JOHN")).contains("not supported"));
    assert!(!change(0x0004, "CS", text("SMITH^JOHN")).contains("SMITH"), "nothing is echoed");
    assert!(change(0x0004, "CS", text("RGB")).contains("samples per pixel"));
    assert!(change(0x0102, "US", words(&[11])).contains("high bit"));
    assert!(change(0x0101, "US", words(&[17])).contains("17 bits stored"));
    assert!(change(0x0100, "US", words(&[12])).contains("12 allocated"));
    assert!(change(0x0011, "US", words(&[0])).contains('0'));
    assert!(change(0x0011, "US", words(&[3])).contains("cut off"));
    assert!(change(0x1053, "DS", text("0")).contains("slope"));
    assert!(change(0x0008, "IS", text("-3")).contains("Number of Frames"));
    let mut none = grey(&[1]);
    none.retain(|element| element.0 != 0x7FE0);
    assert!(reason(&none).contains("no pixel data"));
}

#[test]
fn every_frame_has_its_own_pixels() {
    let elements = with(
        grey(&[0; 2]),
        vec![(0x0028, 0x0008, "IS", text("3")), (0x7FE0, 0x0010, "OW", words(&[1, 2, 3, 4, 5, 6]))],
    );
    for (frame, expected) in [(0, [1., 2.]), (1, [3., 4.]), (2, [5., 6.])] {
        let slice = decode(&file(&elements), Some(frame), &Limits::default()).unwrap();
        assert_eq!(slice.samples().modality().unwrap(), expected);
        assert_eq!((slice.info().frame, slice.info().frames), (frame, 3));
    }
    let cut = encapsulated(ENCAPSULATED, &[], &[&[1, 0]], "1");
    let error = decode(&cut, None, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("cut off"), "{error}");
}

#[test]
fn no_frames_are_one_frame() {
    // Seen in the wild.
    let elements = with(grey(&[1, 2]), vec![(0x0028, 0x0008, "IS", text("0"))]);
    assert_eq!(values(&elements), [1., 2.]);
}

fn encapsulated(uid: &str, offsets: &[u32], parts: &[&[u8]], frames: &str) -> Vec<u8> {
    let table = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
    let mut fragments = vec![table];
    fragments.extend(parts.iter().map(|part| part.to_vec()));
    let elements = with(
        grey(&[0; 2]),
        vec![
            (0x0028, 0x0008, "IS", text(frames)),
            (0x7FE0, 0x0010, "OB", Value::Fragments(fragments)),
        ],
    );
    wrapped(uid, &written(&elements, false, false))
}

#[test]
fn a_frames_fragments_are_found_by_table_or_by_number_and_never_guessed() {
    let frame = |file: &[u8], frame| {
        decode(file, Some(frame), &Limits::default())
            .map(|slice| slice.samples().modality().unwrap().to_vec())
    };
    let (a, b): (&[u8], &[u8]) = (&[1, 0, 2, 0], &[3, 0, 4, 0]);
    let by_table = encapsulated(ENCAPSULATED, &[0, 20], &[&a[..2], &a[2..], b], "2");
    assert_eq!(frame(&by_table, 0).unwrap(), [1., 2.]);
    assert_eq!(frame(&by_table, 1).unwrap(), [3., 4.]);
    let by_number = encapsulated(ENCAPSULATED, &[], &[a, b], "2");
    assert_eq!(frame(&by_number, 1).unwrap(), [3., 4.]);
    let unclear = encapsulated(ENCAPSULATED, &[], &[&a[..2], &a[2..], b], "2");
    assert!(frame(&unclear, 0).unwrap_err().to_string().contains("nothing says"));
    let short = encapsulated(ENCAPSULATED, &[0], &[a, b], "2");
    assert!(frame(&short, 1).unwrap_err().to_string().contains("missing"));
}

#[test]
fn truncated_rle_is_an_error() {
    let whole = encapsulated(RLE, &[], &[&[0; 64]], "1");
    assert!(decode(&whole, None, &Limits::default()).is_err());
}

#[test]
fn deep_sequences_and_endless_ones_are_refused() {
    // Item in sequence in item, of undefined length, to any depth.
    let mut nested = Vec::new();
    for _ in 0..10_000 {
        nested.extend([0x08, 0x00, 0x40, 0x11]); // (0008,1140)
        nested.extend(b"SQ\0\0");
        nested.extend(u32::MAX.to_le_bytes());
        nested.extend([0xFE, 0xFF, 0x00, 0xE0]);
        nested.extend(u32::MAX.to_le_bytes());
    }
    let deep = decode(&wrapped(EXPLICIT, &nested), None, &Limits::default()).unwrap_err();
    assert!(deep.to_string().contains("nested"), "{deep}");
    let open = &nested[..20];
    let endless = decode(&wrapped(EXPLICIT, open), None, &Limits::default()).unwrap_err();
    assert!(endless.to_string().contains("never ends"), "{endless}");
}

#[test]
fn a_file_cut_anywhere_or_with_any_byte_changed_is_answered_without_a_panic() {
    let rescale: Elements = vec![(0x0028, 0x1052, "DS", text("-1024"))];
    let elements = with(
        grey(&[1, 2, 3]),
        vec![
            (0x0028, 0x0008, "IS", text("1")),
            (
                0x5200,
                0x9229,
                "SQ",
                Value::Items(vec![vec![(0x0028, 0x9145, "SQ", Value::Items(vec![rescale]))]]),
            ),
        ],
    );
    let whole = file(&elements);
    for length in 132..whole.len() {
        assert!(decode(&whole[..length], None, &Limits::default()).is_err(), "{length}");
    }
    let limits = Limits { max_pixels: 1 << 20, ..Limits::default() };
    for at in 132..whole.len() {
        for value in [0, 1, 0x7F, 0x80, 0xFE, 0xFF] {
            let mut changed = whole.clone();
            changed[at] = value;
            if let Ok(slice) = decode(&changed, None, &limits) {
                assert!(slice.size().pixels() > 0);
            }
        }
    }
}
