#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the pictures of these tests are small"
)]

use super::*;
use crate::domain::prompt::Click;
use proptest::prelude::*;

fn picture(text: &str) -> Mask {
    let rows: Vec<&str> = text.split_whitespace().collect();
    let size = Size { width: rows[0].len() as u32, height: rows.len() as u32 };
    let pixels = rows.concat().bytes().map(|b| if b == b'#' { 255 } else { 0 }).collect();
    Mask::new(size, pixels).unwrap()
}

fn few_pixels(min_component_px: usize) -> Options {
    Options { min_component_px, min_component_ratio: 0.0 }
}

fn drop_small_with(inside: &[(f64, f64)], outside: &[(f64, f64)], options: Options) -> Clean {
    Clean::DropSmall { inside: inside.to_vec(), outside: outside.to_vec(), options }
}

/// Every output pixel interpolated for itself, in f64.
fn plain(logits: &[f32], side: usize, size: Size) -> Vec<f64> {
    let at = |output: u32, outputs: u32| {
        let source = (f64::from(output) + 0.5) * side as f64 / f64::from(outputs) - 0.5;
        let source = source.max(0.0);
        let low = (source as usize).min(side - 1);
        (low, (low + 1).min(side - 1), source - low as f64)
    };
    let mut out = Vec::new();
    for y in 0..size.height {
        let (top, bottom, down) = at(y, size.height);
        for x in 0..size.width {
            let (left, right, across) = at(x, size.width);
            let value = |y: usize, x: usize| f64::from(logits[y * side + x]);
            let upper = value(top, left) * (1.0 - across) + value(top, right) * across;
            let lower = value(bottom, left) * (1.0 - across) + value(bottom, right) * across;
            out.push(upper * (1.0 - down) + lower * down);
        }
    }
    out
}

