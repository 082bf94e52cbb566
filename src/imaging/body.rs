//! Where the body is, by intensity alone: where it is worth looking for an object, and what share of
//! the body an object is.
//!
//! How: the picture is averaged into at most [`CELLS`] cells a side and smoothed, which swallows
//! noise and thin things (table, tubes); Otsu's threshold (Otsu 1979) parts the cells, and the line
//! is then drawn half way from the background's most frequent level to it, so that fat, darker than
//! muscle, stays with the body; of the pieces the largest and any of similar size are kept (two
//! legs) and their holes filled (lungs, gas).
//!
//! Mid-sagittal pictures of the existing kind have **white** air (0 was rewritten to 255), and specks
//! of white in fat. There the share of pixels that are not white takes the place of the level, and
//! bone, white as well, comes back as a hole.
//!
//! Invariants:
//! 1. A picture of one level has no body.
//! 2. The result is exact to a cell, and rather too large by one than too small: it steers prompts,
//!    it is never an answer.
//!
//! What it can't tell: fat from air where the window shows both black (−100..200 HU: subcutaneous
//! fat is outside), and air from padding where a file's min–max window shows a round field of view.

use super::Levels;
use super::components::{Components, Connectivity};
use crate::domain::mask::Mask;
use crate::domain::slice::Size;

/// Cells along the longer side at most: 4 pixels each for a 512×512 slice.
const CELLS: u32 = 128;

/// From here on a level counts as white. Below 255 because JPEG blurs it.
const WHITE: u8 = 250;

/// Up to here a level counts as black.
const BLACK: u8 = 5;

/// Air is white when at least this share of the picture's frame is white (and less is black): a body
/// may fill most of a sagittal picture's frame (top, bottom, back), its bones hardly a tenth.
const WHITE_FRAME: f64 = 0.1;

/// In a picture with white air, share of pixels that are not white from which a cell is body. Less
/// than half: subcutaneous fat at −100 HU is specked with white.
const NOT_WHITE: f32 = 0.35;

/// Share of the variance that a second split, of the darker part, must explain to count.
const SHARP: f64 = 0.85;

/// A piece this large beside the largest is body too (the other leg); a table is less.
const SECOND_PIECE: f64 = 0.3;

/// The body as a mask at the image's size; empty when nothing stands out. `None` when `levels` are
/// not of that `size`: a bug of the caller.
#[must_use]
pub fn body_mask(levels: &Levels, size: Size) -> Option<Mask> {
    let grey = grey(levels, size)?;
    let cells = Cells::over(size);
    let (values, line) = if air_is_white(&grey, size) {
        (cells.averaged(&grey, size, |level| f32::from(u8::from(level < WHITE))), NOT_WHITE)
    } else {
        let levels = cells.averaged(&grey, size, f32::from);
        let line = dividing_line(&cells.smoothed(&levels));
        (levels, line)
    };
    // Not the cells' own values, although smoothing grows the body by a cell: it also closes gaps
    // (thin skin, dark bowel walls) through which organs fell out of the body.
    let marked = cells.smoothed(&values).into_iter().map(|value| value > line);
    let pixels = marked.map(|inside| if inside { 255 } else { 0 }).collect();
    let body = main_pieces(Mask::new(cells.grid, pixels)?);
    Mask::new(size, cells.spread(&body, size))
}

fn grey(levels: &Levels, size: Size) -> Option<Vec<u8>> {
    let grey = match levels {
        Levels::Grey(grey) => grey.clone(),
        // Rec. 601 luma, in 1/256.
        Levels::Rgb(rgb) => rgb
            .chunks_exact(3)
            .map(|pixel| {
                let weighted = pixel.iter().zip([77u32, 150, 29]);
                let sum: u32 = weighted.map(|(&level, weight)| u32::from(level) * weight).sum();
                u8::try_from(sum >> 8).unwrap_or(u8::MAX)
            })
            .collect(),
    };
    (grey.len() == size.pixels() && !grey.is_empty()).then_some(grey)
}

#[expect(clippy::cast_precision_loss, reason = "pixels along a frame are far below 2^53")]
fn air_is_white(grey: &[u8], size: Size) -> bool {
    let width = size.width as usize;
    let (mut white, mut black, mut all) = (0usize, 0usize, 0usize);
    let last = size.height as usize - 1;
    for (y, row) in grey.chunks_exact(width).enumerate() {
        let step = if y == 0 || y == last { 1 } else { (width - 1).max(1) };
        for &level in row.iter().step_by(step) {
            all += 1;
            white += usize::from(level >= WHITE);
            black += usize::from(level <= BLACK);
        }
    }
    white > black && white as f64 >= WHITE_FRAME * all as f64
}

/// The grid of cells over a picture.
struct Cells {
    grid: Size,
    /// Pixels along a cell's side.
    px: u32,
}

impl Cells {
    fn over(size: Size) -> Self {
        let px = size.width.max(size.height).div_ceil(CELLS).max(1);
        let grid = Size { width: size.width.div_ceil(px), height: size.height.div_ceil(px) };
        Self { grid, px }
    }

