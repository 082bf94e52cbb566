//! What the user points at, in pixels of the image as displayed: x right, y down.
//!
//! Invariants, checked by [`Prompt::new`] against the image's size:
//! 1. Clicks lie within `0..=width−1`, `0..=height−1` (the edges W and H are clamped onto them).
//! 2. A box is clipped to the image and not empty.
//! 3. A prompt with clicks has at least one positive one, unless it has a box or a mask to refine.
//! 4. Two prompts that mean the same are equal: `−0.0` is `0.0`; the order of clicks is kept.

use super::slice::Size;
use super::tensor::MaskInput;

/// Is the click in the object or outside it?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClickLabel {
    /// 1.
    Inside,
    /// 0.
    Outside,
}

/// One click, in edge coordinates clamped to pixel indices (see invariant 1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Click {
    /// Right.
    pub x: f64,
    /// Down.
    pub y: f64,
    /// In or out.
    pub label: ClickLabel,
}

/// A box in edge coordinates: it covers `[x, x+width) × [y, y+height)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PromptBox {
    /// Left edge.
    pub x: f64,
    /// Top edge.
    pub y: f64,
    /// Extent to the right.
    pub width: f64,
    /// Extent downwards.
    pub height: f64,
}

impl PromptBox {
    /// Corners as SAM2 takes them: (x, y) and (x + width − 1, y + height − 1), the latter never
    /// left of or above the former.
    #[must_use]
    pub fn corners(&self) -> [(f64, f64); 2] {
        let far = |start: f64, extent: f64| (start + extent - 1.0).max(start);
        [(self.x, self.y), (far(self.x, self.width), far(self.y, self.height))]
    }
}

/// A checked prompt. Empty means one click: the daemon finds the object itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    clicks: Vec<Click>,
    bounds: Option<PromptBox>,
    mask: Option<MaskInput>,
}

/// Why a prompt can't be used on this image. The texts name field, value and range.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PromptError {
    /// A coordinate is NaN or infinite.
    #[error("{field} is not a finite number")]
    NotFinite {
        /// For example `click_points[2].x`.
        field: String,
    },
    /// A click outside the image.
    #[error("{field} = {value} lies outside the image (0 to {limit})")]
    OutOfBounds {
        /// For example `click_points[2].x`.
        field: String,
        /// What was sent.
        value: f64,
        /// Width or height in pixels.
        limit: u32,
    },
    /// Nothing of the box lies on the image.
    #[error("box is empty: nothing of it lies on the {}×{} image", size.width, size.height)]
    EmptyBox {
        /// Size of the image.
        size: Size,
    },
    /// More clicks than allowed.
    #[error("click_points has {count} clicks; at most {limit} are allowed")]
    TooMany {
        /// Clicks sent.
        count: usize,
        /// `limits.max_clicks`.
        limit: usize,
    },
    /// Only negative clicks and nothing they could be cut from.
    #[error(
        "click_points has no click with label 1; at least one is needed unless there is a box or a mask to refine"
    )]
    NothingPositive,
    /// The same pixel is said to be in and out.
    #[error("click_points[{first}] and click_points[{second}] mark the same pixel as in and out")]
    Contradiction {
        /// Index of the earlier click.
        first: usize,
        /// Index of the later click.
        second: usize,
    },
}

