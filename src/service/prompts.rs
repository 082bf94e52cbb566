//! What a request asks with, made ready for the engine: clicks, box, a mask given back, a neighbour.

use super::Inner;
use super::error::ServiceError;
use super::image::blocking;
use super::request::MaskSource;
use crate::domain::key::AnswerKey;
use crate::domain::mask::Mask;
use crate::domain::prompt::{Click, ClickLabel, Prompt, PromptBox};
use crate::domain::slice::{Samples, Size, Slice};
use crate::domain::tensor::MaskInput;
use crate::imaging::preprocess;
use std::sync::Arc;

/// A plan takes as many points as it was built for; that is the package's limit, not the user's
/// fault, so the number is named.
pub(super) fn fits(prompt: &Prompt, max_points: usize) -> Result<(), ServiceError> {
    let points = prompt.clicks().len() + if prompt.bounds().is_some() { 2 } else { 0 };
    if points <= max_points {
        return Ok(());
    }
    Err(ServiceError::Invalid(format!(
        "click_points: this engine takes at most {max_points} points a prompt, of which a box takes two; {points} were sent"
    )))
}

impl Inner {
    /// `mask_input` as the decoder takes it.
    pub(super) async fn mask_input(
        self: &Arc<Self>,
        source: MaskSource,
        size: Size,
        side: usize,
    ) -> Result<MaskInput, ServiceError> {
        let bytes = match source {
            MaskSource::Answer(key) => {
                let stored = self.stored(key).await?.ok_or(ServiceError::UnknownMask)?;
                if stored.logits.len() != side * side {
                    return Err(ServiceError::UnknownMask);
                }
                return Ok(Arc::clone(&stored.logits));
            }
            MaskSource::Png(bytes) => bytes,
        };
        let inner = Arc::clone(self);
        blocking(move || {
            let slice = inner.decode(&bytes, None).map_err(|error| match error {
                ServiceError::Unreadable(what) => {
                    ServiceError::Invalid(format!("mask_input can't be read: {what}"))
                }
                other => other,
            })?;
            png_mask(&slice, size, side)
        })
        .await?
    }

    /// Clicks, with one more in the middle of a neighbouring slice's answer where nobody has said
    /// what is inside. The click alone, not the neighbour's box: walking through a volume, boxes
    /// shrink or grow from slice to slice until the object is lost (docs/quality.md has figures).
    pub(super) async fn seeded(
        self: &Arc<Self>,
        mut clicks: Vec<Click>,
        bounds: Option<PromptBox>,
        prompt_from: Option<AnswerKey>,
        size: Size,
        side: usize,
    ) -> Result<Vec<Click>, ServiceError> {
        let Some(key) = prompt_from else { return Ok(clicks) };
        let stored = self.stored(key).await?.ok_or(ServiceError::UnknownMask)?;
        let place =
            (stored.logits.len() == side * side).then(|| place(&stored.logits, side)).flatten();
        let Some((x, y)) = place else {
            let text = "prompt_from names an answer whose mask is empty: click on the structure";
            return Err(ServiceError::Invalid(text.into()));
        };
        let (w, h) = (f64::from(size.width), f64::from(size.height));
        let told = clicks.iter().any(|click| click.label == ClickLabel::Inside);
        if !told && bounds.is_none() {
            clicks.insert(0, Click { x: x * w, y: y * h, label: ClickLabel::Inside });
        }
        Ok(clicks)
    }
}

/// A decoded 8-bit grey mask from outside as decoder input: what is brighter than half is marked.
///
/// # Errors
/// `Invalid` when it is no 8-bit grey picture or not as large as the image.
fn png_mask(slice: &Slice, size: Size, side: usize) -> Result<MaskInput, ServiceError> {
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
fn place(logits: &[f32], side: usize) -> Option<(f64, f64)> {
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
        let error = png_mask(&slice, Size { width: 8, height: 4 }, 4).unwrap_err();
        assert_eq!(error.to_string(), "mask_input is 4×4 pixels; the image has 8×4");
        assert_eq!(png_mask(&slice, size, 2).unwrap().as_ref(), [10.0; 4]);
    }
}
