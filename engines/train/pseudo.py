"""Objects nobody drew: connected tissue of one class, flood-filled regions, bones, the body.

Why: named organs of few people are not enough to learn edges from. A pseudo-object teaches "what
is connected and looks alike here"; it must not teach what one click *means*, so `dataset.py` gives
it little weight on mask 0.
"""
from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from phantom import Mask, Rng

Grey = NDArray[np.uint8]
_TISSUES = ((-2000, -400), (-170, -35), (-5, 110), (180, 4000))  # air, fat, soft tissue, bone in HU
_BONE_HU = 200


def _outer(m: Grey, least: float) -> list[NDArray[np.int32]]:
    outlines, _ = cv2.findContours(m, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [c for c in outlines if cv2.contourArea(c) > least]


def _filled(shape: tuple[int, ...], outlines: list[NDArray[np.int32]]) -> Grey:
    m = np.zeros(shape, np.uint8)
    cv2.drawContours(m, outlines, -1, 1, -1)
    return m


def region(rng: Rng, picture: Grey, hu: NDArray[np.float32] | None, grey: Grey) -> Mask | None:
    """A region with a visible border under a random place, or None after six tries."""
    n = grey.shape[0]
    for _ in range(6):
        y, x = (int(v) for v in rng.integers(4, n - 4, 2))
        m = _tissue(rng, hu, x, y) if hu is not None and rng.uniform() < 0.5 else _flood(rng, picture, x, y)
        if m is None or not 0.002 * n * n <= m.sum() <= 0.6 * n * n:
            continue
        ring = ((cv2.dilate(m, np.ones((5, 5), np.uint8)) > 0) & (m == 0)).astype(np.uint8)
        if ring.sum() >= 8 and abs(cv2.mean(grey, m)[0] - cv2.mean(grey, ring)[0]) >= 10:
            return m > 0
    return None


def _tissue(rng: Rng, hu: NDArray[np.float32], x: int, y: int) -> Grey | None:
    lo, hi = next(((a, b) for a, b in _TISSUES if a <= hu[y, x] < b), (None, None))
    if lo is None:
        return None
    bone = lo == 180
    b = hu if bone else cv2.blur(hu, (3, 3))
    m = ((b >= lo) & (b < hi)).astype(np.uint8)
    if bone:
        m = cv2.morphologyEx(m, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    elif rng.uniform() < 0.6:
        side = int(2 * rng.integers(1, 4) + 1)
        m = cv2.morphologyEx(m, cv2.MORPH_OPEN, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    if not m[y, x]:
        return None
    _, parts = cv2.connectedComponents(m, connectivity=4)
    m = (parts == parts[y, x]).astype(np.uint8)
    return _filled(m.shape, _outer(m, 30)) if bone or (lo == -5 and rng.uniform() < 0.5) else m


def _flood(rng: Rng, picture: Grey, x: int, y: int) -> Grey:
    n = picture.shape[0]
    smooth = cv2.GaussianBlur(picture, (0, 0), (1.0, 1.8, 3.0)[rng.integers(3)])
    t = float(rng.uniform(8, 34))
    tolerance = (t, t, t) if picture.ndim == 3 else t
    canvas = np.zeros((n + 2, n + 2), np.uint8)
    cv2.floodFill(smooth, canvas, (x, y), 0, tolerance, tolerance, 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (1 << 8))
    m = canvas[1:-1, 1:-1].copy()
    m = cv2.morphologyEx(m, cv2.MORPH_CLOSE if rng.uniform() < 0.5 else cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return _filled(m.shape, _outer(m, 30)) if rng.uniform() < 0.6 else m


def bone(rng: Rng, hu: NDArray[np.float32]) -> Mask | None:
    """One bone: above 200 HU, closed, holes filled."""
    m = cv2.morphologyEx((hu > _BONE_HU).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    parts = _outer(m, 80)
    return _filled(m.shape, [parts[rng.integers(len(parts))]]) > 0 if parts else None


def body(hu: NDArray[np.float32]) -> Mask | None:
    """The largest thing above −300 HU, filled."""
    m = (cv2.GaussianBlur(hu, (0, 0), 1.5) > -300).astype(np.uint8)
    parts = _outer(m, 0)
    return _filled(m.shape, [max(parts, key=cv2.contourArea)]) > 0 if parts else None