impl Prompt {
    /// Checks clicks and box against the image; `max_clicks` is `limits.max_clicks`.
    ///
    /// # Errors
    /// The first [`PromptError`] found, in the order of the fields.
    pub fn new(
        size: Size,
        mut clicks: Vec<Click>,
        bounds: Option<PromptBox>,
        mask: Option<MaskInput>,
        max_clicks: usize,
    ) -> Result<Self, PromptError> {
        if clicks.len() > max_clicks {
            return Err(PromptError::TooMany { count: clicks.len(), limit: max_clicks });
        }
        for (index, click) in clicks.iter_mut().enumerate() {
            click.x = checked(click.x, size.width, || format!("click_points[{index}].x"))?;
            click.y = checked(click.y, size.height, || format!("click_points[{index}].y"))?;
        }
        if let Some((first, second)) = contradiction(&clicks) {
            return Err(PromptError::Contradiction { first, second });
        }
        let bounds = bounds.map(|bounds| clipped(bounds, size)).transpose()?;
        let positive = clicks.iter().any(|click| click.label == ClickLabel::Inside);
        if !clicks.is_empty() && !positive && bounds.is_none() && mask.is_none() {
            return Err(PromptError::NothingPositive);
        }
        Ok(Self { clicks, bounds, mask })
    }

    /// Clicks in the order sent.
    #[must_use]
    pub fn clicks(&self) -> &[Click] {
        &self.clicks
    }

    /// The box, clipped.
    #[must_use]
    pub fn bounds(&self) -> Option<PromptBox> {
        self.bounds
    }

    /// Low-resolution logits to refine.
    #[must_use]
    pub fn mask(&self) -> Option<&MaskInput> {
        self.mask.as_ref()
    }

    /// True when nothing was pointed at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.clicks.is_empty() && self.bounds.is_none() && self.mask.is_none()
    }
}

/// `0..=limit` is accepted (the far edge is where a mouse can be), and clamped to `limit − 1`.
fn checked(value: f64, limit: u32, field: impl Fn() -> String) -> Result<f64, PromptError> {
    if !value.is_finite() {
        return Err(PromptError::NotFinite { field: field() });
    }
    if value < 0.0 || value > f64::from(limit) {
        return Err(PromptError::OutOfBounds { field: field(), value, limit });
    }
    Ok(value.min(f64::from(limit) - 1.0).max(0.0) + 0.0)
}

fn contradiction(clicks: &[Click]) -> Option<(usize, usize)> {
    clicks.iter().enumerate().find_map(|(second, later)| {
        let first = clicks.iter().take(second).position(|earlier| {
            earlier.label != later.label && earlier.x == later.x && earlier.y == later.y
        })?;
        Some((first, second))
    })
}

