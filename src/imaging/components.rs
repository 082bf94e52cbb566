//! Connected components of a binary image, from its runs.
//!
//! Connectivity: the marked pixels hang together over edges **and corners** (8-connected), so the
//! background only over edges (4-connected); the two are dual, so that a diagonal line is never both
//! crossed and whole. That is also what OpenCV's `findContours` does, so editors built on it count
//! the same pieces; thin oblique structures (fascia, the tip of a psoas) stay in one piece.
//!
//! How: one pass collects runs row by row and joins each with the runs it touches in the row above
//! (union by smaller index, path halving). Memory is by runs, not by pixels.

use crate::domain::slice::Size;

/// Which pixels touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connectivity {
    /// Over edges and corners: for what is marked.
    Eight,
    /// Over edges only: for holes.
    Four,
}

/// Pixels `start..end` of row `y` that have the value looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    y: u32,
    start: u32,
    end: u32,
    /// Index into [`Components::pieces`].
    piece: usize,
}

impl Run {
    fn len(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// What is known of one component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Pixels.
    pub(crate) area: usize,
    /// Does it touch the border of the image?
    pub(crate) at_border: bool,
}

/// All components of one value.
#[derive(Debug)]
pub(crate) struct Components {
    runs: Vec<Run>,
    pieces: Vec<Piece>,
}

impl Components {
    /// Of the pixels equal to `value`; `pixels` is [H, W] of `size`. Pieces are in the order of
    /// their first pixel, row by row.
    pub(crate) fn of(pixels: &[u8], size: Size, value: u8, connectivity: Connectivity) -> Self {
        let mut runs = runs_of(pixels, size, value);
        let piece_of_run = joined(&runs, connectivity);
        let mut pieces: Vec<Piece> = Vec::new();
        for (run, piece) in runs.iter_mut().zip(piece_of_run) {
            run.piece = piece;
            if piece == pieces.len() {
                pieces.push(Piece::default());
            }
            if let Some(of) = pieces.get_mut(piece) {
                of.area += run.len();
                of.at_border |= run.start == 0
                    || run.end == size.width
                    || run.y == 0
                    || run.y + 1 == size.height;
            }
        }
        Self { runs, pieces }
    }

    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Row, start and end of all runs of the chosen pieces, for [`Mask::painted`].
    ///
    /// [`Mask::painted`]: crate::domain::mask::Mask::painted
    pub(crate) fn runs_where(
        &self,
        chosen: impl Fn(usize, &Piece) -> bool,
    ) -> Vec<(u32, u32, u32)> {
        let pieces = self.pieces.iter().enumerate();
        let chosen: Vec<bool> = pieces.map(|(index, piece)| chosen(index, piece)).collect();
        let runs = self.runs.iter();
        runs.filter(|run| chosen.get(run.piece) == Some(&true))
            .map(|run| (run.y, run.start, run.end))
            .collect()
    }

