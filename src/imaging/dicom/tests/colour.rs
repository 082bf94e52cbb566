//! Colour: palettes, planes, YBR, depths.

use super::*;

#[test]
fn palettes_become_rgb_plain_and_segmented() {
    let palette = |red: Value, tag: u16, vr: &'static str| {
        let base = bits(grey(&[0; 4]), 8, 8, 0);
        let ramp = || words(&[0, 0x4000, 0x8000, 0xFFFF]);
        with(
            base,
            vec![
                (0x0028, 0x0004, "CS", text("PALETTE COLOR")),
                (0x0028, 0x1101, "US", words(&[4, 1, 16])),
                (0x0028, 0x1102, "US", words(&[4, 1, 16])),
                (0x0028, 0x1103, "US", words(&[4, 1, 16])),
                (0x0028, tag, vr, red),
                (0x0028, 0x1202, "OW", words(&[0xFFFF, 0, 0, 0])),
                (0x0028, 0x1203, "OW", ramp()),
                (0x7FE0, 0x0010, "OB", Value::Bytes(vec![0, 1, 2, 9])),
            ],
        )
    };
    let plain = palette(words(&[0, 0x4000, 0x8000, 0xFFFF]), 0x1201, "OW");
    let rgb = slice_of(&file(&plain)).samples().bytes().to_vec();
    assert_eq!(rgb, [0, 255, 0, 0, 255, 0, 64, 0, 64, 255, 0, 255]);
    // One value, then a ramp of three to FFFF: 0, 5555, AAAA, FFFF.
    let ramp = palette(words(&[0, 1, 0, 1, 3, 0xFFFF]), 0x1221, "OW");
    let rgb = slice_of(&file(&ramp)).samples().bytes().to_vec();
    assert_eq!(rgb.iter().step_by(3).copied().collect::<Vec<u8>>(), [0, 0, 85, 255]);
    // A run of two, then the same again by reference to byte 0.
    let twice = palette(words(&[0, 2, 0x0100, 0xFF00, 2, 1, 0, 0]), 0x1221, "OW");
    let rgb = slice_of(&file(&twice)).samples().bytes().to_vec();
    assert_eq!(rgb.iter().step_by(3).copied().collect::<Vec<u8>>(), [1, 1, 254, 254]);
    let endless = palette(words(&[2, 1, 0, 0]), 0x1221, "OW");
    assert!(reason(&endless).contains("lookup table"));
}

#[test]
fn palettes_of_other_than_8_or_16_bits_are_refused() {
    let palette = |entry_bits: u16| {
        let mut changes: Elements = vec![
            (0x0028, 0x0004, "CS", text("PALETTE COLOR")),
            (0x7FE0, 0x0010, "OB", Value::Bytes(vec![0, 1])),
        ];
        for colour in 0..3 {
            changes.push((0x0028, 0x1101 + colour, "US", words(&[2, 0, entry_bits])));
            changes.push((0x0028, 0x1201 + colour, "OW", words(&[0x0010, 0x0FFF])));
        }
        with(bits(grey(&[0; 2]), 8, 8, 0), changes)
    };
    let levels = |entry_bits| slice_of(&file(&palette(entry_bits))).samples().bytes().to_vec();
    assert_eq!(levels(8), [16, 16, 16, 255, 255, 255]);
    assert_eq!(levels(16), [0, 0, 0, 16, 16, 16]);
    for entry_bits in [0, 7, 9, 12, 15, 17] {
        let words = format!("a palette of {entry_bits} bits is not supported");
        assert!(reason(&palette(entry_bits)).contains(&words), "{entry_bits}");
    }
}

