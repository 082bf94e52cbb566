//! Codestreams and tables that contradict their data set, or break off.

use super::*;

const BASELINE: &str = "1.2.840.10008.1.2.4.50";
const EXTENDED: &str = "1.2.840.10008.1.2.4.51";
const JPEG_LS: &str = "1.2.840.10008.1.2.4.80";
const JPEG_2000: &str = "1.2.840.10008.1.2.4.90";

/// The codestream of a fixture, 41 × 35.
fn coded(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decode");
    let file = std::fs::read(folder.join(name)).unwrap();
    let start = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff";
    let mut at = file.windows(start.len()).position(|window| window == start).unwrap() + 12;
    let length = |at: usize| u32::from_le_bytes(file[at + 4..at + 8].try_into().unwrap()) as usize;
    at += 8 + length(at);
    file[at + 8..at + 8 + length(at)].to_vec()
}

/// A file of 8-bit grey, 41 × 35, around a codestream.
fn around(uid: &str, coded: Vec<u8>, changes: Elements) -> Vec<u8> {
    let elements = with(
        bits(grey(&[0]), 8, 8, 0),
        vec![
            (0x0028, 0x0010, "US", words(&[35])),
            (0x0028, 0x0011, "US", words(&[41])),
            (0x7FE0, 0x0010, "OB", Value::Fragments(vec![vec![], coded])),
        ],
    );
    wrapped(uid, &written(&with(elements, changes), false, false))
}

fn decoded(file: &[u8]) -> Result<Vec<f32>, String> {
    let slice = decode(file, None, &Limits::default()).map_err(|error| error.to_string())?;
    Ok(slice.samples().modality().unwrap().to_vec())
}

#[test]
fn a_codestream_of_another_size_than_the_data_set_says_is_refused() {
    for (uid, name) in [
        (BASELINE, "jpeg-baseline.dcm"),
        (JPEG_LS, "jpegls-lossless-grey8.dcm"),
        (JPEG_2000, "j2k-lossless-grey8.dcm"),
    ] {
        assert_eq!(decoded(&around(uid, coded(name), vec![])).unwrap().len(), 41 * 35, "{name}");
        for (element, value, words_) in [(0x0011, 40, "40×35"), (0x0010, 34, "41×34")] {
            let change = vec![(0x0028, element, "US", words(&[value]))];
            let error = decoded(&around(uid, coded(name), change)).unwrap_err();
            assert!(error.contains(&format!("the data set says {words_}")), "{name}: {error}");
        }
    }
}

#[test]
fn more_components_or_bits_than_the_data_set_says_are_refused() {
    let error = decoded(&around(BASELINE, coded("jpeg-colour-n1.dcm"), vec![])).unwrap_err();
    assert!(error.contains("3 components, not 1"), "{error}");
    let error = decoded(&around(EXTENDED, coded("jpeg-extended12.dcm"), vec![])).unwrap_err();
    assert!(error.contains("12 bits a sample where 8 fit"), "{error}");
}

#[test]
fn a_codestream_that_breaks_off_is_refused_not_shown_blurred() {
    for (uid, name) in [
        (BASELINE, "jpeg-baseline.dcm"),
        (JPEG_LS, "jpegls-lossless-grey8.dcm"),
        (JPEG_2000, "j2k-lossless-grey8.dcm"),
    ] {
        let whole = coded(name);
        for share in [2, 3, 4, 5, 6, 7] {
            let part = whole[..whole.len() * share / 8].to_vec();
            assert!(decoded(&around(uid, part, vec![])).is_err(), "{name}, {share} eighths");
        }
    }
    // A tile that ends early in a codestream that does not.
    let mut data = coded("j2k-lossless-grey8.dcm");
    let end = data.windows(2).rposition(|pair| pair == [0xFF, 0xD9]).unwrap();
    data.drain(end - 40..end);
    let tile = marker(&data, 0x90) + 6;
    let length = u32::from_be_bytes(data[tile..tile + 4].try_into().unwrap()) - 40;
    data[tile..tile + 4].copy_from_slice(&length.to_be_bytes());
    assert!(decoded(&around(JPEG_2000, data, vec![])).is_err());
}

