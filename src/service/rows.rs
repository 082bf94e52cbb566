//! From pixels of the image to rows of the prompt encoder.
//!
//! `x · S/W`, `y · S/H` (the graph adds the half pixel); box corners first, then clicks; no row at
//! all becomes the one row (0, 0, −1). Source: sam2/sam2_image_predictor.py, `_prep_prompts`.

use crate::domain::prompt::{ClickLabel, Prompt};
use crate::domain::slice::Size;
use crate::domain::tensor::{PointLabel, PointRow, PromptBatch};

/// One prompt for an engine of input side `side`.
pub(super) fn batch(prompt: &Prompt, size: Size, side: usize) -> PromptBatch {
    let scaled = |x: f64, y: f64, label| {
        let scale = |v: f64, extent: u32| narrowed(v * side as f64 / f64::from(extent));
        PointRow { x: scale(x, size.width), y: scale(y, size.height), label }
    };
    let corners = prompt.bounds().map(|bounds| bounds.corners()).into_iter().flat_map(|[a, b]| {
        [scaled(a.0, a.1, PointLabel::BoxStart), scaled(b.0, b.1, PointLabel::BoxEnd)]
    });
    let clicks = prompt.clicks().iter().map(|click| {
        let label = match click.label {
            ClickLabel::Inside => PointLabel::Inside,
            ClickLabel::Outside => PointLabel::Outside,
        };
        scaled(click.x, click.y, label)
    });
    PromptBatch::one(corners.chain(clicks).collect(), prompt.mask().cloned())
}

/// To the decoder's precision: places and scores need 24 bits at most.
#[expect(clippy::cast_possible_truncation, reason = "rounds to the nearest f32, which is meant")]
pub(super) fn narrowed(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::prompt::{Click, PromptBox};

    #[test]
    fn the_box_comes_first_and_everything_is_stretched() {
        let size = Size { width: 200, height: 50 };
        let clicks = vec![Click { x: 100.0, y: 25.0, label: ClickLabel::Outside }];
        let bounds = PromptBox { x: 20.0, y: 10.0, width: 41.0, height: 21.0 };
        let prompt = Prompt::new(size, clicks, Some(bounds), None, 64).unwrap();
        let rows: Vec<_> = batch(&prompt, size, 100)
            .rows()
            .iter()
            .map(|row| (row.x, row.y, row.label.value()))
            .collect();
        assert_eq!(rows, [(10.0, 20.0, 2.0), (30.0, 60.0, 3.0), (50.0, 50.0, 0.0)]);
    }

    #[test]
    fn no_prompt_at_all_is_one_padding_row() {
        let size = Size { width: 10, height: 10 };
        let nothing = batch(&Prompt::default(), size, 64);
        assert_eq!((nothing.batch(), nothing.points_per_prompt()), (1, 1));
        assert_eq!(nothing.rows()[0].label, PointLabel::Padding);
    }
}