#[test]
fn native_colour_is_read_by_pixel_and_by_plane_and_from_ybr() {
    let colour = |planar: u16, photometric: &str, bytes: &[u8]| {
        let base = bits(grey(&[0; 2]), 8, 8, 0);
        let elements = with(
            base,
            vec![
                (0x0028, 0x0002, "US", words(&[3])),
                (0x0028, 0x0004, "CS", text(photometric)),
                (0x0028, 0x0006, "US", words(&[planar])),
                (0x7FE0, 0x0010, "OB", Value::Bytes(bytes.to_vec())),
            ],
        );
        slice_of(&file(&elements)).samples().bytes().to_vec()
    };
    assert_eq!(colour(0, "RGB", &[1, 2, 3, 4, 5, 6]), [1, 2, 3, 4, 5, 6]);
    assert_eq!(colour(1, "RGB", &[1, 4, 2, 5, 3, 6]), [1, 2, 3, 4, 5, 6]);
    // Y = 76, Cb = 85, Cr = 255: red, to rounding.
    assert_eq!(colour(0, "YBR_FULL", &[76, 85, 255, 128, 128, 128]), [254, 0, 0, 128, 128, 128]);
    assert_eq!(colour(0, "YBR_FULL_422", &[76, 128, 85, 255]), [254, 0, 0, 255, 52, 52]);
}

#[test]
fn colour_of_more_than_8_bits_is_scaled_from_its_bits_stored() {
    let colour = |stored: u16, samples: [u16; 3]| {
        let elements = with(
            bits(grey(&[0]), 16, stored, 0),
            vec![
                (0x0028, 0x0002, "US", words(&[3])),
                (0x0028, 0x0004, "CS", text("RGB")),
                (0x7FE0, 0x0010, "OW", words(&samples)),
            ],
        );
        slice_of(&file(&elements)).samples().bytes().to_vec()
    };
    assert_eq!(colour(16, [0, 0x8000, 0xFFFF]), [0, 128, 255]);
    assert_eq!(colour(12, [0x010, 0x800, 0xFFF]), [1, 128, 255]);
    assert_eq!(colour(8, [0x010, 0x80, 0xFF]), [16, 128, 255]);
}

#[test]
fn what_a_codec_gives_whole_is_not_subsampled_whatever_the_data_set_says() {
    let mut frame = vec![0; 64];
    for (field, value) in [(0, 3u32), (1, 64), (2, 68), (3, 72)] {
        frame[field * 4..field * 4 + 4].copy_from_slice(&value.to_le_bytes());
    }
    // Two literals a segment, padded: Y, Cb, Cr.
    for [a, b] in [[76, 128], [85, 128], [255, 128]] {
        frame.extend([1, a, b, 0x80]);
    }
    let elements = with(
        bits(grey(&[0; 2]), 8, 8, 0),
        vec![
            (0x0028, 0x0002, "US", words(&[3])),
            (0x0028, 0x0004, "CS", text("YBR_FULL_422")),
            (0x7FE0, 0x0010, "OB", Value::Fragments(vec![vec![], frame])),
        ],
    );
    let slice = slice_of(&wrapped(RLE, &written(&elements, false, false)));
    assert_eq!(slice.samples().bytes()[..], [254, 0, 0, 128, 128, 128]);
}

#[test]
fn colour_in_layouts_that_are_not_decoded_is_refused() {
    let change = |base: Elements, samples: u16, photometric: &str, data: Value| {
        reason(&with(
            base,
            vec![
                (0x0028, 0x0002, "US", words(&[samples])),
                (0x0028, 0x0004, "CS", text(photometric)),
                (0x7FE0, 0x0010, "OW", data),
            ],
        ))
    };
    let wide = change(grey(&[0; 2]), 3, "YBR_FULL_422", words(&[1; 6]));
    assert!(wide.contains("YBR_FULL_422 of 16 bits"), "{wide}");
    let long = bits(grey(&[0]), 64, 64, 0);
    let long = change(long, 1, "MONOCHROME2", words(&[1, 0, 0, 0]));
    assert!(long.contains("64-bit"), "{long}");
    let mut floats = with(
        bits(grey(&[0]), 32, 32, 0),
        vec![
            (0x0028, 0x0002, "US", words(&[3])),
            (0x0028, 0x0004, "CS", text("RGB")),
            (0x7FE0, 0x0008, "OF", Value::Bytes(vec![0; 12])),
        ],
    );
    floats.retain(|element| (element.0, element.1) != (0x7FE0, 0x0010));
    assert!(reason(&floats).contains("odd layout"));
}
