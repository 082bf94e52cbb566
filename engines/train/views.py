"""Views of the sources: oblique cuts of the labelled volume, warped slices, windows, noise.

A view is a Hounsfield (or grey) image [n,n] with candidate objects. The volume is cut through its
2× upsampled copy, so that 3 mm voxels don't show as steps.

Invariants
1. What lies outside the scanned volume is air (−1024) and belongs to no object.
2. `l3_export` is exactly what existing L3 editors write: window −100..200 HU to 8 bits, then every
   0 rewritten to 255, so that air and dark fat are white.
"""
from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi

from midsagittal import l3_export as l3_export
from phantom import Mask, Rng
from sources import Cache

Image = NDArray[np.float32]

# Contrast medium, in HU at full strength, by the beginning of an organ's name.
_CONTRAST = {
    "kidney": 150, "aorta": 250, "iliac_artery": 250, "iliac_vena": 120, "inferior": 130, "portal": 130,
    "liver": 60, "spleen": 80, "pancreas": 60, "autochthon": 15, "iliopsoas": 15,
}  # fmt: skip
# (centre, width) and how often: abdomen, soft tissue, the body-composition window, liver, lung, bone, ...
_WINDOWS = [(40, 400), (50, 350), (50, 300), (60, 160), (-500, 1500), (300, 1500), (0, 2000), (50, 250)]
_WINDOW_P = [0.30, 0.15, 0.22, 0.07, 0.08, 0.08, 0.04, 0.06]


@dataclass
class Candidate:
    """An object that might be asked for: a value in a label map, or a mask."""

    name: str
    ids: NDArray[np.uint8]
    number: int = 1

    def mask(self) -> Mask:
        return self.ids == self.number


def elastic(rng: Rng, n: int, amplitude: float) -> tuple[Image, Image]:
    """A smooth random displacement field, in the unit of `amplitude`."""
    g = rng.normal(size=(2, rng.integers(3, 7), rng.integers(3, 7))).astype(np.float32) * amplitude
    return cv2.resize(g[0], (n, n), interpolation=cv2.INTER_CUBIC), cv2.resize(g[1], (n, n), interpolation=cv2.INTER_CUBIC)


