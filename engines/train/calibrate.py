"""Fits what an engine's confidence means: predicted IoU × stability → measured IoU.

    python calibrate.py PACKAGE --pack PACK --out calibration.json

Asked are people outside validation only (`split.toml`): every object by the inner-most click, five
other clicks inside, its box, and two corrections, in two windows. A monotone fit (pool adjacent
violators) is thinned to a few knots: the `[calibration]` x, y of engine.toml.

Why weights: the labelled abdomen has four fifths of the objects. Each collection counts as much as
the other.

What it does not do: it does not make a model better than it is on people unlike these. The
expected calibration error on validation people is measured by `benches/quality`, never here.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sources import HERE, Split

ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "benches" / "quality"), str(ROOT / "engines" / "export")]

import cases  # noqa: E402
import metrics  # noqa: E402
from engines import Package, Question  # noqa: E402

KNOTS = 9


def answers(package: Package, picture: cases.Picture, rng: np.random.Generator) -> list[tuple[float, float]]:
    """(raw score, measured IoU) of every prompt about every object of one picture."""
    out = []
    package.open(picture)
    for thing in picture.things:
        truth = thing.mask
        ys, xs = np.nonzero(truth)
        first = metrics.innermost(truth)
        clicks = [first] + [(int(xs[i]), int(ys[i])) for i in rng.integers(0, len(xs), 5)]
        box = int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
        asked = [Question(((x, y, 1),)) for x, y in clicks] + [Question(box=box)]
        for q in asked:
            a = package.ask(q)
            out.append((a.raw, metrics.iou(a.mask, truth)))
        last, given = package.ask(asked[0]), asked[0].clicks
        for _ in range(2):
            wrong = last.mask != truth
            if not wrong.any():
                break
            x, y = metrics.innermost(wrong)
            given = (*given, (x, y, int(truth[y, x])))
            last = package.ask(Question(given, state=last.state))
            out.append((last.raw, metrics.iou(last.mask, truth)))
    return out


def monotone(x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted least squares among non-decreasing functions of x, at the sorted x (pool adjacent violators)."""
    blocks: list[list[float]] = []  # mean, weight, count
    for value, weight in zip(y, w):
        blocks.append([float(value), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            m, v, n = blocks.pop()
            top = blocks[-1]
            top[0] = (top[0] * top[1] + m * v) / (top[1] + v)
            top[1] += v
            top[2] += n
    return np.concatenate([np.full(int(n), m) for m, _, n in blocks])


def knots(x: NDArray[np.float64], fitted: NDArray[np.float64], w: NDArray[np.float64], count: int = KNOTS) -> tuple[list[float], list[float]]:
    """A strictly increasing piecewise linear curve: means of cells of equal weight, and both ends. No score is no confidence."""
    cells = np.minimum((np.cumsum(w) / w.sum() * count).astype(int), count - 1)
    px = [float(np.average(x[cells == c], weights=w[cells == c])) for c in np.unique(cells)]
    py = [float(np.average(fitted[cells == c], weights=w[cells == c])) for c in np.unique(cells)]
    xs, ys = [0.0], [0.0]
    for a, b in zip(px, py):
        if a > xs[-1] + 0.01:
            xs.append(round(a, 4))
            ys.append(round(max(b, ys[-1] + 0.001), 4))
    xs.append(1.0)
    ys.append(round(min(1.0, max(ys[-1] + 0.001, ys[-1] + (1 - xs[-2]) * 0.5)), 4))
    return xs, ys


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("package", type=Path)
    ap.add_argument("--pack", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    a = ap.parse_args()
    split, package, rng = Split.read(), Package(a.package), np.random.default_rng(0)
    pictures = [p for p in cases.from_manifest(a.pack) if p.person in split.train]
    pictures += list(cases.sagittal(a.pack / "volumes" / "ts-example-nifti", "TS-EXAMPLE-CT", "model"))
    assert not {p.person for p in pictures} & split.validation
    data: list[tuple[str, float, float]] = []
    for p in pictures:
        darker = p.pixels if p.image_type == "L3" else np.clip(p.pixels.astype(np.float32) * 1.25 - 32, 0, 255).astype(np.uint8)
        for q in (p, replace(p, pixels=darker)):
            data += [(p.person.split("_")[0], *v) for v in answers(package, q, rng)]
    group, x, y = np.array([d[0] for d in data]), np.array([d[1] for d in data]), np.array([d[2] for d in data])
    w = np.array([1 / (group == g).sum() for g in group])
    order = np.argsort(x, kind="stable")
    x, y, w = x[order], y[order], w[order]
    xs, ys = knots(x, monotone(x, y, w), w)
    error_before = np.average(np.abs(x - y), weights=w)
    print(f"{len(x)} answers of {len(set(p.person for p in pictures))} people; mean |raw − IoU| {error_before:.3f}, after {np.average(np.abs(np.interp(x, xs, ys) - y), weights=w):.3f}")
    a.out.write_text(json.dumps(dict(x=xs, y=ys)) + "\n")
    print(json.dumps(dict(x=xs, y=ys)))


if __name__ == "__main__":
    main()
