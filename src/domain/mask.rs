//! The answer's geometry: a binary mask at the image's own size, its bounding box, and the shapes
//! an editor draws.
//!
//! Edge coordinates throughout: pixel (i, j) covers `[i, i+1) × [j, j+1)`, so a bounding box's far
//! edge is one past its last pixel and polygon corners are integers on the pixel grid.

use super::slice::Size;

/// A binary mask, [H, W], one byte a pixel: 0 or 255.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    size: Size,
    pixels: Vec<u8>,
}

impl Mask {
    /// `None` unless `pixels` has one byte a pixel, each 0 or 255.
    #[must_use]
    pub fn new(size: Size, pixels: Vec<u8>) -> Option<Self> {
        let binary = pixels.iter().all(|&p| p == 0 || p == 255);
        (binary && pixels.len() == size.pixels()).then_some(Self { size, pixels })
    }

    /// Nothing marked.
    #[must_use]
    pub fn empty(size: Size) -> Self {
        Self { size, pixels: vec![0; size.pixels()] }
    }

    /// Width and height.
    #[must_use]
    pub fn size(&self) -> Size {
        self.size
    }

    /// The bytes, row by row.
    #[must_use]
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// Marked pixels.
    #[must_use]
    pub fn area(&self) -> usize {
        self.pixels.iter().filter(|&&p| p != 0).count()
    }

    /// Is nothing marked?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pixels.iter().all(|&p| p == 0)
    }

    /// Is the pixel marked? Outside the image nothing is.
    #[must_use]
    pub fn contains(&self, x: u32, y: u32) -> bool {
        x < self.size.width
            && y < self.size.height
            && self.pixels.get(y as usize * self.size.width as usize + x as usize) == Some(&255)
    }

    /// With runs of pixels (`row, start..end`) marked, or cleared. What lies outside is ignored.
    #[must_use]
    pub fn painted(mut self, runs: impl IntoIterator<Item = (u32, u32, u32)>, mark: bool) -> Self {
        let width = self.size.width as usize;
        for (y, start, end) in runs {
            let first = y as usize * width;
            let row = self.pixels.get_mut(first..first + width);
            if let Some(run) = row.and_then(|row| row.get_mut(start as usize..end as usize)) {
                run.fill(if mark { 255 } else { 0 });
            }
        }
        self
    }

    /// The smallest rectangle that holds every marked pixel; `None` when nothing is marked.
    #[must_use]
    pub fn bounding_box(&self) -> Option<BoundingBox> {
        let width = self.size.width as usize;
        let (mut left, mut right, mut top, mut bottom) = (u32::MAX, 0, u32::MAX, 0);
        for (y, row) in (0u32..).zip(self.pixels.chunks_exact(width)) {
            let columns = || (0u32..).zip(row).filter(|(_, p)| **p != 0).map(|(x, _)| x);
            let Some(first) = columns().next() else { continue };
            left = left.min(first);
            right = right.max(columns().last().unwrap_or(first));
            top = top.min(y);
            bottom = y;
        }
        (top != u32::MAX).then(|| BoundingBox {
            x: left,
            y: top,
            width: right - left + 1,
            height: bottom - top + 1,
        })
    }
}

/// A rectangle of whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BoundingBox {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Columns covered, at least 1.
    pub width: u32,
    /// Rows covered, at least 1.
    pub height: u32,
}

/// A corner on the pixel grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vertex {
    /// Right, 0..=W.
    pub x: u32,
    /// Down, 0..=H.
    pub y: u32,
}

/// What an editor draws.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Annotation {
    /// For L3: the bounding box.
    Rectangle(BoundingBox),
    /// For middle and auto: outer rings, largest first, simplified within one pixel, not closed
    /// (the last corner joins the first).
    Polygons(Vec<Vec<Vertex>>),
}

/// The annotation context of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ImageType {
    /// Mid-sagittal reformat on which L3 is marked with a rectangle.
    L3,
    /// Axial slice through the middle of L3, outlined with polygons.
    Middle,
    /// Anything else.
    Auto,
}

/// What one click looks for in a `middle` slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Target {
    /// Psoas, left and right.
    Psoas,
    /// All muscle.
    #[default]
    Muscle,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every marked pixel is in the box, and each of its four sides touches one.
        #[test]
        fn the_bounding_box_is_the_smallest_one(
            width in 1_u32..24,
            height in 1_u32..24,
            seed in proptest::collection::vec(0_u8..12, 576),
        ) {
            let size = Size { width, height };
            let pixels: Vec<u8> =
                seed.iter().take(size.pixels()).map(|&v| if v == 0 { 255 } else { 0 }).collect();
            let mask = Mask::new(size, pixels).unwrap();
            let marked: Vec<(u32, u32)> = (0..height)
                .flat_map(|y| (0..width).map(move |x| (x, y)))
                .filter(|&(x, y)| mask.contains(x, y))
                .collect();
            let expected = marked.iter().map(|p| p.0).min().map(|x| {
                let y = marked.iter().map(|p| p.1).min().unwrap();
                let right = marked.iter().map(|p| p.0).max().unwrap();
                let bottom = marked.iter().map(|p| p.1).max().unwrap();
                BoundingBox { x, y, width: right - x + 1, height: bottom - y + 1 }
            });
            prop_assert_eq!(mask.bounding_box(), expected);
            prop_assert_eq!(mask.area(), marked.len());
            prop_assert_eq!(mask.is_empty(), marked.is_empty());
        }
    }

    #[test]
    fn only_binary_pixels_of_the_right_number_are_a_mask() {
        let size = Size { width: 2, height: 1 };
        assert!(Mask::new(size, vec![0, 255]).is_some());
        assert!(Mask::new(size, vec![0, 1]).is_none());
        assert!(Mask::new(size, vec![0]).is_none());
    }
}
