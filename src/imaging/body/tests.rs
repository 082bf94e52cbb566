#![expect(clippy::cast_possible_truncation, reason = "the pictures of these tests are small")]

use super::*;
use proptest::prelude::*;

/// An ellipse in a picture of `size`, by pixel centres.
struct Ellipse {
    center: (f64, f64),
    half: (f64, f64),
}

impl Ellipse {
    fn holds(&self, x: u32, y: u32) -> bool {
        let dx = (f64::from(x) + 0.5 - self.center.0) / self.half.0;
        let dy = (f64::from(y) + 0.5 - self.center.1) / self.half.1;
        dx * dx + dy * dy <= 1.0
    }
}

fn painted(size: Size, level: impl Fn(u32, u32) -> u8) -> Levels {
    let pixels = (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y)));
    Levels::Grey(pixels.map(|(x, y)| level(x, y)).collect())
}

/// 0..amount, the same for the same pixel.
fn noise(x: u32, y: u32, amount: u32) -> u8 {
    ((x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(2_246_822_519)).rotate_left(13) % amount) as u8
}

/// Intersection over union with what was painted.
fn overlap(body: &Mask, truth: impl Fn(u32, u32) -> bool) -> f64 {
    let (mut both, mut either) = (0u32, 0u32);
    for (x, y) in (0..body.size().height).flat_map(|y| (0..body.size().width).map(move |x| (x, y)))
    {
        let (found, is) = (body.contains(x, y), truth(x, y));
        both += u32::from(found && is);
        either += u32::from(found || is);
    }
    f64::from(both) / f64::from(either)
}

/// A rim of one cell more or less (4 of these pixels) costs the torso 7 % and the legs 13 %.
const TORSO_OVERLAP: f64 = 0.92;
const LEGS_OVERLAP: f64 = 0.85;

const SIZE: Size = Size { width: 400, height: 300 };
const TORSO: Ellipse = Ellipse { center: (200.0, 150.0), half: (150.0, 110.0) };
const LUNG: Ellipse = Ellipse { center: (150.0, 150.0), half: (50.0, 60.0) };

#[test]
fn the_body_is_found_with_its_air_inside_and_without_the_table() {
    let levels = painted(SIZE, |x, y| {
        let table = (280..284).contains(&y) && (50..350).contains(&x);
        let tissue = TORSO.holds(x, y) && !LUNG.holds(x, y);
        if tissue {
            120 + noise(x, y, 30)
        } else if table {
            200
        } else {
            noise(x, y, 12)
        }
    });
    let body = body_mask(&levels, SIZE).unwrap();
    assert!(overlap(&body, |x, y| TORSO.holds(x, y)) > TORSO_OVERLAP);
    assert!(body.contains(150, 150), "the lung");
    assert!(!body.contains(200, 282), "the table");
}

#[test]
fn the_body_is_found_where_air_is_white() {
    // As −100..200 HU with 0 rewritten to 255 makes them: white air, white specks in a rim of fat,
    // white bone.
    let inner = Ellipse { center: (200.0, 150.0), half: (130.0, 90.0) };
    let bone = Ellipse { center: (230.0, 150.0), half: (20.0, 40.0) };
    let levels = painted(SIZE, |x, y| match () {
        () if bone.holds(x, y) => 255,
        () if inner.holds(x, y) => 130 + noise(x, y, 30),
        () if TORSO.holds(x, y) && noise(x, y, 2) == 0 => 1 + noise(x, y, 20),
        () => 255,
    });
    let body = body_mask(&levels, SIZE).unwrap();
    assert!(overlap(&body, |x, y| TORSO.holds(x, y)) > TORSO_OVERLAP);
    assert!(body.contains(230, 150), "bone");
    assert!(!body.contains(2, 2), "air");
}

/// As mid-sagittal pictures of existing editors are: air before the body alone, a little blurred by
/// JPEG, and bright tissue up to the frame on the other three sides.
#[test]
fn the_body_is_found_where_white_air_is_on_one_side_only() {
    let levels = painted(SIZE, |x, y| match x {
        0..100 => 251 + noise(x, y, 5),
        _ => 195 + noise(x, y, 40),
    });
    let body = body_mask(&levels, SIZE).unwrap();
    assert!(overlap(&body, |x, _| x >= 100) > TORSO_OVERLAP);
    assert!(!body.contains(50, 150), "air");
}

#[test]
fn two_legs_are_both_body() {
    let leg = |x: f64| Ellipse { center: (x, 150.0), half: (60.0, 70.0) };
    let (left, right) = (leg(110.0), leg(290.0));
    let inside = |x, y| left.holds(x, y) || right.holds(x, y);
    let levels = painted(SIZE, |x, y| if inside(x, y) { 140 } else { noise(x, y, 8) });
    assert!(overlap(&body_mask(&levels, SIZE).unwrap(), inside) > LEGS_OVERLAP);
}

