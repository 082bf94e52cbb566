#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the pictures of these tests are small"
)]

use super::*;
use crate::imaging::components::{Components, Connectivity};
use crate::imaging::postprocess;
use proptest::prelude::*;

fn picture(text: &str) -> Mask {
    let rows: Vec<&str> = text.split_whitespace().collect();
    let size = Size { width: rows[0].len() as u32, height: rows.len() as u32 };
    let pixels = rows.concat().bytes().map(|b| if b == b'#' { 255 } else { 0 }).collect();
    Mask::new(size, pixels).unwrap()
}

fn corners(points: &[(u32, u32)]) -> Vec<Vertex> {
    points.iter().map(|&(x, y)| Vertex { x, y }).collect()
}

/// Without holes, as the union of outer rings has none.
fn filled(mask: &Mask) -> Mask {
    let holes = Components::of(mask.pixels(), mask.size(), 0, Connectivity::Four);
    mask.clone().painted(holes.runs_where(|_, hole| !hole.at_border), true)
}

/// Is one of the 3×3 pixels around (x, y) on the other side? The image's border is outside.
fn at_the_border(mask: &Mask, x: u32, y: u32) -> bool {
    let here = mask.contains(x, y);
    (-1i64..=1).flat_map(|dy| (-1i64..=1).map(move |dx| (dx, dy))).any(|(dx, dy)| {
        let (x, y) = (i64::from(x) + dx, i64::from(y) + dy);
        (x >= 0 && y >= 0 && mask.contains(x as u32, y as u32)) != here
    })
}

/// A disc of the given centre and radius in hundredths of a pixel.
fn disc(size: Size, center: (i64, i64), radius: i64) -> Mask {
    let inside = |x: i64, y: i64| {
        let (dx, dy) = (x * 100 + 50 - center.0, y * 100 + 50 - center.1);
        dx * dx + dy * dy <= radius * radius
    };
    let rows = 0..i64::from(size.height);
    let pixels = rows.flat_map(|y| (0..i64::from(size.width)).map(move |x| (x, y)));
    let pixels = pixels.map(|(x, y)| if inside(x, y) { 255 } else { 0 }).collect();
    Mask::new(size, pixels).unwrap()
}

#[test]
fn one_pixel_is_a_square_on_the_grid() {
    let mask = picture("... .#. ...");
    assert_eq!(polygons(&mask), [corners(&[(1, 1), (2, 1), (2, 2), (1, 2)])]);
    assert_eq!(rings(&mask)[0].area_px, 1);
}

#[test]
fn a_pixel_is_inside_where_its_centre_is() {
    let triangle = corners(&[(0, 0), (8, 4), (0, 4)]);
    let expected = picture("#....... ###..... #####... #######.");
    assert_eq!(rasterise(&[triangle], Size { width: 8, height: 4 }), expected);
}

#[test]
fn a_whole_image_is_its_four_corners() {
    assert_eq!(polygons(&picture("## ## ##")), [corners(&[(0, 0), (2, 0), (2, 3), (0, 3)])]);
}

#[test]
fn pixels_that_touch_at_a_corner_are_one_ring() {
    let mask = picture("#. .#");
    let rings = rings(&mask);
    assert_eq!(rings.len(), 1);
    assert_eq!(rings[0].area_px, 2);
    assert_eq!(rings[0].corners.iter().filter(|c| (c.x, c.y) == (1, 1)).count(), 2);
}

#[test]
fn a_hole_is_no_ring_and_what_lies_within_it_is_one() {
    let mask = picture("##### #...# #.#.# #...# #####");
    let areas: Vec<u64> = rings(&mask).iter().map(|ring| ring.area_px).collect();
    assert_eq!(areas, [25, 1]);
}

#[test]
fn rings_come_largest_first_and_of_equals_the_upper_left() {
    let mask = picture("#.... ..### #....");
    let first: Vec<Vertex> = rings(&mask).iter().map(|r| *r.corners.first().unwrap()).collect();
    assert_eq!(first, corners(&[(2, 1), (0, 0), (0, 2)]));
}

#[test]
fn nothing_marked_is_no_polygon() {
    assert!(polygons(&picture("... ...")).is_empty());
    assert!(rasterise(&[], Size { width: 2, height: 2 }).is_empty());
}

#[test]
fn a_disc_needs_few_corners_and_keeps_its_area() {
    let size = Size { width: 220, height: 220 };
    let mask = disc(size, (11_000, 11_000), 10_000);
    let polygon = polygons(&mask).remove(0);
    let exact = rings(&mask).remove(0).corners.len();
    assert!(polygon.len() * 4 < exact, "{} of {exact} corners left", polygon.len());
    let (area, kept) = (mask.area(), rasterise(&[polygon], size).area());
    assert!(kept.abs_diff(area) * 100 <= area * 2, "{kept} of {area} px");
}

#[test]
fn an_outline_of_67_million_pixels_is_exact() {
    let size = Size { width: 8192, height: 8192 };
    let mask = disc(size, (409_600, 409_600), 400_000);
    let ring = rings(&mask).remove(0);
    assert_eq!(ring.area_px, mask.area() as u64);
    assert_eq!(rasterise(&[ring.corners], size), mask);
}

