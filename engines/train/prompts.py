"""Prompts for a known mask, as a person would give them: clicks, boxes, corrections.

Points are in pixels of the S×S picture; labels −1 pad, 0 out, 1 in, 2/3 box corners, box first.
A prompt has `POINTS` rows, filled up with (0,0,−1).
"""
from __future__ import annotations

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from phantom import Mask, Rng

POINTS = 3


def click(rng: Rng, m: Mask) -> tuple[int, int]:
    """A click inside: mostly well inside, one in eight near the edge."""
    x0, y0, w, h = cv2.boundingRect(m.astype(np.uint8))
    d = cv2.distanceTransform(np.pad(m[y0 : y0 + h, x0 : x0 + w].astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    depth = d.max() * rng.choice([0.05, 0.35, 0.65, 0.9], p=[0.12, 0.22, 0.30, 0.36])
    ys, xs = np.nonzero(d >= max(depth, 0.5))
    j = rng.integers(len(ys))
    return int(x0 + xs[j]), int(y0 + ys[j])


def _box(rng: Rng, m: Mask) -> NDArray[np.float64]:
    """Corners (x0,y0,x1,y1), shaken by nothing, 3 % or 8 % of the box's sides."""
    n = m.shape[0]
    ys, xs = np.nonzero(m.any(1))[0], np.nonzero(m.any(0))[0]
    b = np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], np.float64)
    sides = np.array([b[2] - b[0], b[3] - b[1]] * 2)
    b = np.clip(b + rng.normal(size=4) * np.minimum(sides * rng.choice([0, 0.03, 0.08]), n / 20), 0, n - 1)
    return np.array([min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])])


def _outside(rng: Rng, m: Mask) -> tuple[int, int] | None:
    """A click outside: mostly just beside the object, where a person corrects a spill."""
    if rng.uniform() < 0.7:
        u8 = m.astype(np.uint8)
        q = (cv2.dilate(u8, np.ones((25, 25), np.uint8)) > 0) & ~(cv2.dilate(u8, np.ones((3, 3), np.uint8)) > 0)
    else:
        q = ~m
    ys, xs = np.nonzero(q)
    if len(ys) == 0:
        return None
    j = rng.integers(len(ys))
    return int(xs[j]), int(ys[j])


def prompt(rng: Rng, m: Mask) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """One prompt: 55 % one click, 20 % box, 7 % box and click, the rest two or three clicks."""
    points, labels = np.zeros((POINTS, 2), np.float32), np.full(POINTS, -1, np.float32)
    u = rng.uniform()
    if u < 0.55:
        points[0], labels[0] = click(rng, m), 1
    elif u < 0.82:
        b = _box(rng, m)
        points[0], points[1], labels[:2] = b[:2], b[2:], (2, 3)
        if u >= 0.75:
            points[2], labels[2] = click(rng, m), 1
    else:
        points[0], labels[0] = click(rng, m), 1
        for j in range(1, rng.integers(2, POINTS + 1)):
            q = _outside(rng, m) if rng.uniform() < 0.6 else click(rng, m)
            if q is not None:
                points[j], labels[j] = q, 1 if m[q[1], q[0]] else 0
    return points, labels


def correction(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The next click for a batch: in the thick of the largest error, in the decoder's S/4 grid.

    `logits`, `target` [n,f,f] → points [n,2] in input pixels, labels [n] (−1 where nothing is wrong).
    The thickest place is found by averaging, not by a distance transform: it runs on any device.
    """
    n, f = target.shape[0], target.shape[-1]
    e = ((logits > 0) != (target > 0.5)).float()
    thick = F.avg_pool2d(e[:, None], 7, 1, 3)[:, 0] + F.avg_pool2d(e[:, None], 3, 1, 1)[:, 0]
    score = e * thick + e * 0.3 * torch.rand_like(e)
    i = score.flatten(1).argmax(1)
    rows = torch.arange(n, device=logits.device)
    points = torch.stack([(i % f).float(), (i // f).float()], -1) * 4 + 4 * torch.rand(n, 2, device=logits.device)
    inside = (target.flatten(1)[rows, i] > 0.5).float()
    return points, torch.where(e.flatten(1).sum(1) > 0, inside, torch.full_like(inside, -1.0))
