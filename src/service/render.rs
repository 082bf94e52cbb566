//! From chosen logits to an answer: upsample, clean, outline, PNG, base64. Blocking.

use super::error::ServiceError;
use super::request::Answer;
use super::store::StoredAnswer;
use crate::domain::key::AnswerKey;
use crate::domain::mask::{Annotation, ImageType, Mask};
use crate::domain::prompt::Prompt;
use crate::domain::slice::{Samples, Size, Slice};
use crate::domain::tensor::MaskInput;
use crate::imaging::postprocess::{self, Clean};
use crate::imaging::{outline, png, preprocess};
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

/// A decoded 8-bit grey mask from outside as decoder input: what is brighter than half is marked.
///
/// # Errors
/// `Invalid` when it is no 8-bit grey picture or not as large as the image.
pub(super) fn mask_input(
    slice: &Slice,
    size: Size,
    side: usize,
) -> Result<MaskInput, ServiceError> {
    let invalid = |text: String| Err(ServiceError::Invalid(text));
    let Samples::Grey8(levels) = slice.samples() else {
        return invalid("mask_input must be an 8-bit grey PNG".to_owned());
    };
    if slice.size() != size {
        let own = slice.size();
        return invalid(format!(
            "mask_input is {}×{} pixels; the image has {}×{}",
            own.width, own.height, size.width, size.height
        ));
    }
    let pixels = levels.iter().map(|&level| if level > 127 { 255 } else { 0 }).collect();
    let input = Mask::new(size, pixels).and_then(|mask| preprocess::mask_input(&mask, side));
    input.ok_or_else(|| ServiceError::Invalid("mask_input can't be used".to_owned()))
}

/// The inner-most place of an answer's mask, as shares of its picture; `None` where it is empty.
/// From the low-resolution logits, so that it costs nothing.
pub(super) fn place(logits: &[f32], side: usize) -> Option<(f64, f64)> {
    let inside = |x: usize, y: usize| logits.get(y * side + x).is_some_and(|&l| l > 0.0);
    let marked: Vec<(usize, usize)> =
        (0..side * side).map(|i| (i % side, i / side)).filter(|&(x, y)| inside(x, y)).collect();
    let first = *marked.first()?;
    // City-block distance to the outside, in two passes: enough to find a place well inside.
    let mut depth = vec![0_usize; side * side];
    let at = |depth: &[usize], x: usize, y: usize| depth.get(y * side + x).copied().unwrap_or(0);
    for &(x, y) in &marked {
        let up = if y > 0 { at(&depth, x, y - 1) } else { 0 };
        let left = if x > 0 { at(&depth, x - 1, y) } else { 0 };
        if let Some(here) = depth.get_mut(y * side + x) {
            *here = up.min(left) + 1;
        }
    }
    let mut inmost = (0, first);
    for &(x, y) in marked.iter().rev() {
        let down = if y + 1 < side { at(&depth, x, y + 1) } else { 0 };
        let right = if x + 1 < side { at(&depth, x + 1, y) } else { 0 };
        let here = at(&depth, x, y).min(down.min(right) + 1);
        if let Some(value) = depth.get_mut(y * side + x) {
            *value = here;
        }
        if here > inmost.0 {
            inmost = (here, (x, y));
        }
    }
    let (x, y) = inmost.1;
    Some(((x as f64 + 0.5) / side as f64, (y as f64 + 0.5) / side as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::slice::{Format, SliceInfo, Voi};

    #[test]
    fn the_place_of_a_mask_is_a_point_well_inside() {
        let side = 16;
        let inside = |i: usize| (4..12).contains(&(i % side)) && (2..8).contains(&(i / side));
        let logits: Vec<f32> =
            (0..side * side).map(|i| if inside(i) { 3.0 } else { -3.0 }).collect();
        let (x, y) = place(&logits, side).unwrap();
        assert!((0.35..0.65).contains(&x) && (0.25..0.4).contains(&y), "{x} {y}");
        assert_eq!(place(&[-1.0; 4], 2), None);
    }

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

    #[test]
    fn a_mask_of_another_size_is_refused_by_name() {
        let size = Size { width: 4, height: 4 };
        let info = SliceInfo {
            size,
            format: Format::Png,
            frame: 0,
            frames: 1,
            is_ct: false,
            inverted: false,
            voi: Voi::None,
            range: None,
            spacing_mm: None,
        };
        let slice = Slice::new(info, Samples::Grey8(vec![255; 16].into())).unwrap();
        let error = mask_input(&slice, Size { width: 8, height: 4 }, 4).unwrap_err();
        assert_eq!(error.to_string(), "mask_input is 4×4 pixels; the image has 8×4");
        assert_eq!(mask_input(&slice, size, 2).unwrap().as_ref(), [10.0; 4]);
    }
}