fn clipped(bounds: PromptBox, size: Size) -> Result<PromptBox, PromptError> {
    for (name, value) in
        [("x", bounds.x), ("y", bounds.y), ("width", bounds.width), ("height", bounds.height)]
    {
        if !value.is_finite() {
            return Err(PromptError::NotFinite { field: format!("box.{name}") });
        }
    }
    let clip = |start: f64, extent: f64, limit: u32| {
        let (low, high) = (start.max(0.0), (start + extent).min(f64::from(limit)));
        (low + 0.0, high - low)
    };
    let (x, width) = clip(bounds.x, bounds.width, size.width);
    let (y, height) = clip(bounds.y, bounds.height, size.height);
    if width <= 0.0 || height <= 0.0 {
        return Err(PromptError::EmptyBox { size });
    }
    Ok(PromptBox { x, y, width, height })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: Size = Size { width: 100, height: 50 };

    fn inside(x: f64, y: f64) -> Click {
        Click { x, y, label: ClickLabel::Inside }
    }

    fn outside(x: f64, y: f64) -> Click {
        Click { x, y, label: ClickLabel::Outside }
    }

    fn checked(clicks: &[Click], bounds: Option<PromptBox>) -> Result<Prompt, PromptError> {
        Prompt::new(SIZE, clicks.to_vec(), bounds, None, 3)
    }

    #[test]
    fn the_far_edges_are_clamped_and_beyond_them_is_named() {
        let prompt = checked(&[inside(100.0, 50.0)], None).unwrap();
        assert_eq!(prompt.clicks(), [inside(99.0, 49.0)]);
        let error = checked(&[inside(1.0, 1.0), inside(5.0, 50.01)], None).unwrap_err();
        assert_eq!(error.to_string(), "click_points[1].y = 50.01 lies outside the image (0 to 50)");
        assert!(checked(&[inside(-0.01, 0.0)], None).is_err());
        let error = checked(&[inside(f64::NAN, 0.0)], None).unwrap_err();
        assert_eq!(error.to_string(), "click_points[0].x is not a finite number");
    }

    #[test]
    fn negative_clicks_alone_contradictions_and_too_many_are_refused() {
        assert_eq!(checked(&[outside(1.0, 1.0)], None), Err(PromptError::NothingPositive));
        let bounds = PromptBox { x: 0.0, y: 0.0, width: 9.0, height: 9.0 };
        assert!(checked(&[outside(1.0, 1.0)], Some(bounds)).is_ok());
        let both = [inside(1.0, 1.0), inside(2.0, 2.0), outside(1.0, 1.0)];
        let contradiction = PromptError::Contradiction { first: 0, second: 2 };
        assert_eq!(checked(&both, None), Err(contradiction));
        let many = [inside(1.0, 1.0); 4];
        assert_eq!(checked(&many, None), Err(PromptError::TooMany { count: 4, limit: 3 }));
    }

    #[test]
    fn a_box_is_clipped_and_reaches_sam2_as_corners_of_pixels() {
        let bounds = PromptBox { x: -10.0, y: 40.0, width: 20.0, height: 30.0 };
        let clipped = checked(&[], Some(bounds)).unwrap().bounds().unwrap();
        assert_eq!(clipped, PromptBox { x: 0.0, y: 40.0, width: 10.0, height: 10.0 });
        assert_eq!(clipped.corners(), [(0.0, 40.0), (9.0, 49.0)]);
        let off = PromptBox { x: 100.0, y: 0.0, width: 5.0, height: 5.0 };
        assert_eq!(checked(&[], Some(off)), Err(PromptError::EmptyBox { size: SIZE }));
        let negative = PromptBox { x: 9.0, y: 9.0, width: -3.0, height: 4.0 };
        assert!(checked(&[], Some(negative)).is_err());
    }

    #[test]
    fn minus_zero_is_zero() {
        let prompt = checked(&[inside(-0.0, 0.0)], None).unwrap();
        assert!(prompt.clicks()[0].x.is_sign_positive());
    }

    proptest! {
        /// Whatever is sent: refused, or within the image.
        #[test]
        fn an_accepted_prompt_lies_on_the_image(
            width in 1_u32..5000,
            height in 1_u32..5000,
            x in -100.0..6000.0,
            y in -100.0..6000.0,
            w in -10.0..6000.0,
            h in -10.0..6000.0,
        ) {
            let size = Size { width, height };
            let bounds = PromptBox { x, y, width: w, height: h };
            let (right, bottom) = (f64::from(width), f64::from(height));
            if let Ok(prompt) = Prompt::new(size, vec![inside(x, y)], None, None, 1) {
                let click = prompt.clicks()[0];
                prop_assert!((0.0..=right - 1.0).contains(&click.x));
                prop_assert!((0.0..=bottom - 1.0).contains(&click.y));
                prop_assert!(x >= 0.0 && x <= right && y >= 0.0 && y <= bottom);
            } else {
                prop_assert!(x < 0.0 || x > right || y < 0.0 || y > bottom);
            }
            if let Ok(prompt) = Prompt::new(size, Vec::new(), Some(bounds), None, 1) {
                let clipped = prompt.bounds().unwrap();
                prop_assert!(clipped.width > 0.0 && clipped.height > 0.0);
                prop_assert!(clipped.x >= 0.0 && clipped.x + clipped.width <= right + 1e-9);
                prop_assert!(clipped.y >= 0.0 && clipped.y + clipped.height <= bottom + 1e-9);
                let [near, far] = clipped.corners();
                prop_assert!(far.0 >= near.0 && far.1 >= near.1);
            }
        }
    }
}
