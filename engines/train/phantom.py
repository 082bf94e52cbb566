"""Drawn CT phantoms: axial slices of abdomen, chest, pelvis and limb.

What: a Hounsfield image [N,N] f32 with an object map [N,N] u8 and the kind of each object. Drawn
from polygons, about 6 ms each at 256; nothing is taken from a person.

Why: one labelled abdomen is far too few; phantoms vary place, size, density and noise without end.
Sagittal spines are in `phantom_sagittal.py` and share `Canvas`.

Invariants
1. A seed gives the same phantom for ever (numpy's `default_rng`); seeds are split in `split.toml`.
2. An object's pixels in the map are what is still visible of it after later objects were drawn.
"""
from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter, zoom

Mask = NDArray[np.bool_]
Rng = np.random.Generator
_THETA = np.linspace(0, 2 * np.pi, 72, endpoint=False)


def blob(rng: Rng, cx: float, cy: float, rx: float, ry: float, rot: float = 0.0, irr: float = 0.08, n: float = 2.0) -> NDArray[np.float64]:
    """Outline of an irregular superellipse, [72,2] in units of the image side. `n` above 2 is boxier."""
    c, s = np.cos(_THETA), np.sin(_THETA)
    r = 1 / ((np.abs(c) ** n + np.abs(s) ** n) ** (1 / n))
    for k in range(2, 6):
        r = r * (1 + irr / k * rng.normal() * np.cos(k * _THETA + rng.uniform(0, 6.28)))
    x, y = rx * r * c, ry * r * s
    cr, sr = np.cos(rot), np.sin(rot)
    return np.stack([cx + x * cr - y * sr, cy + x * sr + y * cr], 1)


@dataclass
class Canvas:
    """The image being drawn, in Hounsfield units, and who owns each pixel."""

    side: int
    hu: NDArray[np.float32] = field(init=False)
    ids: NDArray[np.uint8] = field(init=False)
    kinds: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.hu = np.full((self.side, self.side), -1000.0, np.float32)
        self.ids = np.zeros((self.side, self.side), np.uint8)

    def raster(self, outline: NDArray[np.float64]) -> Mask:
        image = Image.new("L", (self.side, self.side))
        ImageDraw.Draw(image).polygon([tuple(p) for p in outline * self.side], fill=1)
        return np.asarray(image).astype(bool)

    def paint(self, mask: Mask, hu: float) -> None:
        """Density only: the pixels keep their owner."""
        self.hu[mask] = hu

    def add(self, mask: Mask, hu: float, kind: str, clip: Mask | None = None) -> Mask:
        """A new object; gives back what of it lies inside `clip`."""
        if clip is not None:
            mask = mask & clip
        number = len(self.kinds) + 1
        if number > 250:
            return mask
        self.hu[mask] = hu
        self.ids[mask] = number
        self.kinds[number] = kind
        return mask


