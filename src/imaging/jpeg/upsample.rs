//! Planes to pixels: libjpeg's triangle filter for chroma, its colour conversion.
//!
//! "Fancy" upsampling weighs the nearer sample 3/4 and the farther 1/4, with rounding that alternates
//! so that nothing drifts; factors other than 2, and lossless frames, repeat samples. Source: the comments in libjpeg's
//! jdsample.c and jdcolor.c; the arithmetic is the format's de-facto meaning.

use super::frame::{Frame, Grid};
use super::idct::Sample;
use super::{JpegError, Result, Transform};

/// Pixels of all components side by side.
pub(super) fn pixels<S: Sample>(
    frame: &Frame,
    planes: &[Vec<S>],
    transform: Transform,
) -> Result<Vec<S>> {
    let count = planes.len();
    let mut rows: Vec<RowMaker<'_, S>> = frame
        .grids
        .iter()
        .zip(planes)
        .map(|(grid, plane)| RowMaker::new(frame, *grid, plane))
        .collect::<Result<_>>()?;
    let mut pixels = vec![S::default(); frame.width * frame.height * count];
    for (y, output) in pixels.chunks_exact_mut(frame.width * count).enumerate() {
        for (index, row) in rows.iter_mut().enumerate() {
            let samples = row.row(y);
            for (place, &sample) in output.iter_mut().skip(index).step_by(count).zip(samples) {
                *place = sample;
            }
        }
        match transform {
            Transform::None => {}
            Transform::YcbcrToRgb => output.as_chunks_mut::<3>().0.iter_mut().for_each(to_rgb),
            Transform::YcckToCmyk => output.as_chunks_mut::<4>().0.iter_mut().for_each(|pixel| {
                let [y, cb, cr, k] = *pixel;
                let mut rgb = [y, cb, cr];
                to_rgb(&mut rgb);
                let [r, g, b] =
                    rgb.map(|level| S::clamp(2 * S::CENTER - 1 - i64::from(level.value())));
                *pixel = [r, g, b, k];
            }),
        }
    }
    Ok(pixels)
}

/// JFIF's YCbCr, with 16-bit constants.
#[inline]
fn to_rgb<S: Sample>(pixel: &mut [S; 3]) {
    let [y, cb, cr] = pixel.map(|sample| i64::from(sample.value()));
    let (cb, cr) = (cb - S::CENTER, cr - S::CENTER);
    const HALF: i64 = 1 << 15;
    *pixel = [
        S::clamp(y + ((91_881 * cr + HALF) >> 16)),
        S::clamp(y + ((-22_554 * cb - 46_802 * cr + HALF) >> 16)),
        S::clamp(y + ((116_130 * cb + HALF) >> 16)),
    ];
}

/// How a component is brought to the frame's size.
#[derive(Clone, Copy)]
enum Method {
    /// Each sample is repeated so often, across and down.
    Repeat(usize, usize),
    /// Twice as wide.
    Across,
    /// Twice as tall.
    Down,
    /// Both.
    Both,
}

struct RowMaker<'p, S> {
    grid: Grid,
    plane: &'p [S],
    method: Method,
    row: Vec<S>,
    /// Weighted sums of two rows.
    sums: Vec<i32>,
}

impl<'p, S: Sample> RowMaker<'p, S> {
    fn new(frame: &Frame, grid: Grid, plane: &'p [S]) -> Result<Self> {
        if !frame.h_max.is_multiple_of(grid.h) || !frame.v_max.is_multiple_of(grid.v) {
            return Err(JpegError::new("its sampling factors are no multiples of each other"));
        }
        let method = match (frame.h_max / grid.h, frame.v_max / grid.v) {
            (h, v) if grid.side == 1 => Method::Repeat(h, v),
            // libjpeg leaves pictures of one or two samples' width alone.
            (2, 1) if grid.width > 2 => Method::Across,
            (2, 2) if grid.width > 2 => Method::Both,
            (1, 2) => Method::Down,
            (h, v) => Method::Repeat(h, v),
        };
        let row = vec![S::default(); frame.mcus_across * frame.h_max * grid.side + 2];
        Ok(Self { grid, plane, method, row, sums: vec![0; grid.width] })
    }

    /// Samples of one of the plane's own rows.
    fn own(&self, y: usize) -> &'p [S] {
        let y = y.min(self.grid.height - 1);
        let stride = self.grid.stride();
        self.plane.get(y * stride..y * stride + self.grid.width).unwrap_or_default()
    }

    /// The frame's row `y`, at least as wide as the frame.
    fn row(&mut self, y: usize) -> &[S] {
        match self.method {
            Method::Repeat(1, v) => return self.own(y / v),
            Method::Repeat(h, v) => {
                let source = self.own(y / v);
                for (places, &sample) in self.row.chunks_mut(h).zip(source) {
                    places.fill(sample);
                }
            }
            Method::Across => {
                let source = self.own(y);
                self.sums.iter_mut().zip(source).for_each(|(sum, &s)| *sum = s.value());
                widen(&self.sums, &mut self.row, [4, 3, 1], [0, 1, 2], 2);
            }
            Method::Down => {
                let (near, far) = self.pair(y);
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for (place, (&near, &far)) in self.row.iter_mut().zip(near.iter().zip(far)) {
                    *place = S::clamp(i64::from((near.value() * 3 + far.value() + bias) >> 2));
                }
            }
            Method::Both => {
                let (near, far) = self.pair(y);
                for (sum, (&near, &far)) in self.sums.iter_mut().zip(near.iter().zip(far)) {
                    *sum = near.value() * 3 + far.value();
                }
                widen(&self.sums, &mut self.row, [4, 3, 1], [8, 8, 7], 4);
            }
        }
        &self.row
    }

    /// The nearer and the farther of the plane's rows for the frame's row `y`.
    fn pair(&self, y: usize) -> (&'p [S], &'p [S]) {
        let near = y / 2;
        let far = if y.is_multiple_of(2) { near.saturating_sub(1) } else { near + 1 };
        (self.own(near), self.own(far))
    }
}

/// Twice as many samples: `weights` are those of an edge alone, of the nearer, of the farther; `bias`
/// of the left edge, of left halves, of right halves (and the right edge, where it is not 0).
fn widen<S: Sample>(sums: &[i32], row: &mut [S], weights: [i32; 3], bias: [i32; 3], shift: u32) {
    let [edge, near, far] = weights;
    let [first, left, right] = bias;
    // A lone edge is exact in one dimension: no rounding there.
    let last = if shift == 2 { 0 } else { right };
    let (pairs, _) = row.as_chunks_mut::<2>();
    let end = sums.len().saturating_sub(1);
    for (x, (pair, &sum)) in pairs.iter_mut().zip(sums).enumerate() {
        let at = |x: Option<usize>| x.and_then(|x| sums.get(x)).copied().unwrap_or(sum);
        let before = if x == 0 {
            sum * edge + first
        } else {
            sum * near + at(x.checked_sub(1)) * far + left
        };
        let after =
            if x == end { sum * edge + last } else { sum * near + at(Some(x + 1)) * far + right };
        *pair = [S::clamp(i64::from(before >> shift)), S::clamp(i64::from(after >> shift))];
    }
}
