//! One click without a prompt: the daemon finds the object itself.
//!
//! A grid of single-click prompts over the body region is decoded in batches; the masks that come
//! back are filtered by predicted IoU, stability and size, checked for agreement (how many of the
//! prompts inside a mask give it again), and ranked by the profile of the context. The body region
//! comes from intensities, not from the model.
//!
//! Invariants:
//! 1. Deterministic: the same embedding, body and profile give the same choice.
//! 2. At most `profile.prompts` prompts, in batches of at most [`BATCH`], so that a click on
//!    another image waits for one batch at most.
//! 3. Where nothing passes the filters there is no choice: an honest nothing beats a guess.

use super::options::Profile;
use super::rows::narrowed;
use crate::domain::tensor::MaskLogits;

/// Prompts per decoder call.
pub(super) const BATCH: usize = 8;

/// Two masks above this IoU are the same object.
const SAME: f64 = 0.8;

/// Which part of a square picture is body, on a coarse grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BodyGrid {
    /// Row by row, [`BodyGrid::SIDE`] × [`BodyGrid::SIDE`] cells.
    cells: Vec<bool>,
}

impl BodyGrid {
    /// Cells per side: fine enough to place 64 prompts.
    pub(super) const SIDE: usize = 64;

    /// From cells, or `None` if there are not `SIDE²` of them.
    pub(super) fn new(cells: Vec<bool>) -> Option<Self> {
        (cells.len() == Self::SIDE * Self::SIDE).then_some(Self { cells })
    }

    /// No body anywhere.
    pub(super) fn nothing() -> Self {
        Self { cells: vec![false; Self::SIDE * Self::SIDE] }
    }

    pub(super) fn cells(&self) -> &[bool] {
        &self.cells
    }

    fn contains(&self, x: f64, y: f64) -> bool {
        let cell = |v: f64| cell_index(v, Self::SIDE);
        self.cells.get(cell(y) * Self::SIDE + cell(x)).copied().unwrap_or(false)
    }

    /// Left, top, right, bottom as shares of the picture; `None` when nothing is body.
    fn bounds(&self) -> Option<[f64; 4]> {
        let places = self.cells.iter().enumerate().filter(|(_, body)| **body);
        let (mut x0, mut y0, mut x1, mut y1) = (usize::MAX, usize::MAX, 0, 0);
        for (index, _) in places {
            let (x, y) = (index % Self::SIDE, index / Self::SIDE);
            (x0, y0, x1, y1) = (x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1));
        }
        let share = |v: usize| v as f64 / Self::SIDE as f64;
        (x0 != usize::MAX).then(|| [share(x0), share(y0), share(x1), share(y1)])
    }

    /// Share of the picture that is body.
    fn area(&self) -> f64 {
        self.cells.iter().filter(|body| **body).count() as f64 / self.cells.len() as f64
    }
}

/// Index of the cell of 0..`side` in which the share `v` of the picture lies.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..side before the cast"
)]
fn cell_index(v: f64, side: usize) -> usize {
    (v * side as f64).floor().clamp(0.0, (side - 1) as f64) as usize
}

/// Places of the prompts, as shares of the picture: the densest regular grid over the profile's
/// region of the body with at most `profile.prompts` points inside the body.
pub(super) fn places(body: &BodyGrid, profile: &Profile) -> Vec<(f64, f64)> {
    let Some([x0, y0, x1, y1]) = body.bounds() else { return Vec::new() };
    let [left, top, right, bottom] = profile.region;
    let (width, height) = (x1 - x0, y1 - y0);
    let limit = profile.prompts.clamp(1, 64);
    let grid = |side: usize| -> Vec<(f64, f64)> {
        let step =
            |low: f64, high: f64, i: usize| low + (high - low) * (i as f64 + 0.5) / side as f64;
        (0..side * side)
            .map(|i| {
                (
                    x0 + width * step(left, right, i % side),
                    y0 + height * step(top, bottom, i / side),
                )
            })
            .filter(|&(x, y)| body.contains(x, y))
            .collect()
    };
    (1..=16).rev().map(grid).find(|points| points.len() <= limit).unwrap_or_default()
}

/// A mask that passed the filters.
struct Candidate {
    prompt: usize,
    logits: Vec<f32>,
    inside: Vec<bool>,
    area: usize,
    iou: f64,
    stability: f64,
    /// Centre of mass, as shares of the picture.
    center: (f64, f64),
}

/// Gathers masks batch by batch and chooses at the end.
pub(super) struct Chooser<'a> {
    profile: &'a Profile,
    body: &'a BodyGrid,
    places: &'a [(f64, f64)],
    side: usize,
    candidates: Vec<Candidate>,
    seen: usize,
}

/// What was found.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    /// Logits [S/4, S/4]; the largest of the parts at each place.
    pub(super) logits: Vec<f32>,
    /// Calibrated; of the weakest part.
    pub(super) confidence: f64,
}

impl<'a> Chooser<'a> {
    /// `side` is S/4.
    pub(super) fn new(
        profile: &'a Profile,
        body: &'a BodyGrid,
        places: &'a [(f64, f64)],
        side: usize,
    ) -> Self {
        Self { profile, body, places, side, candidates: Vec::new(), seen: 0 }
    }

