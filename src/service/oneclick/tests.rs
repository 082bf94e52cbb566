//! The grid and the choice, asked of decoders whose masks are known.

use super::*;
use crate::domain::tensor::MaskLogits;
use crate::service::options::Profile;

fn body() -> BodyGrid {
    let side = BodyGrid::SIDE;
    let inside = |i: &usize| (8..56).contains(&(i % side)) && (16..48).contains(&(i / side));
    BodyGrid::new((0..side * side).map(|i| inside(&i)).collect()).unwrap()
}

/// A decoder that knows two squares and says "nothing" elsewhere.
fn squares(places: &[(f64, f64)], side: usize, iou: f32) -> MaskLogits {
    let square = |x: f64, y: f64| -> Option<(f64, f64)> {
        let within = |v: f64, c: f64| (v - c).abs() < 0.1;
        [(0.3, 0.5), (0.7, 0.5)].into_iter().find(|&(cx, cy)| within(x, cx) && within(y, cy))
    };
    let mut logits = Vec::new();
    for &(x, y) in places {
        let target = square(x, y);
        for index in 0..side * side {
            let at = |v: usize| (v as f64 + 0.5) / side as f64;
            let here = square(at(index % side), at(index / side));
            logits.push(if target.is_some() && here == target { 8.0 } else { -8.0 });
        }
    }
    MaskLogits {
        batch: places.len(),
        masks: 1,
        side,
        logits,
        iou_predictions: vec![iou; places.len()],
        object_score_logits: None,
    }
}

fn found(profile: &Profile, iou: f32) -> Option<Found> {
    let body = body();
    let places = places(&body, profile);
    let mut chooser = Chooser::new(profile, &body, &places, 64);
    for chunk in places.chunks(BATCH) {
        chooser.add(&squares(chunk, 64, iou), 0);
    }
    chooser.choose(|iou, _| f64::from(iou))
}

#[test]
fn prompts_lie_in_the_body_and_are_never_more_than_allowed() {
    for prompts in [1, 7, 64] {
        let profile = Profile { prompts, ..Profile::default() };
        let body = body();
        let places = places(&body, &profile);
        assert!(!places.is_empty() && places.len() <= prompts);
        assert!(places.iter().all(|&(x, y)| body.contains(x, y)));
    }
}

#[test]
fn one_part_is_one_square_and_two_parts_are_both() {
    let area = |found: &Found| found.logits.iter().filter(|&&l| l > 0.0).count();
    let one = found(&Profile::default(), 0.9).unwrap();
    let two = found(&Profile { parts: 2, ..Profile::default() }, 0.9).unwrap();
    assert_eq!(area(&two), 2 * area(&one));
    assert!((one.confidence - 0.9).abs() < 1e-6);
}

/// What the decoder says after `change`, with a profile.
fn changed(profile: &Profile, change: impl Fn(usize, &mut [f32])) -> Option<Found> {
    let body = body();
    let places = places(&body, profile);
    let mut masks = squares(&places, 64, 0.9);
    masks.logits.chunks_mut(64 * 64).enumerate().for_each(|(i, plane)| change(i, plane));
    let mut chooser = Chooser::new(profile, &body, &places, 64);
    chooser.add(&masks, 0);
    chooser.choose(|iou, _| f64::from(iou))
}

#[test]
fn a_mask_that_its_other_prompts_do_not_repeat_is_dropped() {
    // Only the first prompt that finds a square keeps it.
    let alone = |profile: &Profile| {
        let first = std::cell::Cell::new(None);
        changed(profile, |prompt, plane| {
            let found = plane.iter().any(|&logit| logit > 0.0);
            if found && first.get().is_none() {
                first.set(Some(prompt));
            } else {
                plane.fill(-8.0);
            }
        })
    };
    assert_eq!(alone(&Profile::default()), None);
    assert!(alone(&Profile { min_agreement: 0.0, ..Profile::default() }).is_some());
}

#[test]
fn undecided_masks_are_dropped() {
    let soft = |_: usize, plane: &mut [f32]| {
        plane.iter_mut().filter(|logit| **logit < 0.0).for_each(|logit| *logit = -0.1);
    };
    assert_eq!(changed(&Profile::default(), soft), None);
    assert!(changed(&Profile::default(), |_, _| ()).is_some());
}

#[test]
fn a_mask_beside_its_own_prompt_is_dropped() {
    let beside = |_: usize, plane: &mut [f32]| plane.reverse();
    // Mirrored, each square lies where the other's prompts are.
    assert_eq!(changed(&Profile::default(), beside), None);
    let alone = Profile { min_agreement: 0.0, ..Profile::default() };
    assert_eq!(changed(&alone, beside), None, "even where nobody has to agree");
}