#[test]
fn a_polygon_that_reaches_out_of_the_image_is_clipped() {
    let size = Size { width: 3, height: 3 };
    let polygon = corners(&[(1, 1), (9, 1), (9, 9), (1, 9)]);
    assert_eq!(rasterise(&[polygon], size), picture("... .## .##"));
}

#[test]
fn a_centre_on_a_slanted_edge_belongs_to_one_side_only() {
    let size = Size { width: 4, height: 4 };
    let upper = corners(&[(0, 0), (4, 0), (4, 4)]);
    let lower = corners(&[(0, 0), (4, 4), (0, 4)]);
    let (upper, lower) = (rasterise(&[upper], size), rasterise(&[lower], size));
    assert_eq!(upper.area() + lower.area(), 16);
    assert!(upper.pixels().iter().zip(lower.pixels()).all(|(a, b)| a != b));
}

#[test]
fn a_corner_beyond_the_chord_s_end_is_far_from_the_chord() {
    // On the chord's line to within half a pixel, yet 20 pixels past its end.
    let stretch = corners(&[(0, 0), (60, 1), (60, 2), (40, 1)]);
    assert_eq!(furthest(&stretch, 0.95), Some(2));
    assert_eq!(furthest(&corners(&[(0, 0), (20, 1), (40, 1)]), 0.95), None);
}

/// Blobs as the decoder makes them: few samples, interpolated.
fn blobs() -> impl Strategy<Value = Mask> {
    let samples = prop::collection::vec(-1.0f32..1.0, 36);
    (samples, 1u32..90, 1u32..90).prop_map(|(logits, width, height)| {
        postprocess::threshold(&logits, 6, Size { width, height }).unwrap()
    })
}

/// Pixels at random: every kind of corner there is.
fn noise() -> impl Strategy<Value = Mask> {
    (1u32..14, 1u32..14).prop_flat_map(|(width, height)| {
        let size = Size { width, height };
        prop::collection::vec(prop::bool::ANY.prop_map(|b| u8::from(b) * 255), size.pixels())
            .prop_map(move |pixels| Mask::new(size, pixels).unwrap())
    })
}

proptest! {
    #[test]
    fn exact_rings_rasterise_to_the_mask_with_its_holes_filled(
        mask in prop_oneof![blobs(), noise()],
    ) {
        let rings = rings(&mask);
        let exact: Vec<_> = rings.iter().map(|ring| ring.corners.clone()).collect();
        prop_assert_eq!(rasterise(&exact, mask.size()), filled(&mask));
    }

    #[test]
    fn there_is_one_ring_a_component_and_its_area_is_exact(
        mask in prop_oneof![blobs(), noise()],
    ) {
        let rings = rings(&mask);
        let components = Components::of(mask.pixels(), mask.size(), 255, Connectivity::Eight);
        prop_assert_eq!(rings.len(), components.pieces().len());
        for ring in rings {
            let alone = rasterise(std::slice::from_ref(&ring.corners), mask.size());
            prop_assert_eq!(alone.area() as u64, ring.area_px);
            prop_assert!((signed_area(&ring.corners) - alone.area() as f64).abs() < 1e-9);
            for ((a, b), c) in ring.corners.iter().zip(ring.corners.iter().cycle().skip(1))
                .zip(ring.corners.iter().cycle().skip(2))
            {
                prop_assert!((a.x == b.x) != (b.x == c.x), "every corner is a turn");
            }
        }
    }

    #[test]
    fn simplified_polygons_rasterise_to_the_mask_within_one_pixel(
        mask in prop_oneof![blobs(), noise()],
    ) {
        let filled = filled(&mask);
        let polygons = polygons(&mask);
        prop_assert_eq!(polygons.len(), rings(&mask).len(), "no component vanishes");
        prop_assert!(polygons.iter().all(|polygon| polygon.len() >= 3));
        for (polygon, ring) in polygons.iter().zip(rings(&mask)) {
            let (area, exact) = (signed_area(polygon), ring.area_px as f64);
            prop_assert!((area - exact).abs() <= MAX_AREA_CHANGE * exact, "{} for {}", area, exact);
        }
        let again = rasterise(&polygons, mask.size());
        let size = mask.size();
        for (x, y) in (0..size.height).flat_map(|y| (0..size.width).map(move |x| (x, y))) {
            if again.contains(x, y) != filled.contains(x, y) {
                prop_assert!(at_the_border(&mask, x, y), "pixel {}, {} is off the border", x, y);
            }
        }
    }

    #[test]
    fn flipped_and_transposed_masks_have_rings_of_the_same_areas(mask in blobs()) {
        let size = mask.size();
        let turned = Size { width: size.height, height: size.width };
        let areas = |mask: &Mask| {
            rings(mask).iter().map(|ring| ring.area_px).collect::<Vec<_>>()
        };
        let transposed = (0..turned.height).flat_map(|y| (0..turned.width).map(move |x| (x, y)));
        let transposed = transposed.map(|(x, y)| u8::from(mask.contains(y, x)) * 255).collect();
        let flipped = mask.pixels().iter().rev().copied().collect();
        prop_assert_eq!(areas(&Mask::new(turned, transposed).unwrap()), areas(&mask));
        prop_assert_eq!(areas(&Mask::new(size, flipped).unwrap()), areas(&mask));
    }
}
