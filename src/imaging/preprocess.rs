//! Levels → the encoder's input tensor, exactly as SAM2 wants it.
//!
//! SAM2 **stretches** a slice to S×S (SAM1 padded) with an antialiased bilinear filter, then takes
//! `(level/255 − mean)/std` per channel. Source: sam2/utils/transforms.py, `Resize` and `Normalize`
//! of torchvision on a float tensor.
//!
//! The filter is linear with weights that sum to 1, so normalising afterwards is the same as before
//! it, and a grey slice is filtered once and written three times.
//!
//! Invariant: differs from torchvision's tensor by less than 1e-5 (tests/python/compare_masks.py).

use super::Levels;
use super::resample::{Kernel, to_square};
use crate::domain::mask::Mask;
use crate::domain::slice::Size;
use crate::domain::tensor::{ImageTensor, MaskInput};

/// Channel means of ImageNet, R, G, B. Source: sam2/utils/transforms.py.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Channel deviations of ImageNet, R, G, B. Source: sam2/utils/transforms.py.
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// A mask to refine is fed as ± this; a decoder's own logits of a sure mask are about as large.
const MASK_LOGIT: f32 = 10.0;

/// The encoder's input [1, 3, S, S] for `side` = S. `None` when `levels` are not of that `size`, or
/// `side` is 0: a bug of the caller.
#[must_use]
pub fn tensor(levels: &Levels, size: Size, side: usize) -> Option<ImageTensor> {
    let plane = side.checked_mul(side).filter(|&plane| plane > 0)?;
    let mut data = vec![0.0; 3 * plane];
    let mut planes: Vec<&mut [f32]> = data.chunks_exact_mut(plane).collect();
    let mut write = |channel: usize, row: usize, levels: &[f32]| {
        let plane = planes.get_mut(channel);
        if let Some(out) = plane.and_then(|plane| plane.get_mut(row * side..)) {
            normalise(levels, channel, out);
        }
    };
    match levels {
        Levels::Grey(grey) => {
            let thrice = |_, row, levels: &[f32]| (0..3).for_each(|c| write(c, row, levels));
            to_square(grey, 1, size, side, Kernel::Triangle, thrice)?;
        }
        Levels::Rgb(rgb) => to_square(rgb, 3, size, side, Kernel::Triangle, write)?,
    }
    ImageTensor::new(side, data)
}

/// A mask as `mask_input` [1, S/4, S/4] (`side` = S/4): ±10 by the share of each cell that is
/// marked, so that a half-covered cell is undecided (0). `None` when `side` is 0.
///
/// What that loses: thresholded at the image's size again, masks of the data pack's organs overlap
/// with themselves by 0.999 at S/4 = 256 and 0.964 at 64 on average.
#[must_use]
pub fn mask_input(mask: &Mask, side: usize) -> Option<MaskInput> {
    let mut logits = Vec::with_capacity(side * side);
    to_square(mask.pixels(), 1, mask.size(), side, Kernel::Area, |_, _, levels| {
        logits.extend(levels.iter().map(|level| MASK_LOGIT * (level / 127.5 - 1.0)));
    })?;
    Some(logits.into())
}

fn normalise(levels: &[f32], channel: usize, out: &mut [f32]) {
    if let (Some(mean), Some(std)) = (MEAN.get(channel), STD.get(channel)) {
        let (scale, offset) = (1.0 / (255.0 * std), mean / std);
        for (out, level) in out.iter_mut().zip(levels) {
            *out = level * scale - offset;
        }
    }
}

#[cfg(test)]
mod tests;