#[test]
fn of_equal_masks_the_one_at_the_place_looked_for_is_chosen() {
    for (center, side) in [([0.15, 0.5], 0), ([0.85, 0.5], 1)] {
        let found = found(&Profile { center, ..Profile::default() }, 0.9).unwrap();
        let marked = |half: usize| {
            let inside = |i: &usize| (i % 64 >= 32) == (half == 1);
            (0..64 * 64).filter(|i| inside(i) && found.logits[*i] > 0.0).count()
        };
        assert!(marked(side) > 0 && marked(1 - side) == 0, "{center:?}");
    }
}

#[test]
fn where_nothing_passes_there_is_no_mask() {
    assert_eq!(found(&Profile::default(), 0.3), None);
    assert_eq!(found(&Profile { min_area: 0.5, ..Profile::default() }, 0.9), None);
    let blank = BodyGrid::nothing();
    assert!(places(&blank, &Profile::default()).is_empty());
}

/// A square of the picture that a decoder knows, with what it says of it.
#[derive(Clone, Copy)]
struct Known {
    /// Centre and half a side, as shares of the picture.
    x: f64,
    y: f64,
    half: f64,
    iou: f32,
    /// Logit inside, on a rim of one cell within the square, and outside.
    inside: f32,
    rim: f32,
    /// Prompts left of its middle get nothing.
    deaf: bool,
}

const KNOWN: Known =
    Known { x: 0.5, y: 0.5, half: 0.1, iou: 0.9, inside: 8.0, rim: 8.0, deaf: false };

impl Known {
    fn off(&self, x: f64, y: f64) -> f64 {
        (x - self.x).abs().max((y - self.y).abs())
    }

    fn hears(&self, x: f64, y: f64) -> bool {
        self.off(x, y) < self.half && (!self.deaf || x >= self.x)
    }

    fn plane(&self, side: usize) -> Vec<f32> {
        let at = |v: usize| (v as f64 + 0.5) / side as f64;
        let rim = self.half - 1.0 / side as f64;
        (0..side * side)
            .map(|i| match self.off(at(i % side), at(i / side)) {
                off if off >= self.half => -8.0,
                off if off >= rim => self.rim,
                _ => self.inside,
            })
            .collect()
    }
}

/// One mask a prompt: the first of `known` that the prompt lies in, or nothing. In batches, as the
/// daemon asks.
fn asked(profile: &Profile, known: &[Known]) -> Option<Found> {
    let (body, side) = (body(), 64);
    let places = places(&body, profile);
    let mut chooser = Chooser::new(profile, &body, &places, side);
    for chunk in places.chunks(BATCH) {
        let hits: Vec<_> =
            chunk.iter().map(|&(x, y)| known.iter().find(|known| known.hears(x, y))).collect();
        let plane = |hit: &Option<&Known>| {
            hit.map_or_else(|| vec![-8.0; side * side], |known| known.plane(side))
        };
        let iou_predictions = hits.iter().map(|hit| hit.map_or(0.9, |known| known.iou)).collect();
        let masks = MaskLogits {
            batch: chunk.len(),
            masks: 1,
            side,
            logits: hits.iter().flat_map(plane).collect(),
            iou_predictions,
            object_score_logits: None,
        };
        chooser.add(&masks, 0);
    }
    chooser.choose(|iou, _| f64::from(iou))
}

/// A profile that prefers nothing, so that one preference at a time can be asked for.
fn indifferent() -> Profile {
    Profile {
        area_spread: 1e3,
        center_spread: 1e3,
        min_stability: 0.5,
        min_agreement: 0.2,
        ..Profile::default()
    }
}

fn covers(found: &Found, known: &Known) -> bool {
    let plane = known.plane(64);
    plane.iter().zip(&found.logits).all(|(own, found)| *own <= 0.0 || *found > 0.0)
}

#[test]
fn the_densest_grid_that_is_allowed_is_asked_from_the_middle_of_its_cells() {
    let side = BodyGrid::SIDE;
    let whole = BodyGrid::new(vec![true; side * side]).unwrap();
    let of = |prompts| places(&whole, &Profile { prompts, ..Profile::default() });
    assert_eq!([64, 63, 4, 3].map(|prompts| of(prompts).len()), [64, 49, 4, 1]);
    assert_eq!(of(4), [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]);
    assert_eq!(of(1000).len(), 64, "whatever a profile says");
    assert!(BodyGrid::new(vec![true; 3]).is_none());
}

#[test]
fn prompts_keep_to_the_region_of_the_body_that_the_profile_names() {
    let region = [0.5, 0.0, 1.0, 0.25];
    let places = places(&body(), &Profile { region, ..Profile::default() });
    // The body is 8/64 to 56/64 wide and 16/64 to 48/64 high.
    let within = |&(x, y): &(f64, f64)| (0.5..0.875).contains(&x) && (0.25..0.375).contains(&y);
    assert!(places.len() > 40 && places.iter().all(within), "{places:?}");
}

