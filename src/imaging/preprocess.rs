//! Levels → the encoder's input tensor, exactly as SAM2 wants it.
//!
//! SAM2 **stretches** a slice to S×S (SAM1 padded) with an antialiased bilinear filter, then takes
//! `(level/255 − mean)/std` per channel. Source: sam2/utils/transforms.py, `Resize` and `Normalize`
//! of torchvision on a float tensor.
//!
//! How: the filter is separable and linear with weights that sum to 1, so normalising afterwards is
//! the same as before it, and a grey slice is filtered once and written three times. Rows go through
//! the horizontal filter in bands, so that an 8192×8192 slice never exists as f32.
//!
//! Invariants:
//! 1. Differs from torchvision's tensor by less than 1e-5 (seen: see tests/python).
//! 2. Beside input and output it holds `height × S` f32 and one band.

use super::Levels;
use crate::domain::mask::Mask;
use crate::domain::slice::Size;
use crate::domain::tensor::{ImageTensor, MaskInput};
use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::F32;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};

/// Channel means of ImageNet, R, G, B. Source: sam2/utils/transforms.py.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
/// Channel deviations of ImageNet, R, G, B. Source: sam2/utils/transforms.py.
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Pixels of one band as f32: 256 kB, which stays in a core's second-level cache.
const BAND_PIXELS: usize = 64 * 1024;

/// A mask to refine is fed as ± this; a decoder's own logits of a sure mask are about as large.
const MASK_LOGIT: f32 = 10.0;

/// The encoder's input [1, 3, S, S] for `side` = S. `None` when `levels` are not of that `size`, or
/// `side` is 0: a bug of the caller.
#[must_use]
pub fn tensor(levels: &Levels, size: Size, side: usize) -> Option<ImageTensor> {
    let plane = side.checked_mul(side).filter(|&plane| plane > 0)?;
    let mut data = vec![0.0; 3 * plane];
    let mut filter = Filter::new(size, side)?;
    match levels {
        Levels::Grey(grey) => {
            let stretched = filter.stretch(grey, 1, 0)?;
            for (channel, out) in data.chunks_exact_mut(plane).enumerate() {
                normalise(&stretched, channel, out)?;
            }
        }
        Levels::Rgb(rgb) => {
            for (channel, out) in data.chunks_exact_mut(plane).enumerate() {
                normalise(&filter.stretch(rgb, 3, channel)?, channel, out)?;
            }
        }
    }
    ImageTensor::new(side, data)
}

/// A mask as `mask_input` [1, S/4, S/4] (`side` = S/4): ±10 by the share of each cell that is
/// marked, so that a half-covered cell is undecided (0). `None` when `side` is 0.
#[must_use]
pub fn mask_input(mask: &Mask, side: usize) -> Option<MaskInput> {
    let stretched = Filter::new(mask.size(), side)?.area(mask.pixels())?;
    Some(stretched.into_iter().map(|level| MASK_LOGIT * (level / 127.5 - 1.0)).collect())
}

fn normalise(levels: &[f32], channel: usize, out: &mut [f32]) -> Option<()> {
    let (mean, std) = (*MEAN.get(channel)?, *STD.get(channel)?);
    let (scale, offset) = (1.0 / (255.0 * std), mean / std);
    for (out, level) in out.iter_mut().zip(levels) {
        *out = level * scale - offset;
    }
    Some(())
}

/// The antialiased stretch of one plane to S×S.
struct Filter {
    size: Size,
    side: usize,
    side_px: u32,
    resizer: Resizer,
}

impl Filter {
    fn new(size: Size, side: usize) -> Option<Self> {
        let side_px = u32::try_from(side).ok().filter(|&side| side > 0)?;
        (size.pixels() > 0).then(|| Self { size, side, side_px, resizer: Resizer::new() })
    }

    /// One channel of `stride` interleaved ones, bilinear with antialiasing.
    fn stretch(&mut self, levels: &[u8], stride: usize, channel: usize) -> Option<Vec<f32>> {
        self.run(levels, stride, channel, FilterType::Bilinear)
    }

    /// The mean level of what each cell covers.
    fn area(&mut self, levels: &[u8]) -> Option<Vec<f32>> {
        self.run(levels, 1, 0, FilterType::Box)
    }

    fn run(
        &mut self,
        levels: &[u8],
        stride: usize,
        channel: usize,
        filter: FilterType,
    ) -> Option<Vec<f32>> {
        let (width, height) = (self.size.width as usize, self.size.height as usize);
        if levels.len() != self.size.pixels().checked_mul(stride)? {
            return None;
        }
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        let rows_per_band = (BAND_PIXELS / width).clamp(1, height);
        let mut band = vec![F32::new(0.0); rows_per_band * width];
        let mut squeezed = vec![F32::new(0.0); height * self.side];
        let sources = levels.chunks(rows_per_band * width * stride);
        for (source, target) in sources.zip(squeezed.chunks_mut(rows_per_band * self.side)) {
            let rows = target.len() / self.side;
            let band = band.get_mut(..rows * width)?;
            for (value, pixel) in band.iter_mut().zip(source.chunks_exact(stride)) {
                value.0 = f32::from(*pixel.get(channel)?);
            }
            let rows = u32::try_from(rows).ok()?;
            let source = TypedImageRef::new(self.size.width, rows, band).ok()?;
            let mut target = TypedImage::from_pixels_slice(self.side_px, rows, target).ok()?;
            self.resizer.resize_typed(&source, &mut target, &options).ok()?;
        }
        let source = TypedImageRef::new(self.side_px, self.size.height, &squeezed).ok()?;
        let mut stretched = TypedImage::new(self.side_px, self.side_px);
        self.resizer.resize_typed(&source, &mut stretched, &options).ok()?;
        Some(stretched.pixels().iter().map(|pixel| pixel.0).collect())
    }
}

#[cfg(test)]
mod tests;
