//! What to keep: masks filtered, checked for agreement, ranked by the profile.

use super::grid::{BodyGrid, cell_index};
use crate::domain::tensor::MaskLogits;
use crate::service::options::Profile;
use crate::service::rows::narrowed;

/// Two masks above this IoU are the same object.
const SAME: f64 = 0.8;

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
pub(in crate::service) struct Chooser<'a> {
    profile: &'a Profile,
    body: &'a BodyGrid,
    places: &'a [(f64, f64)],
    side: usize,
    candidates: Vec<Candidate>,
    seen: usize,
}

/// What was found.
#[derive(Debug, PartialEq)]
pub(in crate::service) struct Found {
    /// Logits [S/4, S/4]; the largest of the parts at each place.
    pub(in crate::service) logits: Vec<f32>,
    /// Calibrated; of the weakest part.
    pub(in crate::service) confidence: f64,
}

impl<'a> Chooser<'a> {
    /// `side` is S/4.
    pub(in crate::service) fn new(
        profile: &'a Profile,
        body: &'a BodyGrid,
        places: &'a [(f64, f64)],
        side: usize,
    ) -> Self {
        Self { profile, body, places, side, candidates: Vec::new(), seen: 0 }
    }

    /// Takes the masks of the next batch of places, `first_mask..M` of each.
    pub(in crate::service) fn add(&mut self, masks: &MaskLogits, first_mask: usize) {
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
    pub(in crate::service) fn choose(
        self,
        confidence: impl Fn(f32, &[f32]) -> f64,
    ) -> Option<Found> {
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