#[test]
fn no_prompt_lies_between_two_legs() {
    let side = BodyGrid::SIDE;
    let leg = |i: usize| !(20..44).contains(&(i % side));
    let legs = BodyGrid::new((0..side * side).map(leg).collect()).unwrap();
    let places = places(&legs, &Profile::default());
    assert!(places.len() > 40, "{}", places.len());
    assert!(places.iter().all(|&(x, _)| !(20.0..44.0).contains(&(x * side as f64))), "{places:?}");
}

#[test]
fn a_prompt_that_gives_another_mask_agrees_to_none() {
    let inner = Known { half: 0.06, iou: 0.7, ..KNOWN };
    let outer = Known { half: 0.16, iou: 0.95, ..KNOWN };
    // The outer one is better in all but what the prompts in its middle say.
    let strict = Profile { min_agreement: 0.95, ..indifferent() };
    let found = asked(&strict, &[inner, outer]).unwrap();
    assert!(covers(&found, &inner) && !covers(&found, &outer));
    assert!(covers(&asked(&indifferent(), &[inner, outer]).unwrap(), &outer));
}

#[test]
fn a_second_part_must_be_nearly_as_good_as_the_first() {
    let known =
        |second| [Known { x: 0.3, iou: 0.9, ..KNOWN }, Known { x: 0.7, iou: second, ..KNOWN }];
    let two = Profile { parts: 2, min_iou: 0.2, ..indifferent() };
    for (second, both) in [(0.89, true), (0.5, true), (0.4, false)] {
        let known = known(second);
        let found = asked(&two, &known).unwrap();
        assert!(covers(&found, &known[0]));
        assert_eq!(covers(&found, &known[1]), both, "{second}");
        // As sure as its weakest part.
        let least = if both { second } else { 0.9 };
        assert!((found.confidence - f64::from(least)).abs() < 1e-6, "{second}");
    }
    let [left, right] = known(0.8);
    let third = [left, right, Known { iou: 0.7, ..KNOWN }];
    let found = asked(&two, &third).unwrap();
    assert!(!covers(&found, &third[2]), "no more parts than the profile says");
}

#[test]
fn masks_that_overlap_are_never_united() {
    let known = [Known { x: 0.45, ..KNOWN }, Known { x: 0.58, iou: 0.8, ..KNOWN }];
    let two = Profile { parts: 2, ..indifferent() };
    let found = asked(&two, &known).unwrap();
    assert!(covers(&found, &known[0]) && !covers(&found, &known[1]));
}

#[test]
fn of_two_masks_the_better_in_any_one_respect_is_chosen() {
    let sized = Profile { area_spread: 0.3, typical_area: 0.1, ..indifferent() };
    let cases = [
        ("predicted IoU", indifferent(), Known { iou: 0.8, ..KNOWN }),
        ("stability", indifferent(), Known { rim: 0.1, ..KNOWN }),
        ("size", sized, Known { half: 0.16, iou: 0.95, ..KNOWN }),
        ("agreement", indifferent(), Known { deaf: true, ..KNOWN }),
    ];
    for (what, profile, worse) in cases {
        // On either side, so that none wins for coming first.
        for (x, other) in [(0.3, 0.7), (0.7, 0.3)] {
            let better = Known { x, ..KNOWN };
            let worse = Known { x: other, ..worse };
            let found = asked(&profile, &[worse, better]).unwrap();
            assert!(covers(&found, &better), "{what} at {x}");
            assert!(asked(&profile, &[worse]).is_some(), "{what}: alone it would do");
        }
    }
}

#[test]
fn areas_are_shares_of_the_body() {
    // So many cells of a body of 48 × 32.
    let cells = KNOWN.plane(64).iter().filter(|logit| **logit > 0.0).count();
    let share = cells as f64 / (48.0 * 32.0);
    let with = |min_area, max_area| {
        asked(&Profile { min_area, max_area, ..indifferent() }, &[KNOWN]).is_some()
    };
    assert!(with(share - 0.001, share + 0.001));
    assert!(!with(share + 0.001, 1.0) && !with(0.0, share - 0.001));
}

#[test]
fn masks_before_the_first_that_counts_are_left_alone() {
    let (body, profile) = (body(), indifferent());
    let places = places(&body, &profile);
    let found = |first_mask| {
        let planes = |_: &(f64, f64)| [KNOWN.plane(64), vec![-8.0; 64 * 64]].concat();
        let masks = MaskLogits {
            batch: places.len(),
            masks: 2,
            side: 64,
            logits: places.iter().flat_map(planes).collect(),
            iou_predictions: vec![0.9; 2 * places.len()],
            object_score_logits: None,
        };
        let mut chooser = Chooser::new(&profile, &body, &places, 64);
        chooser.add(&masks, first_mask);
        chooser.choose(|iou, _| f64::from(iou)).is_some()
    };
    assert!(found(0) && !found(1));
}