    /// Takes the masks of the next batch of places, `first_mask..M` of each.
    pub(super) fn add(&mut self, masks: &MaskLogits, first_mask: usize) {
        for prompt in 0..masks.batch {
            for mask in first_mask..masks.masks {
                let (Some(logits), Some(iou)) = (masks.mask(prompt, mask), masks.iou(prompt, mask))
                else {
                    continue;
                };
                let candidate = self.candidate(self.seen + prompt, logits, f64::from(iou));
                self.candidates.extend(candidate);
            }
        }
        self.seen += masks.batch;
    }

    fn candidate(&self, prompt: usize, logits: &[f32], iou: f64) -> Option<Candidate> {
        let &(x, y) = self.places.get(prompt)?;
        let inside: Vec<bool> = logits.iter().map(|&l| l > 0.0).collect();
        let count = |threshold: f32| logits.iter().filter(|&&l| l > threshold).count();
        let area = count(0.0);
        let delta = narrowed(self.profile.stability_delta);
        let stability = count(delta) as f64 / count(-delta).max(1) as f64;
        let share = area as f64 / inside.len() as f64 / self.body.area().max(f64::MIN_POSITIVE);
        let hit = inside
            .get(cell_index(y, self.side) * self.side + cell_index(x, self.side))
            .copied()
            .unwrap_or(false);
        let profile = self.profile;
        let passes = hit
            && iou >= profile.min_iou
            && stability >= profile.min_stability
            && (profile.min_area..=profile.max_area).contains(&share);
        passes.then(|| Candidate {
            prompt,
            logits: logits.to_vec(),
            center: center(&inside, self.side),
            inside,
            area,
            iou,
            stability,
        })
    }

    /// The best mask, or the union of the best few that don't overlap; `None` when nothing passed.
    /// `confidence` judges a part by its predicted IoU and its logits.
    pub(super) fn choose(self, confidence: impl Fn(f32, &[f32]) -> f64) -> Option<Found> {
        let bounds = self.body.bounds()?;
        let mut ranked: Vec<(f64, &Candidate)> = self
            .candidates
            .iter()
            .filter_map(|candidate| {
                let agreement = self.agreement(candidate);
                (agreement >= self.profile.min_agreement)
                    .then(|| (self.rank(candidate, agreement, bounds), candidate))
            })
            .collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut parts: Vec<&Candidate> = Vec::new();
        let best = ranked.first()?.0;
        for (rank, candidate) in ranked {
            // A second part must be nearly as good as the first, or it is not its counterpart.
            if parts.len() >= self.profile.parts.max(1) || rank < best * 0.5 {
                break;
            }
            if parts.iter().all(|part| overlap(part, candidate) == 0) {
                parts.push(candidate);
            }
        }
        let mut logits = vec![f32::NEG_INFINITY; self.side * self.side];
        for part in &parts {
            for (out, &logit) in logits.iter_mut().zip(&part.logits) {
                *out = out.max(logit);
            }
        }
        let of_part = |part: &&Candidate| confidence(narrowed(part.iou), &part.logits);
        let confidence = parts.iter().map(of_part).fold(f64::INFINITY, f64::min);
        Some(Found { logits, confidence })
    }

    /// Share of the prompts inside the mask that gave the same mask again.
    fn agreement(&self, candidate: &Candidate) -> f64 {
        let within = |&(x, y): &(f64, f64)| {
            let index = cell_index(y, self.side) * self.side + cell_index(x, self.side);
            candidate.inside.get(index).copied().unwrap_or(false)
        };
        let prompts: Vec<usize> =
            (0..).zip(self.places).filter(|(_, place)| within(place)).map(|(i, _)| i).collect();
        let again = prompts.iter().filter(|&&prompt| {
            self.candidates
                .iter()
                .any(|other| other.prompt == prompt && iou(other, candidate) >= SAME)
        });
        again.count() as f64 / prompts.len().max(1) as f64
    }

    fn rank(&self, candidate: &Candidate, agreement: f64, [x0, y0, x1, y1]: [f64; 4]) -> f64 {
        let profile = self.profile;
        let share = candidate.area as f64
            / (self.side * self.side) as f64
            / self.body.area().max(f64::MIN_POSITIVE);
        let size = ((share / profile.typical_area).ln() / profile.area_spread).powi(2);
        let (x, y) = candidate.center;
        let [cx, cy] = profile.center;
        let off = ((x - x0) / (x1 - x0) - cx).hypot((y - y0) / (y1 - y0) - cy);
        let place = (off / profile.center_spread).powi(2);
        candidate.iou
            * candidate.stability
            * (0.4 + 0.6 * agreement)
            * (0.3 + 0.7 * (-0.5 * size).exp())
            * (-0.5 * place).exp()
    }
}

fn center(inside: &[bool], side: usize) -> (f64, f64) {
    let (mut x, mut y, mut n) = (0.0, 0.0, 0.0_f64);
    for (index, _) in inside.iter().enumerate().filter(|(_, inside)| **inside) {
        x += (index % side) as f64 + 0.5;
        y += (index / side) as f64 + 0.5;
        n += 1.0;
    }
    let scale = n.max(1.0) * side as f64;
    (x / scale, y / scale)
}

fn overlap(a: &Candidate, b: &Candidate) -> usize {
    a.inside.iter().zip(&b.inside).filter(|(a, b)| **a && **b).count()
}

fn iou(a: &Candidate, b: &Candidate) -> f64 {
    let both = overlap(a, b);
    both as f64 / (a.area + b.area - both).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