#[test]
fn a_smaller_leg_is_body_too() {
    let leg = |x: f64, share: f64| Ellipse { center: (x, 150.0), half: (60.0, 80.0 * share) };
    let (left, right) = (leg(110.0, 1.0), leg(290.0, 0.6));
    let inside = |x, y| left.holds(x, y) || right.holds(x, y);
    let levels = painted(SIZE, |x, y| if inside(x, y) { 140 } else { noise(x, y, 8) });
    assert!(overlap(&body_mask(&levels, SIZE).unwrap(), inside) > LEGS_OVERLAP);
}

#[test]
fn bright_tissue_at_the_frame_is_not_taken_for_air_while_more_of_it_is_black() {
    let inside = |x: u32, y: u32| x < 120 && (60..260).contains(&y);
    let levels = painted(SIZE, |x, y| if inside(x, y) { 255 } else { 0 });
    assert!(overlap(&body_mask(&levels, SIZE).unwrap(), inside) > TORSO_OVERLAP);
}

#[test]
fn muscle_that_no_fat_encloses_is_body_beside_fat_that_outshines_it() {
    let levels = painted(SIZE, |x, y| match () {
        () if TORSO.holds(x, y) && y >= 110 => 60 + noise(x, y, 10),
        () if TORSO.holds(x, y) => 230 + noise(x, y, 15),
        () => noise(x, y, 10),
    });
    assert!(overlap(&body_mask(&levels, SIZE).unwrap(), |x, y| TORSO.holds(x, y)) > TORSO_OVERLAP);
}

#[test]
fn muscle_much_darker_than_fat_is_still_body() {
    let muscle = Ellipse { center: (200.0, 150.0), half: (120.0, 80.0) };
    let levels = painted(SIZE, |x, y| match () {
        () if muscle.holds(x, y) => 60 + noise(x, y, 10),
        () if TORSO.holds(x, y) => 230 + noise(x, y, 15),
        () => noise(x, y, 10),
    });
    // Air (with noise) to 5 on the frame: not white.
    assert!(overlap(&body_mask(&levels, SIZE).unwrap(), |x, y| TORSO.holds(x, y)) > TORSO_OVERLAP);
}

#[test]
fn fat_far_darker_than_muscle_stays_with_the_body() {
    let muscle = Ellipse { center: (200.0, 150.0), half: (130.0, 90.0) };
    // Air gets brighter to the right, as with a surface coil: no sharp second split lies below.
    let air = |x: u32| (if x < 40 { 4 } else { x / 8 }) as u8;
    let levels = painted(SIZE, |x, y| match () {
        () if muscle.holds(x, y) => 220,
        () if TORSO.holds(x, y) => 75,
        () => air(x),
    });
    let body = body_mask(&levels, SIZE).unwrap();
    assert!(body.contains(60, 150) && body.contains(340, 150), "fat");
    assert!(overlap(&body, |x, y| TORSO.holds(x, y)) > TORSO_OVERLAP);
}

#[test]
fn an_organ_behind_a_thin_dark_wall_stays_with_the_body() {
    let organ = Ellipse { center: (378.0, 150.0), half: (20.0, 40.0) };
    // One cell of these pictures is 4 pixels; the wall is 8 wide where it is thinnest.
    let levels = painted(SIZE, |x, y| match () {
        () if TORSO.holds(x, y) || organ.holds(x, y) => 140,
        () => noise(x, y, 8),
    });
    let body = body_mask(&levels, SIZE).unwrap();
    assert!(body.contains(378, 150), "less than a third of the torso, and yet no table");
}

#[test]
fn colour_is_judged_by_its_brightness() {
    let Levels::Grey(grey) = painted(SIZE, |x, y| if TORSO.holds(x, y) { 140 } else { 3 }) else {
        unreachable!("painted gives grey")
    };
    let rgb = Levels::Rgb(grey.iter().flat_map(|&level| [level; 3]).collect());
    let grey = body_mask(&Levels::Grey(grey), SIZE).unwrap();
    assert!(overlap(&grey, |x, y| TORSO.holds(x, y)) > TORSO_OVERLAP);
    assert_eq!(body_mask(&rgb, SIZE).unwrap(), grey);
}

#[test]
fn a_picture_of_one_level_has_no_body() {
    for level in [0, 100, 255] {
        let body = body_mask(&painted(SIZE, |_, _| level), SIZE).unwrap();
        assert!(body.is_empty(), "level {level}");
    }
}

#[test]
fn levels_of_another_size_are_no_body() {
    assert!(body_mask(&Levels::Grey(vec![0; 7]), Size { width: 4, height: 2 }).is_none());
    assert!(body_mask(&Levels::Rgb(vec![0; 8]), Size { width: 4, height: 2 }).is_none());
    assert!(body_mask(&Levels::Grey(vec![]), Size { width: 0, height: 0 }).is_none());
}

proptest! {
    #[test]
    fn any_size_and_any_levels_give_a_mask_of_that_size(
        (width, height) in prop_oneof![(1u32..40, 1u32..40), (1u32..3, 1u32..700), (120u32..270, 1u32..40)],
        seed: u32,
    ) {
        let size = Size { width, height };
        let levels = painted(size, |x, y| noise(x ^ seed, y, 256));
        prop_assert_eq!(body_mask(&levels, size).unwrap().size(), size);
    }
}