#[test]
fn samples_past_a_lossless_codestreams_own_bits_are_refused() {
    let mut data = coded("jpeg-lossless-restarts-12-1.dcm");
    let frame = data.windows(2).position(|pair| pair == [0xFF, 0xC3]).unwrap();
    assert_eq!(std::mem::replace(&mut data[frame + 4], 11), 12);
    let sixteen = vec![
        (0x0028, 0x0100, "US", words(&[16])),
        (0x0028, 0x0101, "US", words(&[12])),
        (0x0028, 0x0102, "US", words(&[11])),
    ];
    let error = decoded(&around("1.2.840.10008.1.2.4.57", data, sixteen)).unwrap_err();
    assert!(error.contains("out of range"), "{error}");
}

#[test]
fn a_jpeg_ls_component_that_comes_twice_is_refused() {
    use crate::imaging::jpeg_ls::decode;
    let data = coded("jpegls-plane-rgb8.dcm");
    assert!(decode(&data).is_ok());
    let scans = data.windows(2).enumerate().filter(|(_, pair)| *pair == [0xFF, 0xDA]);
    let scans: Vec<usize> = scans.map(|(at, _)| at).collect();
    let twice = [&data[..scans[1]], &data[scans[0]..]].concat();
    assert!(decode(&twice).unwrap_err().to_string().contains("come twice"));
    // Or twice within one scan, which would leave another one black.
    let mut twice = coded("jpegls-sample-rgb8.dcm");
    let scan = marker(&twice, 0xDA);
    assert_eq!(twice[scan + 4], 3);
    twice[scan + 7] = twice[scan + 5];
    assert!(decode(&twice).unwrap_err().to_string().contains("come twice"));
}

#[test]
fn a_jpeg_ls_scan_of_nothing_is_refused() {
    let mut empty = coded("jpegls-sample-rgb8.dcm");
    let scan = marker(&empty, 0xDA);
    empty.splice(scan + 2..scan + 5 + 6, [0, 6, 0]);
    let error = crate::imaging::jpeg_ls::decode(&empty).unwrap_err().to_string();
    assert!(error.contains("a scan header is invalid"), "{error}");
}

/// Where a marker stands; before the entropy-coded bytes.
fn marker(data: &[u8], code: u8) -> usize {
    data.windows(2).position(|pair| pair == [0xFF, code]).unwrap()
}

#[test]
fn a_lossless_point_transform_is_undone() {
    let name = "jpeg-lossless-restarts-12-3.dcm";
    let sixteen = || {
        vec![
            (0x0028, 0x0100, "US", words(&[16])),
            (0x0028, 0x0101, "US", words(&[16])),
            (0x0028, 0x0102, "US", words(&[15])),
        ]
    };
    let decoded = |data| decoded(&around("1.2.840.10008.1.2.4.57", data, sixteen())).unwrap();
    // One bit more and one bit cut off: the same code stands for twice the values.
    let mut cut = coded(name);
    let (frame, scan) = (marker(&cut, 0xC3), marker(&cut, 0xDA));
    (cut[frame + 4], cut[scan + 9]) = (13, 1);
    let twice: Vec<f32> = decoded(coded(name)).iter().map(|value| 2.0 * value).collect();
    assert_eq!(decoded(cut), twice);
}

