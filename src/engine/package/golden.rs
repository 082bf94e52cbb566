//! The golden self-test: what came out of the golden picture against what the package promises.
//!
//! Pure comparison. Who decodes the picture, runs the engine and upsamples the logits brings what
//! was observed; nothing here knows PNG or preprocessing.
//!
//! Why four numbers and not one: a wrong plan or an FP16 overflow gives NaN or an empty mask (area),
//! a shifted preprocess keeps the area (bounding box, mask IoU), a broken IoU head keeps the mask.

use super::manifest::Golden;
use crate::domain::mask::{BoundingBox, Mask};
use crate::domain::prompt::{Click, ClickLabel, PromptBox};
use std::time::Duration;

/// How far an edge of the bounding box may be off: one step of the S/4 grid is four pixels of the
/// S × S picture, and half precision moves an upsampled edge by less than half of that.
const EDGE_TOLERANCE_PX: u32 = 2;

/// What the engine made of the golden picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// The chosen mask at the picture's size: upsampled, thresholded, no clean-up.
    pub mask: Mask,
    /// Its predicted IoU.
    pub iou: f32,
    /// What the encoder took.
    pub encode: Duration,
    /// What the decoder took.
    pub decode: Duration,
}

/// A passed self-test: what start-up prints and the overlay picture shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What was seen.
    pub observed: Observed,
    /// Marked pixels.
    pub area_px: u64,
    /// Of the mask.
    pub bounding_box: BoundingBox,
    /// IoU of the mask with the golden one.
    pub mask_iou: f64,
}

/// The engine doesn't do what the package promises; the text says in which respect.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GoldenError {
    /// The golden mask has not the picture's size.
    #[error("the golden mask is not as large as the golden picture")]
    Geometry,
    /// The area is off.
    #[error("the golden mask has {found} px instead of {expected}")]
    Area {
        /// From the manifest.
        expected: u64,
        /// Marked pixels.
        found: u64,
    },
    /// The bounding box is off.
    #[error("the golden mask lies in {found:?} instead of {expected:?} (x, y, width, height)")]
    Place {
        /// From the manifest.
        expected: [u32; 4],
        /// What came out.
        found: [u32; 4],
    },
    /// The mask is another one.
    #[error("the mask's IoU with the golden mask is {found:.4}, below {least}")]
    Shape {
        /// From the manifest.
        least: f64,
        /// What came out.
        found: f64,
    },
    /// The predicted IoU is off, or no number.
    #[error("the predicted IoU is {found:.4} instead of {expected}")]
    Iou {
        /// From the manifest.
        expected: f64,
        /// What came out.
        found: f32,
    },
}

impl Golden {
    /// The prompt, in pixels of the golden picture.
    #[must_use]
    pub fn prompt(&self) -> (Vec<Click>, Option<PromptBox>) {
        let label = |inside| if inside == 1 { ClickLabel::Inside } else { ClickLabel::Outside };
        let clicks = self.points.iter().map(|&(x, y, inside)| Click { x, y, label: label(inside) });
        let bounds = self.bounds.map(|[x, y, width, height]| PromptBox { x, y, width, height });
        (clicks.collect(), bounds)
    }
}

/// Compares what came out with what must; `reference` is the golden mask, decoded.
///
/// # Errors
/// The first [`GoldenError`]: geometry, area, place, shape, predicted IoU.
pub fn check(golden: &Golden, reference: &Mask, observed: Observed) -> Result<Report, GoldenError> {
    let mask = &observed.mask;
    if mask.size() != reference.size() {
        return Err(GoldenError::Geometry);
    }
    let area_px = mask.area() as u64;
    let off = area_px.abs_diff(golden.area_px) as f64;
    if off > golden.area_tolerance * golden.area_px as f64 {
        return Err(GoldenError::Area { expected: golden.area_px, found: area_px });
    }
    let Some(bounding_box) = mask.bounding_box() else {
        return Err(GoldenError::Area { expected: golden.area_px, found: 0 });
    };
    let found = [bounding_box.x, bounding_box.y, bounding_box.width, bounding_box.height];
    if !same_place(found, golden.bounding_box) {
        return Err(GoldenError::Place { expected: golden.bounding_box, found });
    }
    let mask_iou = overlap(mask, reference);
    if mask_iou < golden.mask_iou_min {
        return Err(GoldenError::Shape { least: golden.mask_iou_min, found: mask_iou });
    }
    // `contains`, because a comparison with NaN would let NaN pass.
    let tolerance = golden.iou_tolerance;
    if !(-tolerance..=tolerance).contains(&(f64::from(observed.iou) - golden.iou)) {
        return Err(GoldenError::Iou { expected: golden.iou, found: observed.iou });
    }
    Ok(Report { observed, area_px, bounding_box, mask_iou })
}

