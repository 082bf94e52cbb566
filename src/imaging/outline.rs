//! A mask's outer rings as polygons on the pixel grid, and the way back.
//!
//! A ring follows the edges *between* pixels (edge coordinates, corners are integers), so its area is
//! the exact number of pixels inside it. Pixels that touch at a corner belong to one ring, as they
//! belong to one component (see [`components`](super::components)); such a ring passes that corner
//! twice but never crosses itself.
//!
//! Invariants:
//! 1. Rings run clockwise on screen, are not closed, and come largest first.
//! 2. Every pixel where [`rasterise`] of [`polygons`] and the mask (its holes filled) differ touches
//!    the mask's border: simplification moves an edge by less than a pixel.
//! 3. No component vanishes: a ring that simplification would distort is kept exact.
//!
//! It does not tell of holes: an outer ring can't. [`postprocess::holes_px`] counts them.
//!
//! [`postprocess::holes_px`]: super::postprocess::holes_px

use crate::domain::mask::{Mask, Vertex};
use crate::domain::slice::Size;

/// How far simplification may move an edge: below 1, so that a pixel's centre that lies further than
/// that from the border keeps its side. The second is tried where the first loses too much area; it
/// still joins the steps of a 45° edge, which are 0.71 deep.
const TOLERANCES_PX: [f64; 2] = [0.95, 0.75];

/// Share of its pixels that a simplified ring may lose or win; beyond that it stays exact. Thin
/// rings run into it: an edge that moves by a pixel is much of what they have.
const MAX_AREA_CHANGE: f64 = 0.02;

/// One outer ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Corners, clockwise on screen, not closed; at least 4 and every one a turn.
    pub corners: Vec<Vertex>,
    /// Pixels inside, holes included.
    pub area_px: u64,
}

/// The outer rings of a mask, exact, largest first (of equals the upper, then the left one).
#[must_use]
pub fn rings(mask: &Mask) -> Vec<Ring> {
    let mut rings = Tracer::new(mask).map(Tracer::trace).unwrap_or_default();
    rings.sort_by_key(|ring| std::cmp::Reverse(ring.area_px));
    rings
}

/// The outer rings, simplified within one pixel, largest first.
#[must_use]
pub fn polygons(mask: &Mask) -> Vec<Vec<Vertex>> {
    rings(mask).into_iter().map(simplified).collect()
}

/// Marks every pixel whose centre lies inside a polygon (winding number not 0, as a canvas fills).
/// Corners outside the image are clipped.
#[must_use]
pub fn rasterise(polygons: &[Vec<Vertex>], size: Size) -> Mask {
    let mut runs = Vec::new();
    for polygon in polygons {
        let edges = Edge::all(polygon);
        let mut crossings: Vec<_> = edges.iter().flat_map(|edge| edge.crossings(size)).collect();
        crossings.sort_unstable();
        let mut winding = 0;
        let mut start = 0;
        for (y, x, direction) in crossings {
            // Every row's directions add up to 0, so the next one starts outside.
            if winding == 0 {
                start = x;
            }
            winding += direction;
            if winding == 0 && start < x {
                runs.push((y, start, x));
            }
        }
    }
    Mask::empty(size).painted(runs, true)
}

/// Follows borders on a copy of the bounding box with one empty pixel around, so that every
/// neighbour exists.
struct Tracer {
    /// Pixels per row of the copy.
    stride: usize,
    /// Bit 0: marked. Bit 1: the border above this pixel was followed.
    pixels: Vec<u8>,
    /// What to add to a corner of the copy.
    origin: (u32, u32),
}

const MARKED: u8 = 1;
const FOLLOWED: u8 = 2;

/// Right, down, left, up: a turn to the right on screen is the next one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heading {
    Right,
    Down,
    Left,
    Up,
}

impl Heading {
    fn right(self) -> Self {
        match self {
            Self::Right => Self::Down,
            Self::Down => Self::Left,
            Self::Left => Self::Up,
            Self::Up => Self::Right,
        }
    }

    fn left(self) -> Self {
        self.right().right().right()
    }
}

