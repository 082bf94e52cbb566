//! Which of a prompt's M masks is the answer. A package's manifest names the rule.
//!
//! M = 1: that one. M = 3: the best predicted IoU. M = 4, where mask 0 is SAM2's single mask and
//! 1..=3 its multimask output:
//! - [`Selection::Sam2`]: one click or no prompt at all is ambiguous, so the best of 1..=3. A box,
//!   a mask to refine or several clicks mean one thing: mask 0, unless it is unstable; then the best
//!   of 1..=3. Source: `_use_multimask` and `_dynamic_multimask_via_stability` in facebookresearch/
//!   sam2 (`sam2/modeling/sam2_base.py`, `sam/mask_decoder.py`) with the published SAM2.1 settings.
//! - [`Selection::Mask0First`]: always mask 0; measured better on sam2-nano.

use super::package::manifest::Selection;
use crate::domain::tensor::{MaskLogits, PointLabel, PromptBatch};

/// Half the width of the band around 0 whose pixels count as undecided.
/// Source: `dynamic_multimask_stability_delta` of the SAM2.1 configurations.
pub const SAM2_STABILITY_DELTA: f32 = 0.05;
/// Below it mask 0 is not trusted. Source: `dynamic_multimask_stability_thresh`, same place.
const STABILITY_LEAST: f32 = 0.98;

/// The mask that answers a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// Its index, below M.
    pub mask: usize,
    /// Its predicted IoU, 0..=1.
    pub iou: f32,
}

/// How much a prompt leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptKind {
    /// One click, or no prompt at all.
    Ambiguous,
    /// A box, a mask to refine, or several clicks.
    Definite,
}

impl PromptKind {
    /// Of the prompts in a batch; all of them are of one kind.
    #[must_use]
    pub fn of(prompts: &PromptBatch) -> Self {
        let boxed = prompts.rows().iter().any(|row| row.label == PointLabel::BoxStart);
        if prompts.points_per_prompt() == 1 && prompts.mask_input().is_none() && !boxed {
            Self::Ambiguous
        } else {
            Self::Definite
        }
    }
}

/// The answer to prompt number `prompt` of a batch; `None` when there is no such prompt.
#[must_use]
pub fn choose(
    logits: &MaskLogits,
    prompt: usize,
    rule: Selection,
    kind: PromptKind,
) -> Option<Chosen> {
    let chosen = |mask| {
        let iou = logits.iou(prompt, mask)?;
        Some(Chosen { mask, iou })
    };
    let best = |from: usize| {
        let mut best = chosen(from)?;
        for mask in from + 1..logits.masks {
            // Strictly greater: of equals the first, as argmax does.
            if logits.iou(prompt, mask)? > best.iou {
                best = chosen(mask)?;
            }
        }
        Some(best)
    };
    match (logits.masks, rule, kind) {
        (4, Selection::Mask0First, _) => chosen(0),
        (4, Selection::Sam2, PromptKind::Ambiguous) => best(1),
        (4, Selection::Sam2, PromptKind::Definite) => {
            let single = stability(logits.mask(prompt, 0)?, SAM2_STABILITY_DELTA);
            if single >= STABILITY_LEAST { chosen(0) } else { best(1) }
        }
        _ => best(0),
    }
}

/// Area above `delta` over area above `-delta`: how little of a mask is undecided. 1 for an empty
/// mask.
#[must_use]
pub fn stability(plane: &[f32], delta: f32) -> f32 {
    let above = |limit: f32| plane.iter().filter(|logit| **logit > limit).count();
    let (inner, outer) = (above(delta), above(-delta));
    if outer == 0 { 1.0 } else { inner as f32 / outer as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tensor::PointRow;

    /// Masks of 2×2: `true` is a stable one, `false` has one undecided pixel of three.
    fn logits(ious: &[f32], stable: &[bool]) -> MaskLogits {
        let plane = |stable: &bool| [5.0, 5.0, if *stable { 5.0 } else { 0.01 }, -5.0];
        MaskLogits {
            batch: 1,
            masks: ious.len(),
            side: 2,
            logits: stable.iter().flat_map(plane).collect(),
            iou_predictions: ious.to_vec(),
            object_score_logits: None,
        }
    }

    #[test]
    fn the_rule_of_the_manifest_picks_the_mask() {
        use PromptKind::{Ambiguous, Definite};
        use Selection::{Mask0First, Sam2};
        struct Case(&'static [f32], bool, Selection, PromptKind, usize);
        let cases = [
            Case(&[0.3], true, Sam2, Ambiguous, 0),
            Case(&[0.3, 0.9, 0.5], true, Sam2, Definite, 1),
            Case(&[0.3, 0.9, 0.9], true, Mask0First, Ambiguous, 1),
            Case(&[0.99, 0.2, 0.7, 0.7], true, Sam2, Ambiguous, 2),
            Case(&[0.1, 0.2, 0.7, 0.3], true, Sam2, Definite, 0),
            Case(&[0.99, 0.2, 0.7, 0.8], false, Sam2, Definite, 3),
            Case(&[0.1, 0.2, 0.7, 0.3], false, Mask0First, Ambiguous, 0),
            Case(&[0.1, 0.2, 0.7, 0.3], false, Mask0First, Definite, 0),
        ];
        for (number, Case(ious, first_stable, rule, kind, expected)) in cases.iter().enumerate() {
            let mut stable = vec![true; ious.len()];
            stable[0] = *first_stable;
            let chosen = choose(&logits(ious, &stable), 0, *rule, *kind).unwrap();
            assert_eq!(chosen.mask, *expected, "case {number}");
            assert_eq!(chosen.iou, ious[*expected]);
        }
        assert_eq!(choose(&logits(&[0.3], &[true]), 1, Sam2, Ambiguous), None);
    }

    #[test]
    fn stability_counts_the_undecided_band() {
        let plane = [1.0, 0.06, 0.04, -0.04, -0.06];
        assert_eq!(stability(&plane, SAM2_STABILITY_DELTA), 0.5);
        assert_eq!(stability(&plane, 0.5), 0.2);
        assert_eq!(stability(&[-1.0, -2.0], 0.5), 1.0);
    }

    #[test]
    fn one_click_and_no_prompt_are_ambiguous_and_nothing_else_is() {
        let row = |label| PointRow { x: 1.0, y: 1.0, label };
        let click = row(PointLabel::Inside);
        let refine = Some(std::sync::Arc::from([0.0_f32]));
        let kind = |rows: &[PointRow], mask| PromptKind::of(&PromptBatch::one(rows.to_vec(), mask));
        assert_eq!(kind(&[], None), PromptKind::Ambiguous);
        assert_eq!(kind(&[click], None), PromptKind::Ambiguous);
        let many = PromptBatch::single_clicks(&[(1.0, 1.0), (2.0, 2.0)]).unwrap();
        assert_eq!(PromptKind::of(&many), PromptKind::Ambiguous);
        assert_eq!(kind(&[click, click], None), PromptKind::Definite);
        assert_eq!(kind(&[click], refine.clone()), PromptKind::Definite);
        assert_eq!(kind(&[], refine), PromptKind::Definite);
        let corners = [row(PointLabel::BoxStart), row(PointLabel::BoxEnd)];
        assert_eq!(kind(&corners, None), PromptKind::Definite);
    }
}