fn same_place(found: [u32; 4], expected: [u32; 4]) -> bool {
    let edges =
        |[x, y, width, height]: [u32; 4]| [x, y, x.saturating_add(width), y.saturating_add(height)];
    edges(found).iter().zip(edges(expected)).all(|(a, b)| a.abs_diff(b) <= EDGE_TOLERANCE_PX)
}

/// Intersection over union; 0 where both are empty.
fn overlap(a: &Mask, b: &Mask) -> f64 {
    let pairs = || a.pixels().iter().zip(b.pixels());
    let both = pairs().filter(|(a, b)| **a != 0 && **b != 0).count();
    let any = pairs().filter(|(a, b)| **a != 0 || **b != 0).count();
    if any == 0 { 0.0 } else { both as f64 / any as f64 }
}

#[cfg(test)]
mod tests {
    use super::super::Package;
    use super::*;
    use crate::domain::slice::Size;

    const SIZE: Size = Size { width: 100, height: 80 };

    fn rectangle(x: u32, y: u32, width: u32, height: u32) -> Mask {
        let inside = |i: u32, j: u32| (x..x + width).contains(&i) && (y..y + height).contains(&j);
        let pixels = (0..SIZE.height)
            .flat_map(|j| (0..SIZE.width).map(move |i| if inside(i, j) { 255 } else { 0 }))
            .collect();
        Mask::new(SIZE, pixels).unwrap()
    }

    fn golden() -> Golden {
        let mut golden = Package::embedded().unwrap().manifest().golden.clone();
        golden.area_px = 1200;
        golden.bounding_box = [20, 10, 40, 30];
        golden.iou = 0.8;
        golden
    }

    fn seen(mask: Mask, iou: f32) -> Result<Report, GoldenError> {
        let took = Duration::from_millis(1);
        let observed = Observed { mask, iou, encode: took, decode: took };
        check(&golden(), &rectangle(20, 10, 40, 30), observed)
    }

    #[test]
    fn what_the_package_promises_passes_and_is_reported() {
        let report = seen(rectangle(20, 10, 40, 30), 0.81).unwrap();
        assert_eq!((report.area_px, report.mask_iou), (1200, 1.0));
        assert_eq!(report.bounding_box, BoundingBox { x: 20, y: 10, width: 40, height: 30 });
    }

    #[test]
    fn each_respect_fails_by_itself() {
        let right = || rectangle(20, 10, 40, 30);
        assert_eq!(
            seen(rectangle(0, 0, 0, 0), 0.8).unwrap_err().to_string(),
            "the golden mask has 0 px instead of 1200"
        );
        assert!(matches!(seen(rectangle(20, 10, 41, 31), 0.8), Err(GoldenError::Area { .. })));
        // The same area three columns to the right.
        assert!(matches!(seen(rectangle(23, 10, 40, 30), 0.8), Err(GoldenError::Place { .. })));
        // Area and place hold; a checked hole pattern moved inside does not.
        let mut holes = right().pixels().to_vec();
        for step in 0..24 {
            holes[15 * 100 + 25 + step] = 0;
            holes[5 * 100 + 25 + step] = 0;
        }
        let narrow = Golden { mask_iou_min: 0.99, ..golden() };
        let observed =
            |mask| Observed { mask, iou: 0.8, encode: Duration::ZERO, decode: Duration::ZERO };
        let holed = Mask::new(SIZE, holes).unwrap();
        assert!(matches!(
            check(&narrow, &right(), observed(holed)),
            Err(GoldenError::Shape { .. })
        ));
        for iou in [0.7, 0.9, f32::NAN] {
            assert!(matches!(seen(right(), iou), Err(GoldenError::Iou { .. })), "{iou}");
        }
        let other = Mask::empty(Size { width: 80, height: 100 });
        assert_eq!(seen(other, 0.8), Err(GoldenError::Geometry));
    }

    #[test]
    fn the_prompt_is_the_manifests() {
        let (clicks, bounds) = golden().prompt();
        assert_eq!(clicks, [Click { x: 84.0, y: 120.0, label: ClickLabel::Inside }]);
        assert_eq!(bounds, None);
    }
}