impl Tracer {
    fn new(mask: &Mask) -> Option<Self> {
        let bounds = mask.bounding_box()?;
        let (width, height) = (bounds.width as usize, bounds.height as usize);
        let stride = width + 2;
        let mut pixels = vec![0; stride * (height + 2)];
        let rows = mask.pixels().chunks_exact(mask.size().width as usize);
        let inner = pixels.chunks_exact_mut(stride).skip(1);
        for (row, out) in rows.skip(bounds.y as usize).take(height).zip(inner) {
            let row = row.iter().skip(bounds.x as usize).take(width);
            for (pixel, out) in row.zip(out.iter_mut().skip(1)) {
                *out = pixel & MARKED;
            }
        }
        Some(Self { stride, pixels, origin: (bounds.x, bounds.y) })
    }

    /// Every border starts at its first upper edge in reading order. Outer rings and the borders of
    /// holes are followed alike; a hole's runs the other way round, so its area is negative.
    fn trace(mut self) -> Vec<Ring> {
        let mut rings = Vec::new();
        for at in self.stride..self.pixels.len() {
            let above = at - self.stride;
            if self.pixel(at) == MARKED && self.pixel(above) & MARKED == 0 {
                let (corners, area) = self.follow(at);
                if let Ok(area_px) = u64::try_from(area) {
                    rings.push(Ring { corners, area_px });
                }
            }
        }
        rings
    }

    /// Walks with the marked pixels to its right, from the upper left corner of pixel `start`.
    /// Corners are named by the pixel to their lower right.
    fn follow(&mut self, start: usize) -> (Vec<Vertex>, i64) {
        let (stride, mut at, mut heading) = (self.stride, start, Heading::Right);
        let mut corners = Vec::new();
        let mut area = 0i64;
        let mut last: Option<(i64, i64)> = None;
        loop {
            if heading == Heading::Right
                && let Some(pixel) = self.pixels.get_mut(at)
            {
                *pixel |= FOLLOWED;
            }
            // One edge ahead, then the two pixels beyond the corner reached decide.
            let (next, left, right) = match heading {
                Heading::Right => (at + 1, at + 1 - stride, at + 1),
                Heading::Down => (at + stride, at + stride, at + stride - 1),
                Heading::Left => (at - 1, at - 2, at - 2 - stride),
                Heading::Up => (at - stride, at - 2 * stride - 1, at - 2 * stride),
            };
            at = next;
            let turned = if self.pixel(left) & MARKED != 0 {
                heading.left()
            } else if self.pixel(right) & MARKED != 0 {
                heading
            } else {
                heading.right()
            };
            if turned != heading {
                let (x, y) = (at % stride - 1, at / stride - 1);
                let (x, y) = (narrow(x), narrow(y));
                corners.push(Vertex { x: x + self.origin.0, y: y + self.origin.1 });
                let (x, y) = (i64::from(x), i64::from(y));
                if let Some((last_x, last_y)) = last {
                    area += last_x * y - x * last_y;
                }
                last = Some((x, y));
            }
            heading = turned;
            if at == start && heading == Heading::Right {
                break;
            }
        }
        if let (Some(first), Some((last_x, last_y))) = (corners.first(), last) {
            let (x, y) = (first.x - self.origin.0, first.y - self.origin.1);
            area += last_x * i64::from(y) - i64::from(x) * last_y;
        }
        // The corner it started from was the last one reached.
        corners.rotate_right(1);
        (corners, area / 2)
    }

    fn pixel(&self, at: usize) -> u8 {
        self.pixels.get(at).copied().unwrap_or(0)
    }
}

fn narrow(offset: usize) -> u32 {
    // An offset within a mask's bounding box, whose sides are u32.
    u32::try_from(offset).unwrap_or(u32::MAX)
}

fn simplified(ring: Ring) -> Vec<Vertex> {
    let mut tries = TOLERANCES_PX.iter().map(|&tolerance_px| thinned(&ring.corners, tolerance_px));
    let faithful = tries.find(|corners| is_faithful(corners, ring.area_px));
    faithful.unwrap_or(ring.corners)
}

