"""How near a mask is to the truth, and how sure a mean of such numbers is.

Invariants
1. Two empty masks agree (1.0); an empty one and a full one don't (0.0).
2. Intervals resample people, not objects: two slices of one person are not two observations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

JUDGED_FROM_PEOPLE = 5
"""A row with fewer people is reported, not judged."""


def iou(a: Mask, b: Mask) -> float:
    """Intersection over union."""
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else 1.0


def dice(a: Mask, b: Mask) -> float:
    """Twice the intersection over the sum of areas."""
    total = int(a.sum()) + int(b.sum())
    return 2 * float((a & b).sum()) / total if total else 1.0


def boundary_f(a: Mask, b: Mask, tolerance_px: float = 2.0) -> float:
    """F measure of the outlines: how much of each lies within the tolerance of the other."""
    outlines = [_outline(m) for m in (a, b)]
    if not outlines[0].any() or not outlines[1].any():
        return float(outlines[0].any() == outlines[1].any())
    far = [cv2.distanceTransform((~o).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for o in outlines]
    precision = float((far[1][outlines[0]] <= tolerance_px).mean())
    recall = float((far[0][outlines[1]] <= tolerance_px).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _outline(m: Mask) -> Mask:
    """Pixels of the mask that have a 4-neighbour outside it."""
    padded = np.pad(m, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return m & ~inner


def innermost(m: Mask) -> tuple[int, int]:
    """x, y of the pixel farthest from the outside; what lies beyond the image counts as outside."""
    far = cv2.distanceTransform(np.pad(m.astype(np.uint8), 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(far.argmax()), far.shape)
    return int(x), int(y)


@dataclass(frozen=True)
class Mean:
    """A mean over objects with a 95 % bootstrap interval over people."""

    mean: float
    low: float
    high: float
    objects: int
    people: int

    @property
    def judged(self) -> bool:
        return self.people >= JUDGED_FROM_PEOPLE

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.2f}, {self.high:.2f}]" if self.people > 1 else f"{self.mean:.3f}"


def mean_by_person(values: Sequence[float], people: Sequence[str], draws: int = 2000) -> Mean:
    """Mean of all values; the interval comes from drawing people with replacement (fixed seed)."""
    v = np.asarray(values, float)
    names, who = np.unique(np.asarray(people), return_inverse=True)
    sums, counts = np.bincount(who, v), np.bincount(who)
    drawn = np.random.default_rng(0).integers(0, len(names), (draws, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Mean(float(v.mean()), float(low), float(high), len(v), len(names))


def calibration_error(confidence: Sequence[float], measured: Sequence[float], bins: int = 10) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error, and (mean confidence, mean measured IoU, count) of each bin in use.

    The bins are tenths of the confidence; the error is the mean distance, weighted by count.
    """
    c, m = np.asarray(confidence, float), np.asarray(measured, float)
    which = np.minimum((c * bins).astype(int), bins - 1)
    rows = [(float(c[which == b].mean()), float(m[which == b].mean()), int((which == b).sum())) for b in np.unique(which)]
    return sum(abs(a - b) * n for a, b, n in rows) / len(c), rows