fn logits(side: usize, seed: u64) -> Vec<f32> {
    let value = |i: u64| (seed.wrapping_mul(2 * i + 1) >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
    (0..(side * side) as u64).map(value).collect()
}

#[test]
fn logits_of_another_side_are_no_mask() {
    let size = Size { width: 4, height: 4 };
    assert!(threshold(&[1.0; 5], 2, size).is_none());
    assert!(threshold(&[], 0, size).is_none());
}

#[test]
fn a_logit_of_exactly_zero_is_outside() {
    let size = Size { width: 3, height: 3 };
    assert!(threshold(&[0.0; 4], 2, size).unwrap().is_empty());
    assert_eq!(threshold(&[1e-6; 4], 2, size).unwrap().area(), 9);
}

#[test]
fn an_image_of_67_million_pixels_is_thresholded() {
    let size = Size { width: 8192, height: 8192 };
    // Left half inside: of 256 columns the border lies between samples 127 and 128.
    let logits: Vec<f32> = (0..256 * 256).map(|i| if i % 256 < 128 { 1.0 } else { -1.0 }).collect();
    let mask = threshold(&logits, 256, size).unwrap();
    assert_eq!(mask.area(), 4096 * 8192);
    assert_eq!(clean(mask, &Clean::OneComponent { click: None }).area(), 4096 * 8192);
}

#[test]
fn an_l3_keeps_the_component_under_the_click() {
    let mask = picture("##..# ##..# .....");
    let click = |click| clean(mask.clone(), &Clean::OneComponent { click });
    assert_eq!(click(Some((4.0, 1.0))), picture("....# ....# ....."));
    assert_eq!(click(Some((1.9, 0.2))), picture("##... ##... ....."));
    assert_eq!(click(Some((2.0, 2.0))), picture("##... ##... ....."), "click beside: the largest");
    assert_eq!(click(None), picture("##... ##... ....."));
    let later = clean(picture("#..## ...## ....."), &Clean::OneComponent { click: None });
    assert_eq!(later, picture("...## ...## ....."), "the largest, not the first");
}

#[test]
fn of_equal_components_an_l3_keeps_the_first() {
    let how = Clean::OneComponent { click: None };
    assert_eq!(clean(picture("#.# ..."), &how), picture("#.. ..."));
}

#[test]
fn an_empty_mask_stays_empty() {
    let empty = picture("... ...");
    assert_eq!(clean(empty.clone(), &Clean::OneComponent { click: Some((1.0, 1.0)) }), empty);
    assert_eq!(clean(empty.clone(), &drop_small_with(&[], &[], Options::default())), empty);
}

#[test]
fn specks_are_dropped_unless_clicked_and_holes_filled_unless_clicked() {
    let mask = picture(
        "######.. \
         #.####.# \
         ####.#.. \
         ######.# \
         ######.#",
    );
    let cleaned = |inside: &[_], outside: &[_]| {
        clean(mask.clone(), &drop_small_with(inside, outside, few_pixels(2)))
    };
    let solid = picture("######.. ######.. ######.. ######.# ######.#");
    assert_eq!(cleaned(&[], &[]), solid);
    let with_speck = picture("######.. ######.# ######.. ######.# ######.#");
    assert_eq!(cleaned(&[(7.0, 1.0)], &[]), with_speck);
    let with_hole = picture("######.. #.####.. ######.. ######.# ######.#");
    assert_eq!(cleaned(&[], &[(1.0, 1.0)]), with_hole);
    assert_eq!(cleaned(&[(1.0, 1.0)], &[]), solid, "a positive click does not keep a hole");
}

#[test]
fn small_is_below_the_larger_of_pixels_and_share() {
    // 300 px and a speck of 2: 1 % of the mask is 3.02 px.
    let mut rows = vec!["#".repeat(30) + "..."; 10];
    rows[4].replace_range(31..33, "##");
    let mask = picture(&rows.join(" "));
    let options =
        |min_component_px, min_component_ratio| Options { min_component_px, min_component_ratio };
    let area = |options| clean(mask.clone(), &drop_small_with(&[], &[], options)).area();
    assert_eq!(area(options(0, 0.01)), 300);
    assert_eq!(area(options(3, 0.0)), 300);
    assert_eq!(area(options(2, 0.002)), 302);
    assert_eq!(area(Options::default()), 300);
}

#[test]
fn a_bay_that_opens_to_the_border_is_no_hole() {
    let mask = picture("### #.# #.#");
    assert_eq!(clean(mask.clone(), &drop_small_with(&[], &[], few_pixels(16))).area(), 0);
    assert_eq!(clean(mask.clone(), &drop_small_with(&[], &[], few_pixels(5))), mask);
    assert_eq!(holes_px(&mask), 0);
    assert_eq!(holes_px(&picture("### #.# ###")), 1);
    assert_eq!(holes_px(&picture(".#. #.# .#.")), 1, "corners close a hole off");
}

#[test]
fn the_rule_follows_the_kind_of_image() {
    let click = |x, y, label| Click { x, y, label };
    let clicks = vec![
        click(1.0, 1.0, ClickLabel::Outside),
        click(2.0, 2.0, ClickLabel::Inside),
        click(3.0, 3.0, ClickLabel::Inside),
    ];
    let size = Size { width: 9, height: 9 };
    let prompt = Prompt::new(size, clicks, None, None, 64).unwrap();
    let rule = |image_type| Clean::for_prompt(image_type, &prompt, Options::default());
    assert_eq!(rule(ImageType::L3), Clean::OneComponent { click: Some((2.0, 2.0)) });
    let drop = drop_small_with(&[(2.0, 2.0), (3.0, 3.0)], &[(1.0, 1.0)], Options::default());
    assert_eq!(rule(ImageType::Middle), drop);
    assert_eq!(rule(ImageType::Auto), drop);
}

#[test]
fn options_are_read_with_defaults_and_refuse_unknown_keys() {
    let read = |text: &str| toml::from_str::<Options>(text);
    assert_eq!(read("").unwrap(), Options { min_component_px: 16, min_component_ratio: 0.01 });
    assert_eq!(read("min_component_px = 4").unwrap().min_component_px, 4);
    assert!(read("min_component = 4").is_err());
}

proptest! {
    #[test]
    fn the_threshold_is_the_sign_of_the_bilinear_logits(
        (width, height) in (1u32..60, 1u32..60), side in 1usize..16, seed: u64,
    ) {
        let size = Size { width, height };
        let logits = logits(side, seed);
        let mask = threshold(&logits, side, size).unwrap();
        for (pixel, value) in mask.pixels().iter().zip(plain(&logits, side, size)) {
            if value.abs() > 1e-5 {
                prop_assert_eq!(*pixel == 255, value > 0.0, "logit {}", value);
            }
        }
    }

    #[test]
    fn transposed_logits_are_the_transposed_mask(
        (width, height) in (1u32..60, 1u32..60), side in 1usize..16, seed: u64,
    ) {
        let straight = logits(side, seed);
        let turned: Vec<f32> =
            (0..side * side).map(|i| straight[i % side * side + i / side]).collect();
        let mask = threshold(&straight, side, Size { width, height }).unwrap();
        let turned = threshold(&turned, side, Size { width: height, height: width }).unwrap();
        let values = plain(&straight, side, Size { width, height });
        for (index, value) in values.iter().enumerate() {
            let (x, y) = (index as u32 % width, index as u32 / width);
            if value.abs() > 1e-5 {
                prop_assert_eq!(mask.contains(x, y), turned.contains(y, x));
            }
        }
    }

    #[test]
    fn an_l3_is_one_component_of_what_there_was(
        (width, height) in (1u32..40, 1u32..40), side in 1usize..16, seed: u64,
        (x, y) in (0.0..1.0, 0.0..1.0),
    ) {
        let size = Size { width, height };
        let mask = threshold(&logits(side, seed), side, size).unwrap();
        let click = (x * f64::from(width), y * f64::from(height));
        let kept = clean(mask.clone(), &Clean::OneComponent { click: Some(click) });
        let pieces = Components::of(kept.pixels(), size, 255, Connectivity::Eight);
        prop_assert_eq!(pieces.pieces().len(), usize::from(!mask.is_empty()));
        for (kept, was) in kept.pixels().iter().zip(mask.pixels()) {
            prop_assert!(kept <= was);
        }
        if mask.contains(click.0 as u32, click.1 as u32) {
            prop_assert!(kept.contains(click.0 as u32, click.1 as u32));
        }
    }

    #[test]
    fn nothing_small_is_left_but_what_was_clicked(
        (width, height) in (1u32..40, 1u32..40), side in 1usize..16, seed: u64,
        (x, y) in (0.0..1.0, 0.0..1.0), px in 0usize..40,
    ) {
        let size = Size { width, height };
        let mask = threshold(&logits(side, seed), side, size).unwrap();
        let click = (x * f64::from(width), y * f64::from(height));
        let kept = clean(mask.clone(), &drop_small_with(&[click], &[], few_pixels(px)));
        let clicked = mask.contains(click.0 as u32, click.1 as u32);
        prop_assert!(!clicked || kept.contains(click.0 as u32, click.1 as u32));
        let pieces = Components::of(kept.pixels(), size, 255, Connectivity::Eight);
        let small = pieces.pieces().iter().filter(|piece| piece.area < px).count();
        prop_assert!(small <= usize::from(clicked));
        let holes = Components::of(kept.pixels(), size, 0, Connectivity::Four);
        prop_assert!(holes.pieces().iter().all(|hole| hole.at_border || hole.area >= px));
    }
}

/// tests/fixtures/README.md says what these files are: logits and the masks PyTorch makes of them.
#[test]
fn masks_are_those_of_pytorch() {
    let parity = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
    let mut compared = 0;
    for package in ["sam2-nano", "seeded-m1", "seeded-m3", "seeded-m4"] {
        let read = |name: &serde_json::Value| {
            std::fs::read(parity.join(package).join(name.as_str().unwrap())).unwrap()
        };
        let all: serde_json::Value =
            serde_json::from_slice(&read(&"reference.json".into())).unwrap();
        let number = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        let (width, height) = (number(&all["image"]["width"]), number(&all["image"]["height"]));
        let size = Size { width, height };
        for case in all["cases"].as_array().unwrap() {
            let side = number(&case["logits"]["shape"][1]) as usize;
            let chosen = number(&case["chosen"]) as usize;
            let logits = read(&case["logits"]["path"]);
            let logits: Vec<f32> =
                logits.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            let mask = threshold(&logits[chosen * side * side..][..side * side], side, size);
            let reference = read(&case["mask"]["path"]);
            let reference = crate::imaging::png::decode_mask(&reference, size).unwrap();
            assert!(mask.unwrap() == reference, "{package}, {}", case["name"]);
            compared += 1;
        }
    }
    assert_eq!(compared, 24);
}