class Volume:
    """The labelled abdomen, ready to be cut in any direction."""

    MM = 3.0  # voxel side

    def __init__(self, cache: Cache) -> None:
        self.shape = np.array(cache.hu.shape, float)
        self.names = cache.names
        hu = np.clip(cache.hu, -1050, 2500).astype(np.float32)
        up = np.clip(ndi.zoom(hu, 2, order=3, grid_mode=True, mode="nearest"), -1050, 2500).astype(np.float32)
        self._hu = torch.from_numpy(np.ascontiguousarray(up))[None, None]
        self._ids = _smooth_labels(cache.ids, list(cache.names))
        spine = [i for i, n in cache.names.items() if n.startswith("vertebrae")]
        where = np.argwhere(np.isin(cache.ids, spine))
        # Middle of the column at each height: mid-sagittal cuts must follow it, not a global mean.
        zs = np.arange(cache.hu.shape[0])
        seen = np.unique(where[:, 0])
        self._column = np.stack([np.interp(zs, seen, [where[where[:, 0] == z, k].mean() for z in seen]) for k in (1, 2)], 1)
        self._spine_z = (float(seen.min()), float(seen.max()))
        kidneys = np.argwhere(np.isin(cache.ids, [i for i, n in cache.names.items() if n.startswith("kidney")]))[:, 0]
        self._kidney_z = (float(kidneys.min()), float(kidneys.max()))

    def cut(self, rng: Rng, n: int, part: str) -> tuple[Image, list[Candidate], bool]:
        """A random view: (HU, candidates, whether it is sagittal). `part`: "anywhere", "spine" (through the column), "abdomen" (axial, at the kidneys' height)."""
        d = self.shape
        mm = np.exp(rng.uniform(np.log(140), np.log(480))) / n / self.MM  # voxels a pixel
        centre = d * rng.uniform(0.2, 0.8, 3) if mm * n < d.mean() else d * rng.uniform(0.42, 0.58, 3)
        u = rng.uniform()
        z, y, x = np.eye(3)
        if part == "spine":
            centre[0] = rng.uniform(*self._spine_z)
            row = self._column[int(np.clip(centre[0], 0, len(self._column) - 1))]
            if u < 0.62:  # sagittal, mid or somewhat beside
                e1, e2, plane = y, -z, "sagittal"
                centre[2] = row[1] + rng.normal() * (1.0 if rng.uniform() < 0.6 else 4.0)
                centre[1] = row[0] + rng.normal() * 12
                mm = np.exp(rng.uniform(np.log(160), np.log(420))) / n / self.MM
            else:  # axial through a vertebra, close enough that psoas and back muscles are large
                e1, e2, plane = x, y, "axial"
                centre[1:] = row + rng.normal(size=2) * 6
                mm = np.exp(rng.uniform(np.log(120), np.log(380))) / n / self.MM
        elif part == "abdomen":
            e1, e2, plane = x, y, "axial"
            centre[0] = rng.uniform(self._kidney_z[0] - 1, self._kidney_z[1] + 1)
            centre[1:] = d[1:] * rng.uniform(0.44, 0.56, 2)
            mm = np.exp(rng.uniform(np.log(240), np.log(430))) / n / self.MM
        elif u < 0.65:
            e1, e2, plane = x, y, "axial"
            centre[0] = rng.uniform(3, d[0] - 3)
        elif u < 0.8:
            e1, e2, plane = y, -z, "sagittal"
            centre[2] = rng.uniform(12, d[2] - 12)
        else:
            e1, e2, plane = x, -z, "coronal"
            centre[1] = rng.uniform(15, d[1] - 12)
        e1, e2 = self._turn(rng, e1, e2, plane)
        aspect = np.exp(rng.normal() * 0.15)
        return *self._sample(rng, n, centre, e1 * mm * aspect, e2 * mm / aspect, mm), plane == "sagittal"

    def _turn(self, rng: Rng, e1: NDArray[np.float64], e2: NDArray[np.float64], plane: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        tilt = 0.10 if rng.uniform() < 0.75 else 0.4
        q, _ = np.linalg.qr(np.eye(3) + np.tril(rng.normal(size=(3, 3)) * tilt, -1))
        q *= np.sign(np.diag(q))
        e1, e2 = q @ e1, q @ e2
        th = rng.normal() * (0.1 if rng.uniform() < 0.8 else 0.25 if plane == "sagittal" else 0.5)
        e1, e2 = np.cos(th) * e1 + np.sin(th) * e2, -np.sin(th) * e1 + np.cos(th) * e2
        if rng.uniform() < 0.5:
            e1 = -e1
        if rng.uniform() < 0.08:
            e2 = -e2
        return (e2, e1) if rng.uniform() < 0.05 and plane != "sagittal" else (e1, e2)

    def _sample(self, rng: Rng, n: int, centre: NDArray[np.float64], e1: NDArray[np.float64], e2: NDArray[np.float64], mm: float) -> tuple[Image, list[Candidate]]:
        axis = np.arange(n, dtype=np.float32) - n / 2
        gx, gy = np.meshgrid(axis, axis)
        if rng.uniform() < 0.75:  # bends organs too: another person's shapes
            dx, dy = elastic(rng, n, rng.uniform(1, 7) * n / 256)
            gx, gy = gx + dx, gy + dy
        at = [(centre[k] + e1[k] * gx + e2[k] * gy).astype(np.float32) for k in range(3)]
        big = self._ids.shape
        grid = np.stack([(2 * at[k] + 0.5) * (2.0 / (big[k] - 1)) - 1 for k in (2, 1, 0)], -1).astype(np.float32)
        hu = torch.nn.functional.grid_sample(self._hu, torch.from_numpy(grid)[None, None], mode="bilinear", padding_mode="border", align_corners=True)[0, 0, 0].numpy()
        i = [np.clip((2 * v + 1.0).astype(np.int32), 0, m - 1) for v, m in zip(at, big)]
        ids = self._ids.ravel()[(i[0] * big[1] + i[1]) * big[2] + i[2]]
        outside = np.zeros(ids.shape, bool)
        for v, m in zip(at, self.shape):
            outside |= (v < -0.5) | (v > m - 0.5)
        ids[outside] = 0
        hu = np.where(outside, np.float32(-1024), hu)
        hu = hu + cv2.GaussianBlur(self._shifts(rng)[ids], (0, 0), 1 / mm * 0.35 + 0.3)
        if rng.uniform() < 0.6:
            hu = np.where(hu > 120, 120 + (hu - 120) * rng.uniform(0.4, 1.7), hu)  # osteoporosis to sclerosis
        if rng.uniform() < 0.5:
            hu = np.where(hu < -40, hu + rng.normal() * 15, hu)
        if rng.uniform() < 0.5:  # sharpen: the source is 3 mm
            hu = hu + (hu - cv2.GaussianBlur(hu, (0, 0), 1.2 / mm * 0.5 + 0.5)) * rng.uniform(0.2, 1.2)
        seen = np.nonzero(np.bincount(ids.ravel(), minlength=256) >= 60)[0]
        found = [Candidate(self.names[int(k)], ids, int(k)) for k in seen if k]
        return hu.astype(np.float32), found

    def _shifts(self, rng: Rng) -> Image:
        """Per organ: normal variation, and contrast medium in half of the views."""
        out = np.zeros(256, np.float32)
        medium = rng.uniform(0, 1) if rng.uniform() < 0.5 else 0.0
        for i, name in self.names.items():
            full = next((v for k, v in _CONTRAST.items() if name.startswith(k)), 0)
            out[i] = rng.normal() * 12 + full * medium * rng.uniform(0.3, 1)
        return out


def _smooth_labels(ids: NDArray[np.uint8], numbers: list[int]) -> NDArray[np.uint8]:
    """The label map at twice the resolution with smoothed borders: the strongest organ wins above one half."""
    big = np.zeros([2 * n for n in ids.shape], np.uint8)
    best = np.full(big.shape, 0.5, np.float32)
    for i in numbers:
        where = np.argwhere(ids == i)
        a, b = np.maximum(where.min(0) - 2, 0), np.minimum(where.max(0) + 3, ids.shape)
        m = ndi.gaussian_filter((ids[tuple(slice(p, q) for p, q in zip(a, b))] == i).astype(np.float32), 0.6)
        m = ndi.zoom(m, 2, order=1, grid_mode=True, mode="nearest")
        at = tuple(slice(2 * p, 2 * q) for p, q in zip(a, b))
        t = m > best[at]
        big[at][t] = i
        best[at][t] = m[t]
    return big


def warp(rng: Rng, n: int, image: NDArray, ids: NDArray[np.uint8] | None, outside: float | tuple[float, ...], cubic: bool = False, upright: bool = False) -> tuple[NDArray, NDArray[np.uint8] | None]:
    """Scale, shift, turn, mirror and bend a slice onto n×n. `upright` keeps the turn small."""
    h, w = image.shape[:2]
    f = max(h, w) * np.exp(rng.uniform(np.log(0.5), np.log(1.25))) / n
    aspect, th = np.exp(rng.normal() * 0.15), rng.normal() * (0.12 if upright or rng.uniform() < 0.75 else 1.2)
    fx, fy = f * aspect, f / aspect
    if rng.uniform() < 0.3:
        fx, fy, th = w / n, h / n, 0.0
    if rng.uniform() < 0.5:
        fx = -fx
    if not upright and rng.uniform() < 0.1:
        fy = -fy
    cx = w / 2 + rng.uniform(-0.5, 0.5) * max(0, w - abs(fx) * n)
    cy = h / 2 + rng.uniform(-0.5, 0.5) * max(0, h - abs(fy) * n)
    axis = np.arange(n, dtype=np.float32) - n / 2 + 0.5
    gx, gy = np.meshgrid(axis, axis)
    if rng.uniform() < 0.5:
        dx, dy = elastic(rng, n, rng.uniform(1, 5) * n / 256)
        gx, gy = gx + dx, gy + dy
    co, si = np.cos(th), np.sin(th)
    u = (cx - 0.5 + fx * (co * gx - si * gy)).astype(np.float32)
    v = (cy - 0.5 + fy * (si * gx + co * gy)).astype(np.float32)
    out = cv2.remap(image, u, v, cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=outside)
    if ids is None:
        return out, None
    return out, cv2.remap(ids, u, v, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=0)


def thick_slices(rng: Rng, hu: Image) -> Image:
    """Height as resampled from thick axial slices: rows thinned by up to 4, then stretched back."""
    n = hu.shape[0]
    rows = int(n / rng.uniform(1.3, 4))
    how = cv2.INTER_NEAREST if rng.uniform() < 0.2 else cv2.INTER_LINEAR if rng.uniform() < 0.6 else cv2.INTER_CUBIC
    return cv2.resize(cv2.resize(hu, (n, rows), interpolation=cv2.INTER_AREA), (n, n), interpolation=how)


def noise(rng: Rng, hu: Image) -> Image:
    """Reconstruction kernel and quantum noise."""
    if rng.uniform() < 0.25:
        hu = cv2.GaussianBlur(hu, (0, 0), rng.uniform(0.4, 1.3))
    if rng.uniform() < 0.75:
        z = rng.standard_normal(hu.shape, dtype=np.float32)
        if rng.uniform() < 0.7:
            z = cv2.GaussianBlur(z, (0, 0), rng.uniform(0.4, 1.2))
            z /= z.std()
        hu = hu + z * rng.uniform(2, 30)
    return hu


def window(rng: Rng, hu: Image) -> Image:
    """HU to 0..1 by a usual window, a free one, or a random monotone curve."""
    u = rng.uniform()
    if u < 0.08:
        knots = np.sort(rng.choice(np.arange(-900, 1500, 60), 5, replace=False))
        return np.interp(hu, knots, np.sort(rng.uniform(0, 1, 5)) if rng.uniform() < 0.5 else rng.uniform(0, 1, 5))
    if u < 0.8:
        c, w = _WINDOWS[rng.choice(len(_WINDOWS), p=_WINDOW_P)]
        c, w = c + rng.uniform(-15, 15), w * rng.uniform(0.85, 1.2)
    else:
        c, w = rng.uniform(-100, 150), rng.uniform(150, 2000)
    return np.clip((hu - (c - w / 2)) / w, 0, 1)


def tone(rng: Rng, grey: Image) -> NDArray[np.uint8]:
    """0..1 to 8 bits, with the tone curves that exports and screenshots come in."""
    if rng.uniform() < 0.25:
        grey = np.clip(grey, 0, 1) ** np.exp(rng.normal() * 0.3)
    if rng.uniform() < 0.25:
        grey = 0.5 + (grey - 0.5) * rng.uniform(0.6, 1.2) + rng.uniform(-0.1, 0.1)
    if rng.uniform() < 0.08:
        grey = rng.uniform(0, 0.35) + grey * rng.uniform(0.25, 0.6)
    if rng.uniform() < 0.06:
        grey = 1 - grey
    return (np.clip(grey, 0, 1) * 255).astype(np.uint8)
