//! Where to ask: the body region on a coarse grid, and the places of the prompts in it.

use crate::service::options::Profile;

/// Which part of a square picture is body, on a coarse grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::service) struct BodyGrid {
    /// Row by row, [`BodyGrid::SIDE`] × [`BodyGrid::SIDE`] cells.
    cells: Vec<bool>,
}

impl BodyGrid {
    /// Cells per side: fine enough to place 64 prompts.
    pub(in crate::service) const SIDE: usize = 64;

    /// From cells, or `None` if there are not `SIDE²` of them.
    pub(in crate::service) fn new(cells: Vec<bool>) -> Option<Self> {
        (cells.len() == Self::SIDE * Self::SIDE).then_some(Self { cells })
    }

    /// No body anywhere.
    pub(in crate::service) fn nothing() -> Self {
        Self { cells: vec![false; Self::SIDE * Self::SIDE] }
    }

    pub(in crate::service) fn cells(&self) -> &[bool] {
        &self.cells
    }

    pub(super) fn contains(&self, x: f64, y: f64) -> bool {
        let cell = |v: f64| cell_index(v, Self::SIDE);
        self.cells.get(cell(y) * Self::SIDE + cell(x)).copied().unwrap_or(false)
    }

    /// Left, top, right, bottom as shares of the picture; `None` when nothing is body.
    pub(super) fn bounds(&self) -> Option<[f64; 4]> {
        let places = self.cells.iter().enumerate().filter(|(_, body)| **body);
        let (mut x0, mut y0, mut x1, mut y1) = (usize::MAX, usize::MAX, 0, 0);
        for (index, _) in places {
            let (x, y) = (index % Self::SIDE, index / Self::SIDE);
            (x0, y0, x1, y1) = (x0.min(x), y0.min(y), x1.max(x + 1), y1.max(y + 1));
        }
        let share = |v: usize| v as f64 / Self::SIDE as f64;
        (x0 != usize::MAX).then(|| [share(x0), share(y0), share(x1), share(y1)])
    }

    /// Share of the picture that is body.
    pub(super) fn area(&self) -> f64 {
        self.cells.iter().filter(|body| **body).count() as f64 / self.cells.len() as f64
    }
}

/// Index of the cell of 0..`side` in which the share `v` of the picture lies.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..side before the cast"
)]
pub(super) fn cell_index(v: f64, side: usize) -> usize {
    (v * side as f64).floor().clamp(0.0, (side - 1) as f64) as usize
}

/// Places of the prompts, as shares of the picture: the densest regular grid over the profile's
/// region of the body with at most `profile.prompts` points inside the body.
pub(in crate::service) fn places(body: &BodyGrid, profile: &Profile) -> Vec<(f64, f64)> {
    let Some([x0, y0, x1, y1]) = body.bounds() else { return Vec::new() };
    let [left, top, right, bottom] = profile.region;
    let (width, height) = (x1 - x0, y1 - y0);
    let limit = profile.prompts.clamp(1, 64);
    let grid = |side: usize| -> Vec<(f64, f64)> {
        let step =
            |low: f64, high: f64, i: usize| low + (high - low) * (i as f64 + 0.5) / side as f64;
        (0..side * side)
            .map(|i| {
                (
                    x0 + width * step(left, right, i % side),
                    y0 + height * step(top, bottom, i / side),
                )
            })
            .filter(|&(x, y)| body.contains(x, y))
            .collect()
    };
    (1..=16).rev().map(grid).find(|points| points.len() <= limit).unwrap_or_default()
}
