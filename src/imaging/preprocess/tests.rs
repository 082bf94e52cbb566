#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "the pictures of these tests are small"
)]

use super::*;
use proptest::prelude::*;

fn size(width: u32, height: u32) -> Size {
    Size { width, height }
}

/// The filter as its definition says it: a triangle as wide as the ratio, at least one pixel,
/// normalised; rows, then columns; in f64.
fn plain(levels: &[u8], size: Size, side: usize) -> Vec<f64> {
    let weights = |inputs: usize| -> Vec<Vec<f64>> {
        let scale = inputs as f64 / side as f64;
        let support = scale.max(1.0);
        (0..side)
            .map(|output| {
                let center = (output as f64 + 0.5) * scale;
                let raw: Vec<f64> = (0..inputs)
                    .map(|i| (1.0 - ((i as f64 + 0.5 - center) / support).abs()).max(0.0))
                    .collect();
                let sum: f64 = raw.iter().sum();
                raw.iter().map(|w| w / sum).collect()
            })
            .collect()
    };
    let (width, height) = (size.width as usize, size.height as usize);
    let (across, down) = (weights(width), weights(height));
    let mut out = Vec::new();
    for row in &down {
        for column in &across {
            let mut sum = 0.0;
            for y in 0..height {
                for x in 0..width {
                    sum += row[y] * column[x] * f64::from(levels[y * width + x]);
                }
            }
            out.push(sum);
        }
    }
    out
}

fn denormalised(tensor: &ImageTensor, channel: usize) -> Vec<f64> {
    let plane = tensor.side() * tensor.side();
    let values = tensor.data()[channel * plane..][..plane].iter();
    values.map(|v| f64::from(v * STD[channel] + MEAN[channel]) * 255.0).collect()
}

#[test]
fn one_grey_level_is_that_level_everywhere_by_channel() {
    let tensor = tensor(&Levels::Grey(vec![51; 6]), size(3, 2), 8).unwrap();
    for (channel, expected) in
        [(0, (0.2 - 0.485) / 0.229), (1, (0.2 - 0.456) / 0.224), (2, (0.2 - 0.406) / 0.225)]
    {
        for value in &tensor.data()[channel * 64..][..64] {
            assert!((value - expected).abs() < 1e-6, "channel {channel}: {value}, not {expected}");
        }
    }
}

#[test]
fn channels_of_a_colour_picture_stay_apart() {
    let tensor = tensor(&Levels::Rgb([255, 0, 51].repeat(4)), size(2, 2), 4).unwrap();
    for (channel, expected) in [(0, 255.0), (1, 0.0), (2, 51.0)] {
        assert!(denormalised(&tensor, channel).iter().all(|v| (v - expected).abs() < 1e-3));
    }
}

#[test]
fn levels_of_another_size_and_no_side_are_no_tensor() {
    assert!(tensor(&Levels::Grey(vec![0; 5]), size(3, 2), 8).is_none());
    assert!(tensor(&Levels::Rgb(vec![0; 6]), size(3, 2), 8).is_none());
    assert!(tensor(&Levels::Grey(vec![0; 6]), size(3, 2), 0).is_none());
    assert!(tensor(&Levels::Grey(vec![]), size(0, 2), 8).is_none());
}

#[test]
fn a_large_slice_in_bands_is_the_same_as_a_ramp_says() {
    // 8192 columns of a ramp: after averaging, cell k of 64 is in the middle of its 128 columns.
    let size = size(8192, 8192);
    let row: Vec<u8> = (0..8192u32).map(|x| (x / 32) as u8).collect();
    let tensor = tensor(&Levels::Grey(row.repeat(8192)), size, 64).unwrap();
    for (index, value) in denormalised(&tensor, 0).into_iter().enumerate() {
        let column = index % 64;
        if (1..63).contains(&column) {
            let expected = column as f64 * 4.0 + 1.5;
            assert!((value - expected).abs() < 0.01, "cell {index}: {value}, not {expected}");
        }
    }
}