/// Douglas–Peucker, from the two corners furthest apart along the falling diagonal.
fn thinned(corners: &[Vertex], tolerance_px: f64) -> Vec<Vertex> {
    let along = |corner: &Vertex| i64::from(corner.x) + i64::from(corner.y);
    let place = |best: Option<(usize, &Vertex)>| best.map_or(0, |(index, _)| index);
    let first = place(corners.iter().enumerate().min_by_key(|(_, corner)| along(corner)));
    let mut turned = corners.to_vec();
    turned.rotate_left(first);
    let far = place(turned.iter().enumerate().max_by_key(|(_, corner)| along(corner)));
    turned.extend(turned.first().copied());
    let mut keep = vec![0, far];
    let mut open = vec![(0, far), (far, turned.len() - 1)];
    while let Some((from, to)) = open.pop() {
        let Some(inner) = turned.get(from..=to).and_then(|s| furthest(s, tolerance_px)) else {
            continue;
        };
        keep.push(from + inner);
        open.extend([(from, from + inner), (from + inner, to)]);
    }
    keep.sort_unstable();
    keep.iter().filter_map(|&index| turned.get(index).copied()).collect()
}

/// Index of the inner corner furthest from the chord, if it is too far to leave out.
fn furthest(stretch: &[Vertex], tolerance_px: f64) -> Option<usize> {
    let (first, last) = (*stretch.first()?, *stretch.last()?);
    let offset = |a: u32, b: u32| f64::from(a) - f64::from(b);
    let (dx, dy) = (offset(last.x, first.x), offset(last.y, first.y));
    let length2 = dx * dx + dy * dy;
    let distance2 = |corner: &Vertex| {
        let (x, y) = (offset(corner.x, first.x), offset(corner.y, first.y));
        // To the chord itself, not to its line: a stretch may fold back beyond the chord's ends.
        let along = if length2 > 0.0 { ((x * dx + y * dy) / length2).clamp(0.0, 1.0) } else { 0.0 };
        let (x, y) = (x - along * dx, y - along * dy);
        x * x + y * y
    };
    let inner = stretch.iter().enumerate().take(stretch.len() - 1).skip(1);
    let (index, distance2) = inner
        .map(|(index, corner)| (index, distance2(corner)))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    (distance2 > tolerance_px * tolerance_px).then_some(index)
}

#[expect(clippy::cast_precision_loss, reason = "areas are far below 2^53")]
fn is_faithful(simple: &[Vertex], area_px: u64) -> bool {
    let area = area_px as f64;
    simple.len() >= 3 && (signed_area(simple) - area).abs() <= MAX_AREA_CHANGE * area
}

fn signed_area(corners: &[Vertex]) -> f64 {
    let next = corners.iter().cycle().skip(1);
    let cross = |(a, b): (&Vertex, &Vertex)| {
        f64::from(a.x) * f64::from(b.y) - f64::from(b.x) * f64::from(a.y)
    };
    corners.iter().zip(next).map(cross).sum::<f64>() / 2.0
}

/// A polygon's edge that isn't horizontal, upper end first.
struct Edge {
    upper: (i64, i64),
    dx: i64,
    dy: i64,
    /// +1 downwards, −1 upwards.
    direction: i32,
}

impl Edge {
    fn all(polygon: &[Vertex]) -> Vec<Self> {
        let next = polygon.iter().cycle().skip(1);
        let point = |corner: &Vertex| (i64::from(corner.x), i64::from(corner.y));
        let edges = polygon.iter().zip(next).map(|(a, b)| (point(a), point(b)));
        edges
            .filter(|(a, b)| a.1 != b.1)
            .map(|(a, b)| {
                let (upper, lower, direction) = if a.1 < b.1 { (a, b, 1) } else { (b, a, -1) };
                Self { upper, dx: lower.0 - upper.0, dy: lower.1 - upper.1, direction }
            })
            .collect()
    }

    /// Row, first pixel whose centre is not left of the edge (at most `width`), direction; for
    /// every row it crosses. In whole numbers, so that a centre on the edge is decided the same way
    /// for the two edges that may meet there.
    fn crossings(&self, size: Size) -> impl Iterator<Item = (u32, u32, i32)> + '_ {
        let rows = self.upper.1..(self.upper.1 + self.dy).min(i64::from(size.height));
        let width = i64::from(size.width);
        rows.filter_map(move |y| {
            // x + ½ ≥ upper.x + (y − upper.y + ½)·dx/dy, solved for the smallest x.
            let numerator = (2 * (y - self.upper.1) + 1) * self.dx - self.dy;
            let ceiling = -((-numerator).div_euclid(2 * self.dy));
            let x = (self.upper.0 + ceiling).clamp(0, width);
            Some((u32::try_from(y).ok()?, u32::try_from(x).ok()?, self.direction))
        })
    }
}

#[cfg(test)]
mod tests;
