use super::*;
use proptest::prelude::*;

fn mask(width: u32, height: u32, marked: &[usize]) -> Mask {
    let size = Size { width, height };
    let mut pixels = vec![0; size.pixels()];
    for &index in marked {
        pixels[index] = 255;
    }
    Mask::new(size, pixels).unwrap()
}

fn encoded(size: Size, colour: ColorType, depth: BitDepth, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, size.width, size.height);
    encoder.set_color(colour);
    encoder.set_depth(depth);
    if colour == ColorType::Indexed {
        encoder.set_palette(vec![0, 0, 0, 200, 0, 0]);
    }
    encoder.write_header().unwrap().write_image_data(data).unwrap();
    file
}

#[test]
fn a_mask_file_is_8_bit_grey_and_says_what_it_is_not_for() {
    let file = encode_mask(&mask(3, 2, &[1]));
    let reader = Decoder::new(Cursor::new(&file)).read_info().unwrap();
    let info = reader.info();
    assert_eq!((info.width, info.height), (3, 2));
    assert_eq!((info.color_type, info.bit_depth), (ColorType::Grayscale, BitDepth::Eight));
    assert_eq!(info.uncompressed_latin1_text[0].text, "Not for diagnostic use.");
}

#[test]
fn levels_of_another_size_make_no_file() {
    assert!(encode_grey(&[0; 5], Size { width: 3, height: 2 }).is_empty());
}

#[test]
fn masks_read_as_meant_whatever_their_colour_type() {
    let size = Size { width: 4, height: 1 };
    let expected = mask(4, 1, &[1, 2]);
    for (name, file) in [
        ("0 and 255", encoded(size, ColorType::Grayscale, BitDepth::Eight, &[0, 255, 255, 0])),
        ("0 and 1", encoded(size, ColorType::Grayscale, BitDepth::Eight, &[0, 1, 1, 0])),
        ("soft edges", encoded(size, ColorType::Grayscale, BitDepth::Eight, &[9, 255, 128, 127])),
        ("1 bit", encoded(size, ColorType::Grayscale, BitDepth::One, &[0b0110_0000])),
        (
            "16 bit",
            encoded(size, ColorType::Grayscale, BitDepth::Sixteen, &[0, 0, 255, 255, 255, 9, 0, 1]),
        ),
        ("palette", encoded(size, ColorType::Indexed, BitDepth::Eight, &[0, 1, 1, 0])),
        (
            "green",
            encoded(size, ColorType::Rgb, BitDepth::Eight, &[0, 0, 0, 0, 90, 0, 0, 90, 0, 0, 9, 0]),
        ),
        (
            "white on transparent",
            encoded(
                size,
                ColorType::GrayscaleAlpha,
                BitDepth::Eight,
                &[255, 0, 255, 255, 255, 255, 255, 0],
            ),
        ),
    ] {
        assert_eq!(decode_mask(&file, size).unwrap(), expected, "{name}");
    }
}

#[test]
fn a_black_png_is_an_empty_mask() {
    let file = encode_mask(&mask(5, 4, &[]));
    assert!(decode_mask(&file, Size { width: 5, height: 4 }).unwrap().is_empty());
}

#[test]
fn a_mask_of_another_size_is_refused_by_its_header() {
    // A bomb: 30,000 × 30,000 in the header and nothing behind it.
    let mut file = encode_mask(&mask(3, 2, &[]));
    let error = decode_mask(&file, Size { width: 2, height: 3 }).unwrap_err();
    assert_eq!(error.to_string(), "it is 3×2 pixels, the image 2×3");
    file.truncate(50);
    assert!(decode_mask(&file, Size { width: 3, height: 2 }).is_err());
    assert!(decode_mask(b"GIF89a", Size { width: 3, height: 2 }).is_err());
}

proptest! {
    #[test]
    fn a_mask_comes_back_as_it_was(
        (width, height) in (1u32..70, 1u32..70), bits in prop::collection::vec(any::<bool>(), 4900),
    ) {
        let size = Size { width, height };
        let pixels = bits.iter().take(size.pixels()).map(|&b| u8::from(b) * 255).collect();
        let mask = Mask::new(size, pixels).unwrap();
        prop_assert_eq!(decode_mask(&encode_mask(&mask), size).unwrap(), mask);
    }

    #[test]
    fn broken_files_are_an_error_and_never_a_panic(
        at in 0usize..2000, byte: u8, cut in 0usize..2000,
    ) {
        let size = Size { width: 40, height: 30 };
        let mut file = encode_mask(&mask(40, 30, &[7, 8, 9, 600]));
        let at = at % file.len();
        file[at] = byte;
        file.truncate(cut.max(1));
        if let Ok(mask) = decode_mask(&file, size) {
            prop_assert_eq!(mask.size(), size);
        }
    }
}