def texture(rng: Rng, canvas: Canvas, body: Mask) -> NDArray[np.float32]:
    """Parenchymal texture inside the body, the scanner's blur, then its noise."""
    side = canvas.side
    grain = zoom(gaussian_filter(rng.normal(size=(side // 2, side // 2)), rng.uniform(1, 3)), 2, order=1)
    hu = canvas.hu + np.where(body, grain / grain.std() * rng.uniform(2, 10), 0)
    hu = gaussian_filter(hu, rng.uniform(0.4, 1.1))
    noise = gaussian_filter(rng.normal(size=(side, side)), rng.uniform(0.3, 0.9))
    return (hu + noise / noise.std() * rng.uniform(3, 28)).astype(np.float32)


def axial(seed: int, side: int = 256) -> tuple[NDArray[np.float32], NDArray[np.uint8], dict[int, str]]:
    """One axial phantom: (Hounsfield units, object map, kinds)."""
    rng = np.random.default_rng(seed)
    u = rng.uniform
    c = Canvas(side)
    cx, cy, scale = 0.5 + u(-0.05, 0.05), 0.5 + u(-0.04, 0.04), u(0.75, 1.1)
    rx, ry = 0.40 * scale * u(0.9, 1.08), 0.29 * scale * u(0.88, 1.12)
    region = str(rng.choice(["abdomen", "chest", "pelvis", "limb"], p=[0.55, 0.2, 0.15, 0.1]))
    if region == "limb":
        rx = ry = u(0.18, 0.3)
    body = c.add(c.raster(blob(rng, cx, cy, rx, ry, 0, 0.05, u(2, 2.6))), u(-115, -80), "body")
    t = u(0.03, 0.16)
    wall = c.raster(blob(rng, cx, cy, rx * (1 - t), ry * (1 - t * 1.3), 0, 0.05, u(2, 2.5))) & body
    muscle = u(40, 65)
    c.add(wall, muscle, "muscle-wall")
    if region == "limb":
        _limb(rng, c, cx, cy, wall)
    else:
        k = u(0.72, 0.86)
        cavity = c.raster(blob(rng, cx, cy - 0.02, rx * (1 - t) * k, ry * (1 - t * 1.3) * u(0.7, 0.82), 0, 0.06, u(2, 2.6))) & wall
        if region == "chest":
            _chest(rng, c, cx, cy, rx, ry, cavity)
        else:
            _belly(rng, c, cx, cy, rx, ry, scale, region, cavity, wall)
        _spine(rng, c, cx, cy, rx, ry, scale, region, muscle, wall)
        if region != "pelvis":
            for _ in range(rng.integers(4, 11)):
                a = u(0, 6.28)
                q = blob(rng, cx + rx * (1 - t) * u(0.9, 0.97) * np.cos(a), cy + ry * (1 - t * 1.3) * u(0.88, 0.96) * np.sin(a),
                         u(0.02, 0.05), u(0.008, 0.014), a + 1.57, 0.1)  # fmt: skip
                c.add(c.raster(q), u(300, 900), "rib", body)
    if u() < 0.7:  # the table
        ty = cy + ry + u(0.01, 0.05)
        yy, xx = np.mgrid[0:side, 0:side] / side
        c.paint((np.abs(yy - (ty - u(0.0, 0.3) * (xx - cx) ** 2)) < u(0.003, 0.01)) & ~body, u(-600, -100))
    hu = texture(rng, c, body)
    if u() < 0.2:  # streaks, as beside metal or the arms
        a = u(0, 3.14)
        yy, xx = np.mgrid[0:side, 0:side] / side
        hu = hu + u(5, 40) * np.sin((xx * np.cos(a) + yy * np.sin(a)) * u(60, 200)) * np.exp(-((yy - cy) ** 2) / 0.05)
    return hu.astype(np.float32), c.ids, c.kinds


def _limb(rng: Rng, c: Canvas, cx: float, cy: float, wall: Mask) -> None:
    u = rng.uniform
    for _ in range(rng.integers(1, 3)):
        bx, by, r = cx + u(-0.07, 0.07), cy + u(-0.07, 0.07), u(0.03, 0.06)
        c.add(c.raster(blob(rng, bx, by, r, r * u(0.8, 1.2), 0, 0.05)), u(800, 1400), "cortex")
        c.add(c.raster(blob(rng, bx, by, r * 0.6, r * 0.6, 0, 0.05)), u(-60, 250), "marrow")
    for _ in range(rng.integers(1, 4)):
        r = u(0.012, 0.03)
        c.add(c.raster(blob(rng, cx + u(-0.12, 0.12), cy + u(-0.12, 0.12), r, r)), u(40, 300), "vessel", wall)


def _chest(rng: Rng, c: Canvas, cx: float, cy: float, rx: float, ry: float, cavity: Mask) -> None:
    u = rng.uniform
    c.add(cavity, u(-10, 60), "mediastinum")
    for side in (-1, 1):
        q = blob(rng, cx + side * rx * 0.42, cy - 0.02, rx * u(0.27, 0.36), ry * u(0.5, 0.66), side * u(-0.2, 0.2), 0.1)
        c.add(c.raster(q), u(-900, -750), "lung", cavity)
    c.add(c.raster(blob(rng, cx + u(0.01, 0.06), cy - 0.05, rx * u(0.2, 0.32), ry * u(0.25, 0.4), u(-0.6, 0.6), 0.08)), u(30, 220), "heart", cavity)
    r = u(0.018, 0.035)
    c.add(c.raster(blob(rng, cx + u(0.02, 0.06), cy + ry * u(0.3, 0.42), r, r)), u(40, 350), "aorta", cavity)
    for _ in range(rng.integers(0, 4)):
        r, side = u(0.008, 0.025), rng.choice([-1, 1])
        c.add(c.raster(blob(rng, cx + side * rx * u(0.3, 0.5), cy + u(-0.1, 0.1), r, r * u(0.7, 1.3), 0, 0.15)), u(-20, 80), "nodule", cavity)


def _belly(rng: Rng, c: Canvas, cx: float, cy: float, rx: float, ry: float, scale: float, region: str, cavity: Mask, wall: Mask) -> None:
    u = rng.uniform
    c.add(cavity, u(-110, -70), "visceral-fat")
    contrast = u(0, 1) > 0.5

    def density(a: float, b: float) -> float:
        return u(a, b) + (u(20, 90) if contrast else 0)

    if region == "abdomen":
        side = int(rng.choice([-1, 1], p=[0.9, 0.1]))
        liver = c.add(c.raster(blob(rng, cx + side * rx * 0.42, cy - ry * 0.15, rx * u(0.32, 0.46), ry * u(0.4, 0.58), side * u(-0.5, 0.3), 0.2)), density(45, 65), "liver", cavity)
        if u() < 0.6:
            r = u(0.015, 0.04)
            c.add(c.raster(blob(rng, cx + side * rx * u(0.2, 0.35), cy - ry * u(0.1, 0.35), r, r * u(0.8, 1.6), u(0, 3), 0.08)), u(0, 20), "gallbladder", cavity)
        for _ in range(rng.integers(0, 3)):
            r = u(0.01, 0.035)
            c.add(c.raster(blob(rng, cx + side * rx * u(0.3, 0.6), cy - ry * u(-0.2, 0.4), r, r * u(0.8, 1.2), 0, 0.12)), u(0, 110), "lesion", liver)
        c.add(c.raster(blob(rng, cx - side * rx * 0.6, cy + ry * u(-0.05, 0.2), rx * u(0.1, 0.16), ry * u(0.2, 0.32), -side * u(-0.6, 0.6), 0.1)), density(45, 60), "spleen", cavity)
        stomach = c.raster(blob(rng, cx - side * rx * u(0.2, 0.4), cy - ry * u(0.25, 0.45), rx * u(0.14, 0.24), ry * u(0.16, 0.3), u(-0.7, 0.7), 0.12))
        c.add(stomach, u(10, 60), "stomach", cavity)
        if u() < 0.6:
            gas = stomach.copy()
            gas[int(c.side * (cy - ry * 0.35)) :] = False
            c.add(gas, -u(800, 990), "gas", cavity)
        for flank in (-1, 1):
            if u() < 0.9:
                _kidney(rng, c, cx + flank * rx * u(0.42, 0.5), cy + ry * u(0.28, 0.42), flank, scale, density(30, 50), cavity)
        if u() < 0.7:
            c.add(c.raster(blob(rng, cx - side * rx * 0.08, cy - ry * 0.02, rx * u(0.14, 0.26), ry * u(0.05, 0.1), u(-0.5, 0.5), 0.25)), density(30, 50), "pancreas", cavity)
    for _ in range(rng.integers(2, 9)):
        r, bx, by = u(0.02, 0.05), cx + rx * u(-0.55, 0.55), cy + ry * u(-0.55, 0.25)
        loop = c.raster(blob(rng, bx, by, r * u(0.8, 1.6), r, u(0, 3), 0.15))
        c.add(loop, density(10, 50), "bowel", cavity)
        if u() < 0.4:
            c.add(c.raster(blob(rng, bx, by - r * 0.15, r * 0.55, r * 0.45, 0, 0.15)), -u(700, 990), "bowel-gas", cavity & loop)
    if region == "pelvis":
        c.add(c.raster(blob(rng, cx, cy - ry * 0.1, rx * u(0.16, 0.28), ry * u(0.2, 0.35), 0, 0.08)), u(0, 25), "bladder", cavity)
        for side in (-1, 1):
            q = blob(rng, cx + side * rx * 0.62, cy + ry * u(0.0, 0.15), rx * u(0.07, 0.12), ry * u(0.3, 0.42), side * u(-0.6, -0.1), 0.12)
            bone = c.add(c.raster(q), u(500, 900), "iliac", wall)
            c.paint(binary_erosion(bone, iterations=2), u(100, 300))  # marrow belongs to the bone


def _kidney(rng: Rng, c: Canvas, x: float, y: float, flank: int, scale: float, hu: float, cavity: Mask) -> None:
    u = rng.uniform
    a, b, rot = u(0.035, 0.055) * scale, u(0.05, 0.075) * scale, flank * u(-0.5, 0.3)
    c.add(c.raster(blob(rng, x, y, a, b, rot, 0.06)), hu, "kidney", cavity)
    if u() < 0.5:  # the sinus opens towards the spine
        c.add(c.raster(blob(rng, x - flank * a * 0.7, y, a * 0.5, b * 0.4, rot, 0.15)), u(-90, 10), "renal-sinus", cavity)
    if u() < 0.2:
        r = u(0.012, 0.03)
        c.add(c.raster(blob(rng, x + flank * a * u(0.3, 1), y + u(-b, b) * 0.7, r, r)), u(0, 20), "cyst", cavity)


def _spine(rng: Rng, c: Canvas, cx: float, cy: float, rx: float, ry: float, scale: float, region: str, muscle: float, wall: Mask) -> None:
    """Vertebra, canal, and the muscles beside it, each in its thin coat of fat."""
    u = rng.uniform
    vy, vr = cy + ry * u(0.42, 0.56), u(0.042, 0.062) * scale
    fat_plane = int(rng.integers(0, 3))  # pixels; 0: the muscles touch, and only shape tells them apart

    def muscle_bundle(outline: NDArray[np.float64], hu: float, kind: str) -> None:
        mask = c.raster(outline) & wall
        if fat_plane:
            c.paint(binary_dilation(mask, iterations=fat_plane) & ~mask & wall, u(-90, 10))
        c.add(mask, hu, kind)

    if region != "chest":
        for side in (-1, 1):
            if u() < 0.6:
                muscle_bundle(blob(rng, cx + side * vr * u(2.3, 2.8), vy + vr * u(0.6, 1.1), vr * u(0.5, 0.8), vr * u(0.35, 0.6), side * u(-0.3, 0.5), 0.1), muscle + u(-10, 8), "quadratus")
            muscle_bundle(blob(rng, cx + side * vr * u(1.35, 1.7), vy + vr * 0.3, vr * u(0.5, 0.8), vr * u(0.6, 1.0), side * u(-0.4, 0.4), 0.1), muscle + u(-8, 8), "psoas")
        r = u(0.012, 0.024) * scale
        c.add(c.raster(blob(rng, cx + u(-0.005, 0.03), vy - vr - r, r, r)), u(40, 350), "aorta")
        r = u(0.012, 0.022) * scale
        c.add(c.raster(blob(rng, cx - u(0.03, 0.055), vy - vr - r * 0.6, r * 1.2, r * u(0.6, 1))), u(35, 180), "ivc")
    for side in (-1, 1):
        muscle_bundle(blob(rng, cx + side * vr * u(1.1, 1.6), vy + vr * u(1.2, 1.6), vr * u(0.8, 1.1), vr * u(0.5, 0.8), side * 0.3, 0.1), muscle + u(-12, 12), "erector")
    bone = u(280, 700)
    arch = np.zeros_like(wall)
    for side in (-1, 1):
        arch |= c.raster(blob(rng, cx + side * vr * 0.8, vy + vr * 0.8, vr * 0.8, vr * 0.16, side * u(-0.3, 0.3)))
    arch |= c.raster(blob(rng, cx, vy + vr * 1.5, vr * 0.18, vr * 0.7))
    centrum = c.raster(blob(rng, cx, vy, vr, vr * u(0.75, 0.95), 0, 0.05, 2.3)) & wall
    whole = u() < 0.6  # as in real label maps, where one vertebra is body and arch together
    if not whole:
        c.paint(arch & wall, bone)
    c.add(centrum | (arch & wall) if whole else centrum, bone, "vertebra")
    c.paint(binary_erosion(centrum, iterations=2), u(120, 300))
    c.add(c.raster(blob(rng, cx, vy + vr * 1.0, vr * 0.42, vr * 0.34)), u(10, 40), "canal", wall)