    /// The mean of `value` over each cell.
    #[expect(clippy::cast_precision_loss, reason = "pixels of a cell are far below 2^24")]
    fn averaged(&self, grey: &[u8], size: Size, value: impl Fn(u8) -> f32) -> Vec<f32> {
        let (px, width) = (self.px as usize, size.width as usize);
        let mut means = Vec::with_capacity(self.grid.pixels());
        for rows in grey.chunks(px * width) {
            let mut sums = vec![0.0; self.grid.width as usize];
            for row in rows.chunks_exact(width) {
                for (sum, cell) in sums.iter_mut().zip(row.chunks(px)) {
                    *sum += cell.iter().map(|&level| value(level)).sum::<f32>();
                }
            }
            let height = rows.len() / width;
            let widths = (0..width).step_by(px).map(|x| px.min(width - x));
            means.extend(sums.iter().zip(widths).map(|(sum, width)| sum / (width * height) as f32));
        }
        means
    }

    /// The mean of each cell and those around it.
    fn smoothed(&self, cells: &[f32]) -> Vec<f32> {
        let (width, height) = (self.grid.width as usize, self.grid.height as usize);
        let at = |x: usize, y: usize| cells.get(y * width + x).copied().unwrap_or(0.0);
        let around =
            |center: usize, limit: usize| center.saturating_sub(1)..(center + 2).min(limit);
        let mean = |x: usize, y: usize| {
            let (mut sum, mut count) = (0.0, 0.0);
            for y in around(y, height) {
                for x in around(x, width) {
                    sum += at(x, y);
                    count += 1.0;
                }
            }
            sum / count
        };
        (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| mean(x, y)).collect()
    }

    /// Every cell's value at each of its pixels.
    fn spread(&self, body: &Mask, size: Size) -> Vec<u8> {
        let (px, width) = (self.px as usize, size.width as usize);
        let mut pixels = Vec::with_capacity(size.pixels());
        for (row, first) in
            body.pixels().chunks_exact(self.grid.width as usize).zip((0..).step_by(px))
        {
            let wide: Vec<u8> =
                row.iter().flat_map(|&cell| std::iter::repeat_n(cell, px)).take(width).collect();
            for _ in first..(first + px).min(size.height as usize) {
                pixels.extend_from_slice(&wide);
            }
        }
        pixels
    }
}

/// The level above which a cell is body: half way from the background's most frequent level to
/// Otsu's threshold. Nothing is above it where all cells are equal.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "levels are 0..=255"
)]
fn dividing_line(levels: &[f32]) -> f32 {
    let mut histogram = [0; 256];
    for &level in levels {
        if let Some(count) = histogram.get_mut(level as usize) {
            *count += 1;
        }
    }
    let Some(mut split) = Split::of(&histogram) else { return f32::INFINITY };
    // In MR fat may outshine muscle so much that the first split parts those two.
    let darker = histogram.get(..split.above).and_then(Split::of);
    if let Some(darker) = darker.filter(|darker| darker.sharpness >= SHARP) {
        split = darker;
    }
    let background = histogram.iter().take(split.above).enumerate().rev();
    let mode = background.max_by_key(|(_, count)| **count).map_or(0, |(level, _)| level);
    (mode + split.above) as f32 / 2.0
}

/// Otsu's split of a histogram in two.
struct Split {
    /// The first level of the upper part.
    above: usize,
    /// Share of the variance that lies between the two parts, 0..1.
    sharpness: f64,
}

impl Split {
    /// `None` where all is on one level.
    #[expect(clippy::cast_precision_loss, reason = "levels are 0..=255")]
    fn of(histogram: &[u32]) -> Option<Self> {
        let moment = |power: i32| -> f64 {
            let levels = histogram.iter().enumerate();
            levels.map(|(level, &count)| (level as f64).powi(power) * f64::from(count)).sum()
        };
        let (all, sum) = (moment(0), moment(1));
        let variance = moment(2) / all - (sum / all).powi(2);
        let (mut below, mut below_sum) = (0.0, 0.0);
        let mut best: Option<Self> = None;
        for (level, &count) in histogram.iter().enumerate() {
            below += f64::from(count);
            below_sum += level as f64 * f64::from(count);
            let above = all - below;
            if below == 0.0 || above <= 0.0 {
                continue;
            }
            let apart = below_sum / below - (sum - below_sum) / above;
            let sharpness = below * above * apart * apart / (all * all * variance);
            if best.as_ref().is_none_or(|best| sharpness > best.sharpness) {
                best = Some(Self { above: level + 1, sharpness });
            }
        }
        best
    }
}

/// The largest piece and those of similar size, holes filled.
#[expect(clippy::cast_precision_loss, reason = "at most 128×128 cells")]
fn main_pieces(mask: Mask) -> Mask {
    let size = mask.size();
    let pieces = Components::of(mask.pixels(), size, 255, Connectivity::Eight);
    let largest = pieces.pieces().iter().map(|piece| piece.area).max().unwrap_or(0);
    let dropped = pieces.runs_where(|_, piece| (piece.area as f64) < SECOND_PIECE * largest as f64);
    let mask = mask.painted(dropped, false);
    let background = Components::of(mask.pixels(), size, 0, Connectivity::Four);
    let holes = background.runs_where(|_, piece| !piece.at_border);
    mask.painted(holes, true)
}

#[cfg(test)]
mod tests;
