"""Drawn sagittal CT phantoms: a lumbar column from the last ribs to the sacrum.

What: what the L3 editor shows. Vertebral bodies with bright end plates along a curved column,
discs of nearly the same density between them, the canal, spinous processes, sacrum, back muscle,
great vessels, bowel, abdominal wall. Same outputs as `phantom.axial`.

Why: version 1 spilled from a clicked vertebra into its neighbour: it had seen one person's column
only. The phantoms vary what separates two vertebrae (disc height and density, osteophytes, blur).

Invariant: in slices beside the middle the arch joins its body and belongs to it; in mid-sagittal
slices the spinous process is an object of its own, as connected components of real labels are.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from phantom import Canvas, Mask, Rng, blob, texture


@dataclass(frozen=True)
class _Level:
    """One vertebral body: centre, half depth, half height (units of the side), tilt (radians)."""

    x: float
    y: float
    depth: float
    height: float
    tilt: float

    def at(self, along: float, up: float) -> tuple[float, float]:
        """A place in the body's own frame: `along` half depths backwards, `up` half heights downwards."""
        co, si = np.cos(self.tilt), np.sin(self.tilt)
        dx, dy = along * self.depth, up * self.height
        return self.x + dx * co - dy * si, self.y + dx * si + dy * co


def sagittal(seed: int, side: int = 256) -> tuple[NDArray[np.float32], NDArray[np.uint8], dict[int, str]]:
    """One sagittal phantom: (Hounsfield units, object map, kinds). The front of the body is on the left."""
    rng = np.random.default_rng(seed)
    u = rng.uniform
    c = Canvas(side)
    mm = u(200, 430)  # what one side of the picture shows
    yy, xx = np.mgrid[0:side, 0:side] / side
    front, back = u(0.02, 0.2), u(0.8, 0.98)
    bow = u(-0.05, 0.06) * np.sin(yy * u(2, 5) + u(0, 6))
    body = (xx > front + bow) & (xx < back + 0.6 * bow)
    c.add(body, u(-115, -85), "body")
    column = _column(rng, mm, front, back)
    muscle = u(35, 65)
    _soft_tissue(rng, c, column, mm, front + bow, back + 0.6 * bow, muscle, body)
    _bones(rng, c, column, mm, body)
    return texture(rng, c, body), c.ids, c.kinds


def _column(rng: Rng, mm: float, front: float, back: float) -> list[_Level]:
    """Levels from top to bottom along a lordotic curve; the last one is the sacrum's first segment."""
    u = rng.uniform
    body_h, disc_h, depth = u(22, 31) / mm, u(5, 13) / mm, u(27, 40) / mm
    amp, phase, lean = u(-0.02, 0.06), u(0, 1.0), u(-0.1, 0.12)
    base = front + (back - front) * u(0.5, 0.68)
    levels = []
    y = u(-0.15, 0.1)
    end = u(0.8, 1.25)  # where the lumbar column ends; above 1 the sacrum is out of the picture
    shrink = u(0.9, 1.0)
    while y < min(end, 1.1):
        x = base - amp * np.sin((y + phase) * 3.1) + lean * (y - 0.5)
        slope = -amp * 3.1 * np.cos((y + phase) * 3.1) + lean
        k = shrink + (1 - shrink) * y
        h = body_h * k * (u(0.55, 0.85) if u() < 0.03 else u(0.95, 1.05))  # a few are compressed
        levels.append(_Level(x, y + h / 2, depth * k / 2, h / 2, -np.arctan(slope) + u(-0.06, 0.06)))
        y += h + disc_h * k * (u(0.3, 0.7) if u() < 0.08 else u(0.85, 1.15))
    return levels


def _soft_tissue(rng: Rng, c: Canvas, column: list[_Level], mm: float, front: NDArray[np.float64], back: NDArray[np.float64], muscle: float, body: Mask) -> None:
    u = rng.uniform
    side = c.side
    yy, xx = np.mgrid[0:side, 0:side] / side
    ys, xs = [v.y for v in column], [v.x for v in column]
    axis = np.interp(np.arange(side) / side, ys, xs)[:, None]
    depth = column[0].depth
    wall = u(6, 16) / mm
    fat = u(5, 50) / mm
    c.add((xx > front + fat) & (xx < front + fat + wall) & body, muscle, "wall-muscle")
    c.add((xx > front + fat + wall) & (xx < axis - depth) & body, u(-110, -75), "visceral-fat")
    cavity = (xx > front + fat + wall) & (xx < axis - depth * 1.05) & body
    for _ in range(rng.integers(3, 14)):  # bowel, with and without gas
        r = u(10, 26) / mm
        nearest = float(front.mean()) + fat + wall  # a stout person's fat may leave no room at all
        x, y = u(nearest, max(nearest, float(axis.mean()) - depth)), u(0, 1)
        loop = c.add(c.raster(blob(rng, x, y, r * u(0.8, 1.6), r, u(0, 3), 0.15)), u(5, 70), "bowel", cavity)
        if u() < 0.4:
            c.add(c.raster(blob(rng, x, y - r * 0.2, r * 0.6, r * 0.5, 0, 0.15)), -u(600, 990), "bowel-gas", cavity & loop)
    if u() < 0.6:
        c.add(c.raster(blob(rng, float(front.mean()) + u(0.1, 0.25), u(-0.05, 0.12), u(40, 80) / mm, u(40, 90) / mm, u(-0.5, 0.5), 0.15)), u(40, 130), "liver", cavity)
    if u() < 0.7:  # aorta or vena cava before the column
        d, r = u(2, 12) / mm, u(7, 13) / mm
        tube = (xx < axis - depth - d) & (xx > axis - depth - d - 2 * r) & (yy > u(-0.1, 0.1)) & (yy < u(0.5, 1.1))
        c.add(tube & body, u(35, 330), "aorta")
    behind = axis + depth * u(2.2, 2.9)
    skin_fat = u(4, 40) / mm
    erector = (xx > behind) & (xx < back - skin_fat) & body
    c.add(erector, muscle + u(-10, 10), "erector")
    for _ in range(rng.integers(0, 10)):  # fatty streaks within the muscle
        q = blob(rng, float(behind.mean()) + u(0, 0.15), u(0, 1), u(2, 6) / mm, u(10, 60) / mm, u(-0.3, 0.3), 0.2)
        c.paint(c.raster(q) & erector, u(-100, 10))
    canal = (xx > axis + depth * 1.0) & (xx < axis + depth * 1.0 + u(13, 20) / mm) & body
    c.add(canal, u(5, 45), "canal")


