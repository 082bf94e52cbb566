//! Mask logits → the mask of the answer: upsampled to the image, thresholded, cleaned up.
//!
//! Upsampling is SAM2's: bilinear, `align_corners=false`, not antialiased, straight from S/4 to the
//! image's own size; a pixel is marked where the logit is > 0. Source: `postprocess_masks` in
//! sam2/utils/transforms.py.
//!
//! Invariants:
//! 1. A component under a positive click is never dropped, a hole under a negative one never filled.
//! 2. Under [`Clean::OneComponent`] the result is one component, or nothing where nothing was.
//! 3. What is small is measured against the mask as it came in when components are dropped, and
//!    against what is left of it when holes are filled.
//!
//! Pieces are 8-connected, holes 4-connected: see [`components`](super::components).

use super::components::{Components, Connectivity};
use crate::domain::mask::{ImageType, Mask};
use crate::domain::prompt::{ClickLabel, Prompt};
use crate::domain::slice::Size;
use serde::{Deserialize, Serialize};

/// What counts as small enough to drop or fill.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Components and holes below this many pixels are specks of the decoder's 4-pixel grid, not
    /// anatomy: 16 px is one cell of it at S = image size.
    pub min_component_px: usize,
    /// …and below this share of the mask's area, so that the rule scales with the object.
    pub min_component_ratio: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self { min_component_px: 16, min_component_ratio: 0.01 }
    }
}

/// How to clean up.
#[derive(Clone, Debug, PartialEq)]
pub enum Clean {
    /// Exactly one component: the one under the click, else the largest (of equals the first).
    OneComponent {
        /// The first positive click, in pixels.
        click: Option<(f64, f64)>,
    },
    /// Small components dropped, small holes filled.
    DropSmall {
        /// Positive clicks, in pixels: a component under one stays, however small.
        inside: Vec<(f64, f64)>,
        /// Negative clicks, in pixels: a hole under one stays, however small.
        outside: Vec<(f64, f64)>,
        /// What is small.
        options: Options,
    },
}

impl Clean {
    /// The rule of the contract for a kind of image: an L3 is one vertebra, anything else may be
    /// several pieces.
    #[must_use]
    pub fn for_prompt(image_type: ImageType, prompt: &Prompt, options: Options) -> Self {
        let labelled = |label| {
            let clicks = prompt.clicks().iter();
            clicks.filter(move |click| click.label == label).map(|click| (click.x, click.y))
        };
        match image_type {
            ImageType::L3 => Self::OneComponent { click: labelled(ClickLabel::Inside).next() },
            ImageType::Middle | ImageType::Auto => Self::DropSmall {
                inside: labelled(ClickLabel::Inside).collect(),
                outside: labelled(ClickLabel::Outside).collect(),
                options,
            },
        }
    }
}

/// Upsamples logits [S/4, S/4] (`side` = S/4) to `size` and thresholds at 0. `None` when `logits`
/// is not `side²` long, or empty: a bug of the caller.
#[must_use]
pub fn threshold(logits: &[f32], side: usize, size: Size) -> Option<Mask> {
    if side == 0 || side.checked_mul(side)? != logits.len() {
        return None;
    }
    let columns = Axis::new(side, size.width);
    let rows = Axis::new(side, size.height);
    let spans = columns.spans();
    let mut pixels = vec![0; size.pixels()];
    let mut blended = vec![0.0; side];
    for (sample, out) in rows.samples().zip(pixels.chunks_exact_mut(size.width.max(1) as usize)) {
        let upper = logits.get(sample.low * side..)?.get(..side)?;
        let lower = logits.get(sample.high * side..)?.get(..side)?;
        for ((value, a), b) in blended.iter_mut().zip(upper).zip(lower) {
            *value = (1.0 - sample.weight) * a + sample.weight * b;
        }
        mark(&blended, &columns, &spans, out)?;
    }
    Mask::new(size, pixels)
}

/// Cleans a mask up; see [`Clean`].
#[must_use]
pub fn clean(mask: Mask, how: &Clean) -> Mask {
    match how {
        Clean::OneComponent { click } => one_component(mask, *click),
        Clean::DropSmall { inside, outside, options } => {
            let mask = drop_small(mask, inside, *options);
            // Holes after the specks: a speck within a hole would hide a part of its area.
            fill_small(mask, outside, *options)
        }
    }
}

/// Area in pixels of the holes that are left: parts of the background the marked pixels close off.
/// Outer rings don't show them.
#[must_use]
pub fn holes_px(mask: &Mask) -> usize {
    let background = Components::of(mask.pixels(), mask.size(), 0, Connectivity::Four);
    background.pieces().iter().filter(|piece| !piece.at_border).map(|piece| piece.area).sum()
}

/// Where output pixels fall between input samples along one axis.
struct Axis {
    inputs: usize,
    outputs: u32,
    scale: f32,
}

/// One output: between samples `low` and `high` (the same at the edge), `weight` of `high`.
#[derive(Clone, Copy)]
struct Sample {
    low: usize,
    high: usize,
    weight: f32,
}

