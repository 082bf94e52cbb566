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

/// Said of a mask given back that is something else.
const NO_MASK: &str = "mask_input must be an 8-bit grey PNG";

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
            MaskSource::Answer(key) => return self.logits(key, side).await,
            MaskSource::Png(bytes) => bytes,
        };
        let inner = Arc::clone(self);
        blocking(move || {
            let slice = inner.decode(&bytes, None).map_err(|error| match error {
                ServiceError::UnsupportedFormat => ServiceError::Invalid(NO_MASK.to_owned()),
                ServiceError::Unreadable(what) => {
                    ServiceError::Invalid(format!("mask_input can't be read: {what}"))
                }
                other => other,
            })?;
            png_mask(&slice, size, side)
        })
        .await?
    }

    /// What the decoder gave with an answer. An engine of another size has no use for it.
    async fn logits(
        self: &Arc<Self>,
        key: AnswerKey,
        side: usize,
    ) -> Result<MaskInput, ServiceError> {
        let stored = self.stored(key).await?.filter(|stored| stored.logits.len() == side * side);
        stored.map(|stored| Arc::clone(&stored.logits)).ok_or(ServiceError::UnknownMask)
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
        let Some((x, y)) = place(&self.logits(key, side).await?, side) else {
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
        return invalid(NO_MASK.to_owned());
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

/// A cell this share as far from the outside as the inner-most one is as good a place.
const DEEP: f64 = 0.7;

/// A place well inside an answer's mask, as shares of its picture; `None` where it is empty.
///
/// Of the deep cells the one nearest to their middle: on the decoder's coarse grid many are equally
/// deep, and taking the first or the last of them leaves the object sideways, slice after slice.
fn place(logits: &[f32], side: usize) -> Option<(f64, f64)> {
    let depths = depths(logits, side);
    let inmost = f64::from(*depths.iter().max()?);
    let deep: Vec<(f64, f64)> = (0..)
        .zip(&depths)
        .filter(|&(_, &depth)| depth > 0 && f64::from(depth) >= DEEP * inmost)
        .map(|(i, _)| ((i % side) as f64 + 0.5, (i / side) as f64 + 0.5))
        .collect();
    let count = deep.len() as f64;
    let middle =
        deep.iter().fold((0.0, 0.0), |sum, at| (sum.0 + at.0 / count, sum.1 + at.1 / count));
    let off = |at: &(f64, f64)| (at.0 - middle.0).hypot(at.1 - middle.1);
    let (x, y) = deep.iter().min_by(|a, b| off(a).total_cmp(&off(b)))?;
    Some((x / side as f64, y / side as f64))
}

/// Each cell's distance to the outside of its mask in thirds of a cell, 0 outside; the picture's
/// border counts as outside. Chamfer 3-4 in two passes (Borgefors 1986): within 8 % of Euclid's.
fn depths(logits: &[f32], side: usize) -> Vec<u32> {
    const BESIDE: [(isize, isize, u32); 4] = [(1, 0, 3), (0, 1, 3), (1, 1, 4), (-1, 1, 4)];
    let mut depths: Vec<u32> =
        logits.iter().map(|&logit| if logit > 0.0 { u32::MAX } else { 0 }).collect();
    for sign in [-1, 1] {
        for step in 0..depths.len() {
            let here = if sign < 0 { step } else { depths.len() - 1 - step };
            let (x, y) = (here % side, here / side);
            let through = |&(dx, dy, far): &(isize, isize, u32)| {
                let x = x.checked_add_signed(sign * dx).filter(|x| *x < side);
                let at = x.zip(y.checked_add_signed(sign * dy)).map(|(x, y)| y * side + x);
                at.and_then(|at| depths.get(at)).map_or(far, |depth| depth.saturating_add(far))
            };
            let nearest = BESIDE.iter().map(through).min().unwrap_or(0);
            if let Some(depth) = depths.get_mut(here) {
                *depth = nearest.min(*depth);
            }
        }
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::slice::{Format, SliceInfo};

    fn marked(side: usize, inside: impl Fn(usize, usize) -> bool) -> Vec<f32> {
        (0..side * side).map(|i| if inside(i % side, i / side) { 3.0 } else { -3.0 }).collect()
    }

    #[test]
    fn the_place_of_a_mask_is_its_middle_and_not_one_of_many_as_deep() {
        let middle = |x0: usize, x1: usize, y0: usize, y1: usize| {
            let bar = marked(32, |x, y| (x0..x1).contains(&x) && (y0..y1).contains(&y));
            let (x, y) = place(&bar, 32).unwrap();
            let off = |v: f64, low: usize, high: usize| v * 32.0 - (low + high) as f64 / 2.0;
            (off(x, x0, x1), off(y, y0, y1))
        };
        for (x0, x1, y0, y1) in [(4, 9, 2, 7), (3, 28, 10, 17), (20, 25, 1, 30), (0, 9, 0, 9)] {
            let (x, y) = middle(x0, x1, y0, y1);
            assert!(x.abs() < 1.0 && y.abs() < 1.0, "{x0}..{x1} {y0}..{y1}: {x} {y} beside it");
        }
        assert_eq!(place(&[-1.0; 4], 2), None);
        assert_eq!(place(&[], 0), None);
    }

    #[test]
    fn the_place_of_a_mask_lies_in_its_deepest_part_and_never_in_a_hole() {
        let ring = marked(32, |x, y| {
            let r = (x as f64 - 16.0).hypot(y as f64 - 16.0);
            (8.0..14.0).contains(&r)
        });
        let (x, y) = place(&ring, 32).unwrap();
        let r = (x * 32.0 - 16.5).hypot(y * 32.0 - 16.5);
        assert!((9.0..13.0).contains(&r), "{r} from the middle of a ring");
        // A large square and a thin tail, whose cells are many and shallow.
        let tailed = marked(32, |x, y| (x < 8 && y < 8) || (x < 32 && y == 8));
        let (x, y) = place(&tailed, 32).unwrap();
        assert!(x * 32.0 < 6.0 && y * 32.0 < 7.0, "{x} {y}");
    }

    #[test]
    fn the_place_of_a_mask_is_not_drawn_to_where_it_is_a_little_thicker() {
        let bar = |x: usize, y: usize| (2..30).contains(&x) && (10..17).contains(&y);
        let thicker = |x: usize, y: usize| (22..30).contains(&x) && (9..18).contains(&y);
        let (x, y) = place(&marked(32, |x, y| bar(x, y) || thicker(x, y)), 32).unwrap();
        assert!((12.0..20.0).contains(&(x * 32.0)), "{}", x * 32.0);
        assert!((y * 32.0 - 13.5).abs() < 1.0, "{}", y * 32.0);
    }

    #[test]
    fn depth_does_not_depend_on_which_way_round_a_mask_lies() {
        let corner = |x: usize, y: usize| !(x > 8 && y < 7) && x > 1 && y > 1 && x < 15 && y < 14;
        let upright = depths(&marked(16, corner), 16);
        let mirrored = depths(&marked(16, |x, y| corner(15 - x, y)), 16);
        let turned = depths(&marked(16, |x, y| corner(15 - x, 15 - y)), 16);
        for (i, depth) in upright.iter().enumerate() {
            let (x, y) = (i % 16, i / 16);
            assert_eq!(mirrored[y * 16 + 15 - x], *depth, "mirrored {x} {y}");
            assert_eq!(turned[(15 - y) * 16 + 15 - x], *depth, "turned {x} {y}");
        }
    }

    #[test]
    fn more_points_than_the_engine_was_built_for_are_refused_with_its_number() {
        let size = Size { width: 9, height: 9 };
        let click = |x| Click { x, y: 1.0, label: ClickLabel::Inside };
        let bounds = PromptBox { x: 1.0, y: 1.0, width: 5.0, height: 5.0 };
        let prompt =
            Prompt::new(size, vec![click(1.0), click(2.0)], Some(bounds), None, 64).unwrap();
        assert!(fits(&prompt, 4).is_ok());
        let said = fits(&prompt, 3).unwrap_err().to_string();
        assert!(said.contains("at most 3 points") && said.ends_with("4 were sent"), "{said}");
    }

    #[test]
    fn depth_is_counted_from_the_outside_in_thirds_of_a_cell() {
        let square = marked(7, |x, y| (1..6).contains(&x) && (1..6).contains(&y));
        let rows: Vec<&[u32]> = vec![&[0; 7], &[0, 3, 3, 3, 3, 3, 0], &[0, 3, 6, 6, 6, 3, 0]];
        let depths = depths(&square, 7);
        assert_eq!(depths.chunks(7).take(3).collect::<Vec<_>>(), rows);
        assert_eq!(depths[3 * 7 + 3], 9);
        assert_eq!(super::depths(&[1.0; 9], 3), [3, 3, 3, 3, 6, 3, 3, 3, 3]);
    }

    #[test]
    fn a_mask_of_another_size_is_refused_by_name() {
        let size = Size { width: 4, height: 4 };
        let info = SliceInfo::picture(size, Format::Png);
        let slice = Slice::new(info, Samples::Grey8(vec![255; 16].into())).unwrap();
        let error = png_mask(&slice, Size { width: 8, height: 4 }, 4).unwrap_err();
        assert_eq!(error.to_string(), "mask_input is 4×4 pixels; the image has 8×4");
        assert_eq!(png_mask(&slice, size, 2).unwrap().as_ref(), [10.0; 4]);
    }

    #[test]
    fn what_is_brighter_than_half_is_marked() {
        let size = Size { width: 2, height: 2 };
        let info = SliceInfo::picture(size, Format::Png);
        let slice = Slice::new(info, Samples::Grey8(vec![0, 127, 128, 255].into())).unwrap();
        assert_eq!(png_mask(&slice, size, 2).unwrap().as_ref(), [-10.0, -10.0, 10.0, 10.0]);
    }
}
