//! What an engine's own judgement of a mask has meant: score → confidence.
//!
//! The score is the predicted IoU times the mask's stability; the curves are fitted on people whose
//! masks are known (`engines/train/calibrate.py`). There are two, because the same score means more
//! after a box or a correction than after one click, where the object itself may be the wrong one.
//!
//! Invariants, checked by [`Calibration::problem`]: knots rise, confidences stay within 0..=1.
//! The Python side states the same in `engines/export/selection.py`; the parity references hold
//! the two together.

use crate::engine::select::{PromptKind, SAM2_STABILITY_DELTA, stability};
use serde::Deserialize;

/// Widest band of undecided logits: beyond it sigmoid leaves nothing undecided.
const MAX_STABILITY_DELTA: f32 = 8.0;

/// `[calibration]` of a manifest.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Half the width of the band around 0 that stability counts as undecided.
    #[serde(default = "default_delta")]
    stability_delta: f32,
    /// Of a box, several clicks, a mask to refine; of one click too where `click` is absent.
    x: Vec<f64>,
    y: Vec<f64>,
    /// Of one click.
    click: Option<Curve>,
}

/// Piecewise linear, monotone.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Curve {
    x: Vec<f64>,
    y: Vec<f64>,
}

fn default_delta() -> f32 {
    SAM2_STABILITY_DELTA
}

impl Calibration {
    /// The confidence, 0..=1, of the mask that is above 0 in `logits` and whose IoU the engine
    /// predicts as `iou`.
    #[must_use]
    pub fn confidence(&self, kind: PromptKind, iou: f32, logits: &[f32]) -> f64 {
        let score = f64::from(iou.clamp(0.0, 1.0) * stability(logits, self.stability_delta));
        match (&self.click, kind) {
            (Some(Curve { x, y }), PromptKind::Ambiguous) => on_curve(x, y, score),
            _ => on_curve(&self.x, &self.y, score),
        }
    }

    /// What is wrong with it, in words that begin with the key.
    pub(super) fn problem(&self) -> Option<String> {
        let delta = self.stability_delta;
        if !(0.0..=MAX_STABILITY_DELTA).contains(&delta) {
            return Some(format!("stability_delta = {delta}: 0 to {MAX_STABILITY_DELTA}"));
        }
        let of_click = self.click.as_ref().and_then(|Curve { x, y }| fault(x, y));
        fault(&self.x, &self.y).map(str::to_owned).or(of_click.map(|what| format!("click: {what}")))
    }
}

/// Flat beyond the outer knots.
fn on_curve(x: &[f64], y: &[f64], score: f64) -> f64 {
    let knots = || x.iter().copied().zip(y.iter().copied());
    let (Some(first), Some(last)) = (knots().next(), knots().next_back()) else { return 0.0 };
    if score <= first.0 || score.is_nan() {
        return first.1;
    }
    knots()
        .zip(knots().skip(1))
        .find(|((_, _), (right, _))| score <= *right)
        .map_or(last.1, |((x0, y0), (x1, y1))| y0 + (y1 - y0) * (score - x0) / (x1 - x0))
}

fn fault(x: &[f64], y: &[f64]) -> Option<&'static str> {
    let rising = x.iter().zip(x.iter().skip(1)).all(|(a, b)| a < b);
    let monotone = y.iter().zip(y.iter().skip(1)).all(|(a, b)| a <= b);
    if x.len() < 2 || x.len() != y.len() {
        Some("x and y need the same number of knots, at least two")
    } else if !rising || !x.iter().all(|x| x.is_finite()) {
        Some("x must rise strictly")
    } else if !monotone || !y.iter().all(|y| (0.0..=1.0).contains(y)) {
        Some("y must rise within 0..1")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pixels above the band, one within it: stability 0.75 at a delta of 0.5, 1 at 0.1.
    const LOGITS: [f32; 5] = [3.0, 3.0, 3.0, 0.3, -3.0];

    fn curve() -> Calibration {
        Calibration {
            stability_delta: 0.1,
            x: vec![0.2, 0.6, 0.8],
            y: vec![0.1, 0.5, 0.9],
            click: None,
        }
    }

    fn near(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
    }

    #[test]
    fn calibration_is_linear_between_knots_and_flat_beyond() {
        let known =
            [(0.0, 0.1), (0.2, 0.1), (0.4, 0.3), (0.7, 0.7), (0.8, 0.9), (1.0, 0.9), (1.7, 0.9)];
        for (iou, expected) in known {
            near(curve().confidence(PromptKind::Definite, iou, &LOGITS), expected);
        }
        near(curve().confidence(PromptKind::Definite, f32::NAN, &LOGITS), 0.1);
    }

    #[test]
    fn the_score_is_the_predicted_iou_times_the_stability_at_the_delta_of_the_package() {
        let wide = Calibration { stability_delta: 0.5, ..curve() };
        near(wide.confidence(PromptKind::Definite, 0.8, &LOGITS), 0.5);
        near(curve().confidence(PromptKind::Definite, 0.8, &LOGITS), 0.9);
    }

    #[test]
    fn one_click_has_its_own_curve_and_where_it_has_none_the_common_one() {
        let own = Curve { x: vec![0.0, 1.0], y: vec![0.0, 0.5] };
        let two = Calibration { click: Some(own), ..curve() };
        near(two.confidence(PromptKind::Ambiguous, 0.8, &LOGITS), 0.4);
        near(two.confidence(PromptKind::Definite, 0.8, &LOGITS), 0.9);
        near(curve().confidence(PromptKind::Ambiguous, 0.8, &LOGITS), 0.9);
    }

    #[test]
    fn what_is_wrong_with_either_curve_or_the_band_is_named() {
        let falling = Curve { x: vec![0.0, 1.0], y: vec![0.5, 0.0] };
        let problem = Calibration { click: Some(falling), ..curve() }.problem();
        assert_eq!(problem.as_deref(), Some("click: y must rise within 0..1"));
        for delta in [-0.1, 9.0, f32::NAN] {
            let problem = Calibration { stability_delta: delta, ..curve() }.problem();
            assert!(problem.is_some_and(|text| text.starts_with("stability_delta = ")), "{delta}");
        }
        assert_eq!(curve().problem(), None);
    }
}