    /// The piece that holds a pixel.
    pub(crate) fn at(&self, x: u32, y: u32) -> Option<usize> {
        let after = self.runs.partition_point(|run| (run.y, run.start) <= (y, x));
        let run = self.runs.get(after.checked_sub(1)?)?;
        (run.y == y && x < run.end).then_some(run.piece)
    }
}

fn runs_of(pixels: &[u8], size: Size, value: u8) -> Vec<Run> {
    let mut runs = Vec::new();
    for (y, row) in (0u32..).zip(pixels.chunks_exact(size.width.max(1) as usize)) {
        let mut x = 0u32;
        let mut rest = row;
        while let Some(skip) = rest.iter().position(|&p| p == value) {
            let (_, from_start) = rest.split_at(skip);
            let len = from_start.iter().position(|&p| p != value).unwrap_or(from_start.len());
            // A row is at most u32::MAX pixels wide, and skip + len stay within it.
            let (start, end) = (x + narrow(skip), x + narrow(skip + len));
            runs.push(Run { y, start, end, piece: 0 });
            x = end;
            (_, rest) = from_start.split_at(len);
        }
    }
    runs
}

fn narrow(offset: usize) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

/// For every run the number of its piece, numbered in order of first appearance.
#[expect(clippy::indexing_slicing, reason = "every index is below runs.len(), which sizes both")]
fn joined(runs: &[Run], connectivity: Connectivity) -> Vec<usize> {
    let reach = match connectivity {
        Connectivity::Eight => 1,
        Connectivity::Four => 0,
    };
    let mut parent: Vec<usize> = (0..runs.len()).collect();
    let mut above = 0; // first run of the row above that may still touch
    for (index, run) in runs.iter().enumerate() {
        while above < index
            && (runs[above].y + 1 < run.y
                || (runs[above].y + 1 == run.y && runs[above].end + reach <= run.start))
        {
            above += 1;
        }
        let touching = runs[above..index]
            .iter()
            .take_while(|over| over.y + 1 == run.y && over.start < run.end + reach);
        for (offset, _) in touching.enumerate() {
            let (a, b) = (root(&mut parent, above + offset), root(&mut parent, index));
            let (low, high) = (a.min(b), a.max(b));
            parent[high] = low;
        }
    }
    let mut numbers = vec![usize::MAX; runs.len()];
    let mut next = 0;
    for index in 0..runs.len() {
        // A root is the smallest index of its piece, so it was numbered first.
        let root = root(&mut parent, index);
        if root == index {
            numbers[index] = next;
            next += 1;
        } else {
            numbers[index] = numbers[root];
        }
    }
    numbers
}

#[expect(clippy::indexing_slicing, reason = "parents are indices of the same vector")]
fn root(parent: &mut [usize], mut index: usize) -> usize {
    while parent[index] != index {
        parent[index] = parent[parent[index]];
        index = parent[index];
    }
    index
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "the pictures of these tests are small"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn picture(text: &str) -> (Vec<u8>, Size) {
        let rows: Vec<&str> = text.split_whitespace().collect();
        let size = Size {
            width: u32::try_from(rows[0].len()).unwrap(),
            height: u32::try_from(rows.len()).unwrap(),
        };
        let pixels = rows.concat().bytes().map(|b| if b == b'#' { 255 } else { 0 }).collect();
        (pixels, size)
    }

    /// Labels by flooding, as slow and plain as can be.
    fn flooded(pixels: &[u8], size: Size, value: u8, eight: bool) -> Vec<usize> {
        let (w, h) = (size.width as i64, size.height as i64);
        let mut labels = vec![usize::MAX; pixels.len()];
        let mut next = 0;
        for start in 0..pixels.len() {
            if pixels[start] != value || labels[start] != usize::MAX {
                continue;
            }
            let mut stack = vec![start];
            labels[start] = next;
            while let Some(at) = stack.pop() {
                let (x, y) = (at as i64 % w, at as i64 / w);
                for (dx, dy) in (-1..=1).flat_map(|dx| (-1..=1).map(move |dy| (dx, dy))) {
                    let (nx, ny) = (x + dx, y + dy);
                    if (!eight && dx != 0 && dy != 0) || nx < 0 || ny < 0 || nx >= w || ny >= h {
                        continue;
                    }
                    let to = usize::try_from(ny * w + nx).unwrap();
                    if pixels[to] == value && labels[to] == usize::MAX {
                        labels[to] = next;
                        stack.push(to);
                    }
                }
            }
            next += 1;
        }
        labels
    }

    #[test]
    fn corners_join_what_is_marked_and_not_the_background() {
        let (pixels, size) = picture("#.. .#. ..#");
        assert_eq!(Components::of(&pixels, size, 255, Connectivity::Eight).pieces().len(), 1);
        assert_eq!(Components::of(&pixels, size, 255, Connectivity::Four).pieces().len(), 3);
        assert_eq!(Components::of(&pixels, size, 0, Connectivity::Four).pieces().len(), 2);
    }

    proptest! {
        #[test]
        fn components_are_those_of_a_flood_fill(
            width in 1u32..24, bits in prop::collection::vec(any::<bool>(), 1..600), eight: bool,
        ) {
            let height = (bits.len() as u32).div_ceil(width);
            let size = Size { width, height };
            let mut pixels: Vec<u8> = bits.iter().map(|&b| u8::from(b) * 255).collect();
            pixels.resize(size.pixels(), 0);
            let connectivity = if eight { Connectivity::Eight } else { Connectivity::Four };
            for value in [0, 255] {
                let components = Components::of(&pixels, size, value, connectivity);
                let expected = flooded(&pixels, size, value, eight);
                for (index, &label) in expected.iter().enumerate() {
                    let (x, y) = (index as u32 % width, index as u32 / width);
                    prop_assert_eq!(components.at(x, y), (label != usize::MAX).then_some(label));
                }
                for (piece, found) in components.pieces().iter().enumerate() {
                    let of_piece = || (0..pixels.len()).filter(|&i| expected[i] == piece);
                    prop_assert_eq!(found.area, of_piece().count());
                    let at_border = of_piece().any(|i| {
                        let (x, y) = (i as u32 % width, i as u32 / width);
                        x == 0 || y == 0 || x + 1 == width || y + 1 == height
                    });
                    prop_assert_eq!(found.at_border, at_border);
                }
            }
        }
    }
}
