//! From chosen logits to an answer: upsample, clean, outline, PNG, base64. Blocking.

use super::request::Answer;
use super::store::StoredAnswer;
use crate::domain::key::AnswerKey;
use crate::domain::mask::{Annotation, ImageType, Mask};
use crate::domain::prompt::Prompt;
use crate::domain::slice::Size;
use crate::domain::tensor::MaskInput;
use crate::imaging::postprocess::{self, Clean};
use crate::imaging::{outline, png};
use bytes::Bytes;
use std::time::SystemTime;

/// Said when nothing was found without a prompt.
pub(super) const NOTHING_FOUND: &str =
    "nothing was found by itself in this image: click on the structure";

/// Said when a prompt gives an empty mask.
const EMPTY: &str = "the prompt gave an empty mask: click on the structure, or draw a box round it";

/// What the user is told where rings alone would mislead.
fn holes(holes_px: usize) -> String {
    format!("the mask has holes ({holes_px} px) that its outline does not show: the mask is right")
}

/// What the logits become.
pub(super) struct Recipe<'a> {
    pub(super) key: AnswerKey,
    pub(super) size: Size,
    pub(super) image_type: ImageType,
    pub(super) prompt: &'a Prompt,
    pub(super) clean: &'a postprocess::Options,
    /// Calibrated confidence of the mask, should it not be empty.
    pub(super) confidence: f64,
    pub(super) expires: SystemTime,
}

/// Logits [S/4, S/4] of side `side` → answer; `None` if there are not `side²` of them.
pub(super) fn answer(recipe: &Recipe<'_>, logits: &[f32], side: usize) -> Option<StoredAnswer> {
    let clean = Clean::for_prompt(recipe.image_type, recipe.prompt, *recipe.clean);
    let mask = postprocess::threshold(logits, side, recipe.size)?;
    let mask = postprocess::clean(mask, &clean);
    let kept = logits.iter().map(|logit| logit.clamp(-32.0, 32.0)).collect();
    Some(finished(recipe, &mask, kept, EMPTY))
}

/// The empty answer of one click that found nothing.
pub(super) fn nothing(recipe: &Recipe<'_>, side: usize) -> StoredAnswer {
    let logits = vec![-32.0; side * side].into();
    finished(recipe, &Mask::empty(recipe.size), logits, NOTHING_FOUND)
}

fn finished(recipe: &Recipe<'_>, mask: &Mask, logits: MaskInput, if_empty: &str) -> StoredAnswer {
    let png = Bytes::from(png::encode_mask(mask));
    let png_base64 = Bytes::from(base64_simd::STANDARD.encode_to_string(&png));
    let bounding_box = mask.bounding_box();
    let annotation = bounding_box.map(|bounds| match recipe.image_type {
        ImageType::L3 => Annotation::Rectangle(bounds),
        ImageType::Middle | ImageType::Auto => Annotation::Polygons(outline::polygons(mask)),
    });
    let empty = bounding_box.is_none();
    let mut warnings = Vec::new();
    if empty {
        warnings.push(if_empty.to_owned());
    }
    if matches!(annotation, Some(Annotation::Polygons(_))) {
        let holes_px = postprocess::holes_px(mask);
        warnings.extend((holes_px > 0).then(|| holes(holes_px)));
    }
    StoredAnswer {
        size: recipe.size,
        logits,
        answer: Answer {
            key: recipe.key,
            png,
            png_base64,
            confidence: if empty { 0.0 } else { recipe.confidence },
            bounding_box,
            annotation,
            warnings,
            expires: recipe.expires,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_that_an_outline_can_not_show_are_said() {
        let size = Size { width: 16, height: 16 };
        let prompt = Prompt::new(size, Vec::new(), None, None, 1).unwrap();
        // A ring of 6×6 cells round a hole of 4×4: too large to be filled as a speck.
        let ring = |hole: f32| -> Vec<f32> {
            let within = |i: usize, low, high| {
                (low..high).contains(&(i % 16)) && (low..high).contains(&(i / 16))
            };
            (0..256)
                .map(|i| {
                    if within(i, 6, 10) {
                        hole
                    } else if within(i, 5, 11) {
                        3.0
                    } else {
                        -3.0
                    }
                })
                .collect()
        };
        let warnings = |image_type, hole| {
            let clean = postprocess::Options { min_component_px: 4, ..Default::default() };
            let recipe = Recipe {
                key: AnswerKey(crate::domain::key::Sum::of(b"")),
                size,
                image_type,
                prompt: &prompt,
                clean: &clean,
                confidence: 1.0,
                expires: SystemTime::UNIX_EPOCH,
            };
            answer(&recipe, &ring(hole), 16).unwrap().answer.warnings
        };
        let said = "the mask has holes (16 px) that its outline does not show: the mask is right";
        assert_eq!(warnings(ImageType::Auto, -3.0), [said]);
        assert_eq!(warnings(ImageType::Middle, -3.0), [said]);
        // A rectangle shows no shape at all.
        assert!(warnings(ImageType::L3, -3.0).is_empty());
        assert!(warnings(ImageType::Auto, 3.0).is_empty());
    }
}