#[test]
fn a_mask_to_refine_is_sure_inside_and_outside_and_undecided_between() {
    let mut pixels = vec![0; 64];
    for (index, pixel) in pixels.iter_mut().enumerate() {
        let (x, y) = (index % 8, index / 8);
        *pixel = if x < 4 && (y < 4 || x % 2 == 0) { 255 } else { 0 };
    }
    let mask = Mask::new(size(8, 8), pixels).unwrap();
    let fed = mask_input(&mask, 2).unwrap();
    assert_eq!(fed.as_ref(), [10.0, -10.0, 0.0, -10.0]);
}

proptest! {
    #[test]
    fn the_stretch_is_the_triangle_filter(
        (width, height) in (1u32..40, 1u32..40), side in 1usize..24, seed: u64,
    ) {
        let size = size(width, height);
        let levels: Vec<u8> =
            (0..size.pixels() as u64).map(|i| (seed.wrapping_mul(2 * i + 1) >> 56) as u8).collect();
        let tensor = tensor(&Levels::Grey(levels.clone()), size, side).unwrap();
        for channel in 0..3 {
            for (seen, expected) in
                denormalised(&tensor, channel).iter().zip(plain(&levels, size, side))
            {
                prop_assert!((seen - expected).abs() < 1e-3, "{} not {}", seen, expected);
            }
        }
    }

    #[test]
    fn a_transposed_slice_is_the_transposed_tensor(
        (width, height) in prop_oneof![(1u32..40, 1u32..40), Just((1, 300)), Just((8192, 1))],
        side in 1usize..24,
        seed: u64,
    ) {
        let size = size(width, height);
        let level = |i: usize| (seed.wrapping_mul(2 * i as u64 + 1) >> 56) as u8;
        let levels: Vec<u8> = (0..size.pixels()).map(level).collect();
        let (w, h) = (width as usize, height as usize);
        let turned = (0..w).flat_map(|x| (0..h).map(move |y| y * w + x)).map(level).collect();
        let straight = tensor(&Levels::Grey(levels), size, side).unwrap();
        let size = Size { width: height, height: width };
        let turned = tensor(&Levels::Grey(turned), size, side).unwrap();
        for (i, value) in straight.data().iter().take(side * side).enumerate() {
            let other = turned.data()[i % side * side + i / side];
            prop_assert!((value - other).abs() < 1e-5);
        }
    }

    #[test]
    fn a_flipped_slice_is_the_flipped_tensor(
        (width, height) in (1u32..40, 1u32..40), side in 1usize..24, seed: u64,
    ) {
        let size = size(width, height);
        let levels: Vec<u8> =
            (0..size.pixels() as u64).map(|i| (seed.wrapping_mul(2 * i + 1) >> 56) as u8).collect();
        let flipped: Vec<u8> =
            levels.chunks(width as usize).flat_map(|row| row.iter().rev()).copied().collect();
        let straight = tensor(&Levels::Grey(levels), size, side).unwrap();
        let mirrored = tensor(&Levels::Grey(flipped), size, side).unwrap();
        for (row, mirrored) in straight.data().chunks(side).zip(mirrored.data().chunks(side)) {
            for (a, b) in row.iter().zip(mirrored.iter().rev()) {
                prop_assert!((a - b).abs() < 1e-5);
            }
        }
    }
}

/// tests/fixtures/README.md says what these files are: torchvision's tensors.
#[test]
fn tensors_are_those_of_torchvision() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/preprocess");
    let read =
        |name: &serde_json::Value| std::fs::read(folder.join(name.as_str().unwrap())).unwrap();
    let cases: serde_json::Value = serde_json::from_slice(&read(&"cases.json".into())).unwrap();
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 5);
    for case in cases {
        let picture = image::load_from_memory(&read(&case["image"])).unwrap();
        let size = size(picture.width(), picture.height());
        let levels = match picture {
            image::DynamicImage::ImageLuma8(grey) => Levels::Grey(grey.into_raw()),
            colour => Levels::Rgb(colour.into_rgb8().into_raw()),
        };
        let side = usize::try_from(case["input_size"].as_u64().unwrap()).unwrap();
        let reference = read(&case["tensor"]["path"]);
        let reference =
            reference.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let tensor = tensor(&levels, size, side).unwrap();
        assert_eq!(reference.len(), tensor.data().len());
        let worst = reference.zip(tensor.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{}: differs by {worst}", case["name"]);
    }
}