#[test]
fn parts_of_jpeg_ls_that_are_not_decoded_are_refused_by_name() {
    use crate::imaging::jpeg_ls::decode;
    let plain = coded("jpegls-preset-grey8.dcm");
    for (segment, words) in [
        (&b"\xff\xdd\0\x04\0\x01"[..], "restart intervals"),
        (b"\xff\xe8\0\x07mrfx\x01", "colour transforms"),
        (b"\xff\xf8\0\x05\x02\0\0", "mapping tables"),
    ] {
        let mut data = plain.clone();
        data.splice(2..2, segment.iter().copied());
        let error = decode(&data).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    let mut data = plain;
    let preset = marker(&data, 0xF8);
    data[preset + 14] = 2;
    assert!(decode(&data).unwrap_err().to_string().contains("parameters"), "a reset of 2");
}

#[test]
fn a_jp2_file_is_taken_for_the_codestream_in_it_and_subsampling_refused() {
    let plain = coded("j2k-lossless-grey8.dcm");
    let mut file = b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 \0\0\0\0jp2 ".to_vec();
    file.extend(u32::try_from(plain.len() + 8).unwrap().to_be_bytes());
    file.extend(b"jp2c");
    file.extend(&plain);
    let bare = decoded(&around(JPEG_2000, plain.clone(), vec![])).unwrap();
    assert_eq!(decoded(&around(JPEG_2000, file, vec![])).unwrap(), bare);
    let mut halved = plain;
    halved[43] = 2;
    assert!(decoded(&around(JPEG_2000, halved, vec![])).unwrap_err().contains("subsampled"));
}

#[test]
fn a_jpeg_file_of_12_bits_is_shown_in_8() {
    use crate::imaging::jpeg;
    let data = coded("jpeg-extended12.dcm");
    let jpeg::Samples::Wide(wide) = jpeg::decode(&data, |_| jpeg::Transform::None).unwrap().1
    else {
        panic!("12 bits are words");
    };
    let eighth = |value: u16| (u32::from(value) * 510 + 4095) / 8190;
    let expected: Vec<u32> = wide.into_iter().map(eighth).collect();
    let shown = crate::imaging::decode::decode(&data, None, &Limits::default()).unwrap();
    let shown: Vec<u32> = shown.samples().bytes().iter().copied().map(u32::from).collect();
    assert_eq!(shown, expected);
}

#[test]
fn a_segmentation_of_a_lossy_file_says_so_where_the_file_does_not() {
    let lossy = |uid, name| {
        let file = around(uid, coded(name), vec![]);
        let source = segmentation_source(&file, None, &Limits::default()).unwrap();
        source.value((0x0028, 0x2110)).map(<[u8]>::to_vec)
    };
    assert_eq!(lossy(BASELINE, "jpeg-baseline.dcm"), Some(b"01".to_vec()));
    assert_eq!(lossy(JPEG_LS, "jpegls-lossless-grey8.dcm"), None);
}

/// Colour of a JPEG in a data set of that photometric interpretation.
fn colour(coded: Vec<u8>, photometric: &str) -> Vec<u8> {
    let changes = vec![
        (0x0028, 0x0002, "US", words(&[3])),
        (0x0028, 0x0004, "CS", text(photometric)),
        (0x0028, 0x0006, "US", words(&[0])),
    ];
    slice_of(&around(BASELINE, coded, changes)).samples().bytes().to_vec()
}

#[test]
fn what_a_jpeg_says_of_its_colour_counts_before_the_data_set() {
    let mut plain = coded("jpeg-colour-n1.dcm");
    if let Some(at) = plain.windows(2).position(|pair| pair == [0xFF, 0xEE]) {
        let length = usize::from(u16::from_be_bytes([plain[at + 2], plain[at + 3]]));
        plain.drain(at..at + 2 + length);
    }
    if let Some(at) = plain.windows(2).position(|pair| pair == [0xFF, 0xE0]) {
        let length = usize::from(u16::from_be_bytes([plain[at + 2], plain[at + 3]]));
        plain.drain(at..at + 2 + length);
    }
    let (ybr, rgb) = (colour(plain.clone(), "YBR_FULL"), colour(plain.clone(), "RGB"));
    assert_ne!(ybr, rgb);
    let mut jfif = plain.clone();
    jfif.splice(2..2, *b"\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    assert_eq!(colour(jfif, "RGB"), ybr, "JFIF is always YCbCr");
    for (transform, expected) in [(0, &rgb), (1, &ybr)] {
        let mut adobe = plain.clone();
        adobe.splice(2..2, *b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0");
        adobe.insert(17, transform);
        for photometric in ["RGB", "YBR_FULL"] {
            assert_eq!(colour(adobe.clone(), photometric), *expected, "{transform} {photometric}");
        }
    }
    let mut ids = plain;
    let at = |marker: u8, ids: &[u8]| ids.windows(2).position(|pair| pair == [0xFF, marker]);
    let (frame, scan) = (at(0xC0, &ids).unwrap(), at(0xDA, &ids).unwrap());
    for (index, id) in b"RGB".iter().enumerate() {
        ids[frame + 10 + 3 * index] = *id;
        ids[scan + 5 + 2 * index] = *id;
    }
    assert_eq!(colour(ids, "YBR_FULL"), rgb, "component ids say RGB");
}

#[test]
fn colour_of_another_depth_than_the_data_set_says_is_refused_not_shown_black() {
    for (uid, name) in [
        (BASELINE, "jpeg-colour-n1.dcm"),
        ("1.2.840.10008.1.2.4.70", "jpeg-lossless-rgb8.dcm"),
        (JPEG_LS, "jpegls-sample-rgb8.dcm"),
        (JPEG_2000, "j2k-lossless-rgb8.dcm"),
    ] {
        let file = |allocated: u16, stored: u16| {
            let colour =
                vec![(0x0028, 0x0002, "US", words(&[3])), (0x0028, 0x0004, "CS", text("RGB"))];
            around(uid, coded(name), bits(colour, allocated, stored, 0))
        };
        let plain = slice_of(&file(8, 8)).samples().bytes().to_vec();
        assert_eq!(slice_of(&file(16, 8)).samples().bytes()[..], plain, "{name}");
        for (allocated, stored) in [(32, 32), (16, 16), (16, 12), (8, 7)] {
            let error = decode(&file(allocated, stored), None, &Limits::default()).unwrap_err();
            let words = format!("8 bits a colour sample, the data set says {stored}");
            assert!(error.to_string().contains(&words), "{name}: {error}");
        }
    }
}

#[test]
fn components_of_different_depths_are_refused() {
    let mut data = coded("j2k-lossless-rgb8.dcm");
    assert_eq!([42, 45, 48].map(|at| data[at]), [7; 3], "8 bits each");
    data[45] = 4;
    let colour = vec![(0x0028, 0x0002, "US", words(&[3])), (0x0028, 0x0004, "CS", text("RGB"))];
    let error = decode(&around(JPEG_2000, data, colour), None, &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("different depths"), "{error}");
}

#[test]
fn signed_colour_is_refused() {
    let elements = with(
        bits(grey(&[0]), 8, 8, 1),
        vec![
            (0x0028, 0x0002, "US", words(&[3])),
            (0x0028, 0x0004, "CS", text("RGB")),
            (0x7FE0, 0x0010, "OB", Value::Bytes(vec![1, 2, 3])),
        ],
    );
    assert!(reason(&elements).contains("signed colour"));
}

#[test]
fn the_last_of_repeated_elements_counts() {
    let mut elements = grey(&[1, 2]);
    let at = elements.len() - 1;
    for intercept in ["5", "7"] {
        elements.insert(at, (0x0028, 0x1052, "DS", text(intercept)));
    }
    elements.swap(at, at + 1);
    assert_eq!(values(&elements), [8., 9.]);
}

#[test]
fn a_sequence_of_unknown_vr_is_read_as_implicit_little_endian() {
    let lut: Elements =
        vec![(0x0028, 0x3002, "US", words(&[2, 0, 16])), (0x0028, 0x3006, "OW", words(&[10, 20]))];
    let body = written(&lut, true, false);
    let length = u32::try_from(body.len()).unwrap().to_le_bytes();
    let item = [&[0xFE, 0xFF, 0x00, 0xE0], &length[..], &body].concat();
    let elements = with(grey(&[0, 1]), vec![(0x0028, 0x3000, "UN", Value::Bytes(item))]);
    assert_eq!(values(&elements), [10., 20.]);
}

#[test]
fn too_many_elements_are_refused() {
    let body = [0x08, 0, 0x10, 0, 0, 0, 0, 0].repeat(1_000_001);
    let file = wrapped("1.2.840.10008.1.2", &body);
    let error = decode(&file, None, &Limits::default()).unwrap_err().to_string();
    assert!(error.contains("too many elements"), "{error}");
}

#[test]
fn a_table_of_fewer_offsets_than_frames_serves_none_of_them() {
    let short = encapsulated(ENCAPSULATED, &[0], &[&[1, 0, 2, 0], &[3, 0, 4, 0]], "2");
    for frame in [0, 1] {
        let error = decode(&short, Some(frame), &Limits::default()).unwrap_err().to_string();
        assert!(error.contains("missing"), "{error}");
    }
}

#[test]
fn two_tables_of_frames_count_only_where_they_agree() {
    let file = |extended: u64| {
        let table: Vec<u8> = [0, extended].iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let fragments = vec![vec![0, 0, 0, 0, 12, 0, 0, 0], vec![1, 0, 2, 0], vec![3, 0, 4, 0]];
        let elements = with(
            grey(&[0; 2]),
            vec![
                (0x0028, 0x0008, "IS", text("2")),
                (0x7FE0, 0x0001, "OB", Value::Bytes(table)),
                (0x7FE0, 0x0010, "OB", Value::Fragments(fragments)),
            ],
        );
        wrapped(ENCAPSULATED, &written(&elements, false, false))
    };
    let second = |file: &[u8]| decode(file, Some(1), &Limits::default());
    assert_eq!(second(&file(12)).unwrap().samples().modality().unwrap(), [3., 4.]);
    assert!(second(&file(0)).unwrap_err().to_string().contains("contradict each other"));
}

#[test]
fn bytes_stored_as_big_endian_words_are_swapped_back() {
    let elements = with(
        bits(grey(&[0; 4]), 8, 8, 0),
        vec![(0x7FE0, 0x0010, "OW", Value::Bytes(vec![2, 1, 4, 3]))],
    );
    let file = wrapped("1.2.840.10008.1.2.2", &written(&elements, false, true));
    assert_eq!(slice_of(&file).samples().modality().unwrap(), [1., 2., 3., 4.]);
}

/// A modality LUT of that descriptor and data, and the stored values it maps.
fn mapped(stored: &[u16], descriptor: &[u16], data: (&'static str, Value)) -> Elements {
    let lut: Elements =
        vec![(0x0028, 0x3002, "US", words(descriptor)), (0x0028, 0x3006, data.0, data.1)];
    with(grey(stored), vec![(0x0028, 0x3000, "SQ", Value::Items(vec![lut]))])
}

#[test]
fn tables_of_every_length_and_width_are_read_and_short_ones_refused() {
    let falling: Vec<u16> = (0..=u16::MAX).rev().collect();
    let all = mapped(&[0, 1, 65_535], &[0, 0, 16], ("OW", words(&falling)));
    assert_eq!(values(&all), [65_535., 65_534., 0.], "0 entries are 65,536");
    let bytes = mapped(&[0, 1, 2, 3], &[4, 0, 8], ("OB", Value::Bytes(vec![9, 8, 7, 6])));
    assert_eq!(values(&bytes), [9., 8., 7., 6.]);
    let short = mapped(&[0, 1], &[4, 0, 16], ("OW", words(&[1, 2, 3])));
    assert!(reason(&short).contains("lookup table"));
}

#[test]
fn a_voi_lut_of_rescaled_values_may_begin_below_zero() {
    let lut: Elements = vec![
        (0x0028, 0x3002, "US", words(&[3, (-1024i16).cast_unsigned(), 8])),
        (0x0028, 0x3006, "OW", words(&[0, 100, 255])),
    ];
    let elements = with(
        grey(&[0, 1, 2]),
        vec![
            (0x0028, 0x1052, "DS", text("-1024")),
            (0x0028, 0x3010, "SQ", Value::Items(vec![lut])),
        ],
    );
    // Implicit VR: only what the values are tells that the table's first one is signed.
    let slice = slice_of(&wrapped("1.2.840.10008.1.2", &written(&elements, true, false)));
    assert_eq!(levels(&slice), [0, 100, 255]);
}

#[test]
fn ramps_of_segmented_palettes_are_rounded() {
    // One entry of 0, then three up to 4: 1.33, 2.67, 4.
    let segments = || Value::Bytes(vec![0, 1, 0, 1, 3, 4]);
    let mut changes: Elements = vec![
        (0x0028, 0x0004, "CS", text("PALETTE COLOR")),
        (0x7FE0, 0x0010, "OB", Value::Bytes(vec![0, 1, 2, 3])),
    ];
    for colour in 0..3 {
        changes.push((0x0028, 0x1101 + colour, "US", words(&[4, 0, 8])));
        changes.push((0x0028, 0x1221 + colour, "OW", segments()));
    }
    let slice = slice_of(&file(&with(bits(grey(&[0; 4]), 8, 8, 0), changes)));
    assert_eq!(slice.samples().bytes()[..], [0, 0, 0, 1, 1, 1, 3, 3, 3, 4, 4, 4]);
}
