"""Fits what an engine's confidence means: predicted IoU × stability → measured IoU.

    python calibrate.py PACKAGE --pack PACK --out calibration.json

Asked are people outside validation only (`split.toml`): every object by the inner-most click, four
clicks in its inner half (as people click), its box, and two corrections, in two windows. Clicks get a
curve of their own, boxes and corrections another: the same score means more where the object is
known. A monotone fit (pool adjacent violators) is thinned to a few knots: `[calibration]` of
engine.toml.

Why weights: the labelled abdomen has four fifths of the objects. Each collection counts as much as
the other.

`--compare` says how the choices were made, on the same people: every person is predicted by curves
fitted on the others, with the band of undecided logits and with one curve or two as alternatives.

What it does not do: it does not make a model better than it is on people unlike these. The
expected calibration error on validation people is measured by `benches/quality`, never here.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sources import HERE, Split

ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "benches" / "quality"), str(ROOT / "engines" / "export")]

import cases  # noqa: E402
import metrics  # noqa: E402
from engines import Answer, Package, Question  # noqa: E402
from selection import stability  # noqa: E402

KNOTS = 9
Curve = tuple[list[float], list[float]]


DELTA = 0.25
"""Half the width of the band of undecided logits, chosen by `--compare`."""


@dataclass(frozen=True)
class Judged:
    """One answer about one object of known outline."""

    person: str
    one_click: bool
    innermost: bool
    """The first click of `benches/quality`, or no click at all."""
    predicted: float
    logits: NDArray[np.float32]
    iou: float

    @property
    def collection(self) -> str:
        return self.person.split("_")[0]

    def score(self, delta: float) -> float:
        return self.predicted * stability(self.logits, delta)


def answers(package: Package, picture: cases.Picture, rng: np.random.Generator) -> list[Judged]:
    """Every prompt about every object of one picture."""
    out = []

    def ask(question: Question, truth: metrics.Mask, innermost: bool) -> Answer:
        a = package.ask(question)
        one = len(question.clicks) == 1 and question.box is None and question.state is None
        out.append(Judged(picture.person, one, innermost, a.predicted, a.state, metrics.iou(a.mask, truth)))
        return a

    package.open(picture)
    for thing in picture.things:
        truth = thing.mask
        given = ((*metrics.innermost(truth), 1),)
        last = ask(Question(given), truth, True)
        depth = cv2.distanceTransform(np.pad(truth.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
        ys, xs = np.nonzero(depth >= 0.5 * depth.max())
        for i in rng.integers(0, len(xs), 4):
            ask(Question(((int(xs[i]), int(ys[i]), 1),)), truth, False)
        ys, xs = np.nonzero(truth)
        ask(Question(box=(int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1)), truth, True)
        for _ in range(2):
            wrong = last.mask != truth
            if not wrong.any():
                break
            x, y = metrics.innermost(wrong)
            given = (*given, (x, y, int(truth[y, x])))
            last = ask(Question(given, state=last.state), truth, True)
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


def knots(x: NDArray[np.float64], fitted: NDArray[np.float64], w: NDArray[np.float64], count: int = KNOTS) -> Curve:
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


def fit(data: Sequence[Judged], delta: float) -> Curve:
    """The curve of some answers."""
    group = np.array([d.collection for d in data])
    x, y = np.array([d.score(delta) for d in data]), np.array([d.iou for d in data])
    w = np.array([1 / (group == g).sum() for g in group])
    order = np.argsort(x, kind="stable")
    x, y, w = x[order], y[order], w[order]
    return knots(x, monotone(x, y, w), w)


def compare(data: Sequence[Judged]) -> None:
    """Prints how well each choice predicts people that it was not fitted on."""
    print("| prompts | curves | band | collection | answers | calibration error | mean distance |\n|---|---|---|---|---|---|---|")
    for delta in (0.05, 0.25, 1.0):
        for own in (False, True):
            for one in (True, False):
                asked = [d for d in data if d.one_click == one and d.innermost]
                said = np.full(len(asked), np.nan)
                for person in sorted({d.person for d in asked}):
                    others = [d for d in data if d.person != person and (d.one_click == one or not own)]
                    curve = fit(others, delta)
                    for i, d in enumerate(asked):
                        if d.person == person:
                            said[i] = np.interp(d.score(delta), *curve)
                for g in sorted({d.collection for d in asked}):
                    at = [i for i, d in enumerate(asked) if d.collection == g]
                    iou = np.array([asked[i].iou for i in at])
                    error, _ = metrics.calibration_error(said[at], iou)
                    print(f"| {'one click' if one else 'box, corrections'} | {'two' if own else 'one'} | ±{delta} | {g} | {len(at)} | {error:.3f} | {np.abs(said[at] - iou).mean():.3f} |")


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("package", type=Path)
    ap.add_argument("--pack", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--compare", action="store_true", help="how the choices predict people they were not fitted on")
    a = ap.parse_args()
    split, package, rng = Split.read(), Package(a.package), np.random.default_rng(0)
    pictures = [p for p in cases.from_manifest(a.pack) if p.person in split.train]
    pictures += list(cases.sagittal(a.pack / "volumes" / "ts-example-nifti", "TS-EXAMPLE-CT", "model"))
    assert not {p.person for p in pictures} & split.validation
    data: list[Judged] = []
    for p in pictures:
        darker = p.pixels if p.image_type == "L3" else np.clip(p.pixels.astype(np.float32) * 1.25 - 32, 0, 255).astype(np.uint8)
        for q in (p, replace(p, pixels=darker)):
            data += answers(package, q, rng)
    if a.compare:
        compare(data)
    (cx, cy), (x, y) = (fit([d for d in data if d.one_click == one], DELTA) for one in (True, False))
    fitted = dict(stability_delta=DELTA, x=x, y=y, click=dict(x=cx, y=cy))
    print(f"{sum(d.one_click for d in data)} first clicks and {sum(not d.one_click for d in data)} other answers about {len({p.person for p in pictures})} people")
    a.out.write_text(json.dumps(fitted) + "\n")
    print(json.dumps(fitted))


if __name__ == "__main__":
    main()
