//! Separable filters from an image to a square: antialiased bilinear, and exact area.
//!
//! How: rows first, straight from the 8-bit levels; then columns, for [`LANES`] output rows at a time
//! turned so that those rows lie side by side. Every inner loop is the same few operations on
//! neighbouring f32, which compilers turn into SSE2 or NEON without being told. No intermediate image
//! exists, so memory is a few rows whatever the size.
//!
//! Why ours: fast_image_resize computes f32 images in f64, wants the whole input as f32 beside them,
//! and is scalar on aarch64. `benches/imaging` measures it.
//!
//! Invariants:
//! 1. The weights of every output sum to 1; all are in f32, as torchvision's are.
//! 2. Nothing depends on the order of rows: a flipped image gives the flipped result within rounding.

use crate::domain::slice::Size;

/// Output rows filtered together: two SSE or NEON registers, one of AVX2.
const LANES: usize = 8;

/// What an output pixel is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// A triangle as wide as two output pixels, at least as two input pixels: torchvision's
    /// antialiased bilinear, and Pillow's.
    Triangle,
    /// The part of the input that it covers, each pixel by its share: OpenCV's `INTER_AREA`.
    Area,
}

/// Filters one interleaved 8-bit image of `channels` to `side`×`side`, and gives each finished row of
/// each channel, levels 0..=255 as f32, to `take(channel, row, levels)`. `None` when `levels` are not
/// of that size, or something is 0.
pub(crate) fn to_square(
    levels: &[u8],
    channels: usize,
    size: Size,
    side: usize,
    kernel: Kernel,
    mut take: impl FnMut(usize, usize, &[f32]),
) -> Option<()> {
    let (width, height) = (size.width as usize, size.height as usize);
    let stride = width.checked_mul(channels).filter(|&stride| stride > 0)?;
    if side == 0 || height == 0 || levels.len() != stride.checked_mul(height)? {
        return None;
    }
    let (rows, columns) = (Axis::new(height, side, kernel), Axis::new(width, side, kernel));
    let mut mixed = vec![0.0; LANES * stride];
    let mut lanes = vec![[0.0; LANES]; width];
    let mut filtered = vec![[0.0; LANES]; side];
    let mut row = vec![0.0; side];
    for first in (0..side).step_by(LANES) {
        let count = LANES.min(side - first);
        for (output, mixed) in (first..first + count).zip(mixed.chunks_exact_mut(stride)) {
            let (start, weights) = rows.taps(output)?;
            mix(levels.get(start * stride..)?, weights, mixed);
        }
        for channel in 0..channels {
            turn(&mixed, stride, channels, channel, &mut lanes);
            for (output, filtered) in filtered.iter_mut().enumerate() {
                let (start, weights) = columns.taps(output)?;
                *filtered = weigh(lanes.get(start..start + weights.len())?, weights);
            }
            for lane in 0..count {
                for (value, lanes) in row.iter_mut().zip(&filtered) {
                    *value = *lanes.get(lane)?;
                }
                take(channel, first + lane, &row);
            }
        }
    }
    Some(())
}

/// For every output the inputs it is made of: the same number for all, beginning at `starts`, with
/// weights of 0 where it needs fewer.
struct Axis {
    starts: Vec<usize>,
    taps: usize,
    weights: Vec<f32>,
}

impl Axis {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are far below 2^53, and every bound is clamped to them"
    )]
    fn new(inputs: usize, outputs: usize, kernel: Kernel) -> Self {
        let scale = inputs as f64 / outputs as f64;
        let reach = match kernel {
            Kernel::Triangle => scale.max(1.0),
            Kernel::Area => scale / 2.0,
        };
        let taps = ((2.0 * reach).ceil() as usize + 1).min(inputs);
        let mut starts = Vec::with_capacity(outputs);
        let mut weights = Vec::with_capacity(outputs * taps);
        for output in 0..outputs {
            let center = (output as f64 + 0.5) * scale;
            let start = ((center - reach).floor().max(0.0) as usize).min(inputs - taps);
            let weight = |input: usize| match kernel {
                Kernel::Triangle => (1.0 - ((input as f64 + 0.5 - center) / reach).abs()).max(0.0),
                Kernel::Area => {
                    let (low, high) = (center - reach, center + reach);
                    ((input as f64 + 1.0).min(high) - (input as f64).max(low)).max(0.0)
                }
            };
            let sum: f64 = (start..start + taps).map(weight).sum();
            starts.push(start);
            weights.extend((start..start + taps).map(|input| (weight(input) / sum) as f32));
        }
        Self { starts, taps, weights }
    }

    fn taps(&self, output: usize) -> Option<(usize, &[f32])> {
        let weights = self.weights.get(output * self.taps..)?.get(..self.taps)?;
        Some((*self.starts.get(output)?, weights))
    }
}

/// The weighted sum of rows.
fn mix(rows: &[u8], weights: &[f32], mixed: &mut [f32]) {
    mixed.fill(0.0);
    for (row, &weight) in rows.chunks_exact(mixed.len()).zip(weights) {
        // Taps beyond the edge weigh nothing and would cost as much as the others.
        if weight != 0.0 {
            for (sum, &level) in mixed.iter_mut().zip(row) {
                *sum += weight * f32::from(level);
            }
        }
    }
}

/// [`LANES`] rows, one after the other, to one channel's pixels with their rows side by side.
fn turn(mixed: &[f32], stride: usize, channels: usize, channel: usize, lanes: &mut [[f32; LANES]]) {
    for (lane, row) in mixed.chunks_exact(stride).enumerate() {
        for (lanes, pixel) in lanes.iter_mut().zip(row.chunks_exact(channels)) {
            if let (Some(to), Some(&from)) = (lanes.get_mut(lane), pixel.get(channel)) {
                *to = from;
            }
        }
    }
}

fn weigh(pixels: &[[f32; LANES]], weights: &[f32]) -> [f32; LANES] {
    let mut sums = [0.0; LANES];
    for (pixel, &weight) in pixels.iter().zip(weights) {
        for (sum, value) in sums.iter_mut().zip(pixel) {
            *sum += weight * value;
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(levels: &[u8], width: u32, height: u32, side: usize, kernel: Kernel) -> Vec<f32> {
        let mut out = vec![f32::NAN; side * side];
        to_square(levels, 1, Size { width, height }, side, kernel, |_, row, values| {
            out[row * side..][..side].copy_from_slice(values);
        })
        .unwrap();
        out
    }

    #[test]
    fn area_weighs_every_pixel_by_its_share() {
        // 3 → 2: the middle pixel is shared by halves.
        assert_eq!(square(&[30, 60, 120], 3, 1, 2, Kernel::Area), [40.0, 100.0, 40.0, 100.0]);
        // Larger than the input: each output lies in one pixel, or between two.
        assert_eq!(square(&[0, 90], 2, 1, 3, Kernel::Area)[..3], [0.0, 45.0, 90.0]);
    }

    #[test]
    fn a_triangle_between_pixels_mixes_both() {
        let row = &square(&[0, 100], 2, 1, 4, Kernel::Triangle)[..4];
        assert_eq!(row, [0.0, 25.0, 75.0, 100.0]);
    }

    #[test]
    fn levels_of_another_size_are_refused() {
        let size = Size { width: 2, height: 2 };
        assert!(to_square(&[0; 3], 1, size, 4, Kernel::Area, |_, _, _| {}).is_none());
        assert!(to_square(&[0; 4], 1, size, 0, Kernel::Area, |_, _, _| {}).is_none());
        assert!(to_square(&[], 0, size, 4, Kernel::Area, |_, _, _| {}).is_none());
    }
}