def _bones(rng: Rng, c: Canvas, column: list[_Level], mm: float, body: Mask) -> None:
    u = rng.uniform
    cortex, spongy = u(250, 750), u(90, 320)
    disc = u(40, 120)
    beside = u() < 0.3
    boxy, waist = u(3, 7), u(0.0, 0.12)
    shell = int(rng.integers(1, 3))
    for i, v in enumerate(column[:-1]):  # discs first: bodies overlap them
        n = column[i + 1]
        q = blob(rng, (v.x + n.x) / 2, (v.y + n.y) / 2, v.depth * u(0.88, 1.05), (n.y - v.y) / 2 * 0.8, (v.tilt + n.tilt) / 2, 0.03, boxy)
        c.add(c.raster(q), disc + u(-15, 15), "disc", body)
    with_sacrum = column[-1].y < 1.0
    for i, v in enumerate(column):
        if with_sacrum and i == len(column) - 1:
            _sacrum(rng, c, v, mm, cortex, spongy, body)
            continue
        outline = blob(rng, 0, 0, v.depth, v.height, 0, 0.03, boxy)
        outline[:, 0] *= 1 - waist * (1 - (outline[:, 1] / v.height) ** 2).clip(0, 1)
        co, si = np.cos(v.tilt), np.sin(v.tilt)
        mask = c.raster(outline @ np.array([[co, si], [-si, co]]) + [v.x, v.y])
        if u() < 0.08:  # an osteophyte
            mask |= c.raster(blob(rng, *v.at(-1.05, u(-0.9, 0.9)), u(2, 5) / mm, u(1.5, 4) / mm, u(-0.5, 0.5)))
        process = blob(rng, *v.at(u(2.9, 3.4), u(0.5, 1.0)), u(11, 18) / mm, u(5, 10) / mm, v.tilt + u(0.1, 0.5), 0.12, 2.6)
        if beside:
            mask |= c.raster(blob(rng, *v.at(1.4, -0.25), v.depth * 0.55, v.height * u(0.25, 0.4), v.tilt))
            mask |= c.raster(blob(rng, *v.at(2.0, u(0.2, 0.5)), u(5, 8) / mm, v.height * u(0.7, 1.0), v.tilt + u(-0.2, 0.4)))
        _bone(rng, c, mask & body, cortex, spongy * u(0.85, 1.15), shell, "vertebra")
        if not beside and u() < 0.9:
            _bone(rng, c, c.raster(process) & body, cortex, spongy * u(0.8, 1.3), shell, "spinous-process")


def _bone(rng: Rng, c: Canvas, mask: Mask, cortex: float, spongy: float, shell: int, kind: str) -> None:
    c.add(mask, cortex, kind)
    c.paint(binary_erosion(mask, iterations=shell), spongy)
    if rng.uniform() < 0.1:  # the basivertebral vein's notch, or a lesion
        ys, xs = np.nonzero(mask)
        if len(ys):
            j = rng.integers(len(ys))
            r = rng.uniform(0.008, 0.02)
            c.paint(c.raster(blob(rng, xs[j] / c.side, ys[j] / c.side, r, r)) & mask, spongy * rng.uniform(0.3, 1.6))


def _sacrum(rng: Rng, c: Canvas, top: _Level, mm: float, cortex: float, spongy: float, body: Mask) -> None:
    """Fused segments turning backwards from the last disc: one object."""
    u = rng.uniform
    mask = np.zeros_like(body)
    x, y, angle, r = top.x, top.y, u(0.35, 0.9), top.depth
    for _ in range(5):
        mask |= c.raster(blob(rng, x, y, r, top.height * 1.15, -angle * 0.7, 0.04, 3))
        step = top.height * 1.8
        x, y = x + np.sin(angle) * step, y + np.cos(angle) * step
        r, angle = r * 0.8, angle * u(0.75, 1.0)
    _bone(rng, c, mask & body, cortex, spongy, 1, "sacrum")