impl Axis {
    fn new(inputs: usize, outputs: u32) -> Self {
        // f32 throughout, as PyTorch computes it: sizes are far below 2^24.
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^24")]
        let scale = inputs as f32 / outputs as f32;
        Self { inputs, outputs, scale }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "source is clamped at 0 and below the number of inputs; sizes are below 2^24"
    )]
    fn samples(&self) -> impl Iterator<Item = Sample> + '_ {
        (0..self.outputs).map(|output| {
            let source = (self.scale * (output as f32 + 0.5) - 0.5).max(0.0);
            let low = (source as usize).min(self.inputs - 1);
            let high = (low + 1).min(self.inputs - 1);
            Sample { low, high, weight: source - low as f32 }
        })
    }

    /// Outputs grouped by the pair of samples they lie between.
    fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        for (at, sample) in self.samples().enumerate() {
            match spans.last_mut() {
                Some(span) if span.low == sample.low => span.end = at + 1,
                _ => {
                    spans.push(Span { low: sample.low, high: sample.high, start: at, end: at + 1 });
                }
            }
        }
        spans
    }
}

/// Outputs `start..end` lie between samples `low` and `high`.
struct Span {
    low: usize,
    high: usize,
    start: usize,
    end: usize,
}

/// Marks one output row. Between two samples of one sign nothing has to be interpolated, and almost
/// every span is such a one.
fn mark(blended: &[f32], columns: &Axis, spans: &[Span], out: &mut [u8]) -> Option<()> {
    for span in spans {
        let (a, b) = (*blended.get(span.low)?, *blended.get(span.high)?);
        let out = out.get_mut(span.start..span.end)?;
        match (a > 0.0, b > 0.0) {
            (true, true) => out.fill(255),
            (false, false) => {}
            _ => {
                for (pixel, weight) in out.iter_mut().zip(columns.weights(span)) {
                    *pixel = if (1.0 - weight) * a + weight * b > 0.0 { 255 } else { 0 };
                }
            }
        }
    }
    Some(())
}

impl Axis {
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^24")]
    fn weights(&self, span: &Span) -> impl Iterator<Item = f32> + '_ {
        let low = span.low as f32;
        (span.start..span.end)
            .map(move |output| (self.scale * (output as f32 + 0.5) - 0.5).max(0.0) - low)
    }
}

fn one_component(mask: Mask, click: Option<(f64, f64)>) -> Mask {
    let marked = Components::of(mask.pixels(), mask.size(), 255, Connectivity::Eight);
    let clicked = click.and_then(|click| piece_under(&marked, click));
    let Some(kept) = clicked.or_else(|| largest(&marked)) else { return mask };
    if marked.pieces().len() == 1 {
        return mask;
    }
    mask.painted(marked.runs_where(|index, _| index != kept), false)
}

fn drop_small(mask: Mask, inside: &[(f64, f64)], options: Options) -> Mask {
    let marked = Components::of(mask.pixels(), mask.size(), 255, Connectivity::Eight);
    let mask_px: usize = marked.pieces().iter().map(|piece| piece.area).sum();
    let clicked: Vec<usize> = pieces_under(&marked, inside).collect();
    let runs = marked.runs_where(|index, piece| {
        is_small(piece.area, mask_px, options) && !clicked.contains(&index)
    });
    mask.painted(runs, false)
}

fn fill_small(mask: Mask, outside: &[(f64, f64)], options: Options) -> Mask {
    let mask_px = mask.area();
    let background = Components::of(mask.pixels(), mask.size(), 0, Connectivity::Four);
    let clicked: Vec<usize> = pieces_under(&background, outside).collect();
    let runs = background.runs_where(|index, piece| {
        !piece.at_border && is_small(piece.area, mask_px, options) && !clicked.contains(&index)
    });
    mask.painted(runs, true)
}

/// Below the larger of the two bounds?
#[expect(clippy::cast_precision_loss, reason = "areas are far below 2^53")]
fn is_small(px: usize, mask_px: usize, options: Options) -> bool {
    (px as f64)
        < (options.min_component_px as f64).max(options.min_component_ratio * mask_px as f64)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a float to integer cast saturates; what lies outside the image is in no piece"
)]
fn piece_under(components: &Components, (x, y): (f64, f64)) -> Option<usize> {
    (x >= 0.0 && y >= 0.0).then_some(())?;
    components.at(x as u32, y as u32)
}

fn largest(components: &Components) -> Option<usize> {
    let by_area = components.pieces().iter().enumerate();
    // Reversed, because of equals max_by_key takes the last.
    by_area.rev().max_by_key(|(_, piece)| piece.area).map(|(index, _)| index)
}

fn pieces_under(of: &Components, clicks: &[(f64, f64)]) -> impl Iterator<Item = usize> {
    clicks.iter().filter_map(|&click| piece_under(of, click))
}

#[cfg(test)]
mod tests;
