"""Measures an engine on pictures with a known truth. Not for diagnostic use.

    python benches/quality/quality.py PACK --package engines/sam2-nano --out /tmp/quality
    python benches/quality/quality.py PACK --url http://127.0.0.1:8642 --out /tmp/quality
    python benches/quality/quality.py PACK --package NEW --out DIR --compare OLD_DIR/quality.json

PACK is a data pack with `manifest.csv`. Into the folder `--out` go `quality.json` (every answer, for
comparing engines), `quality.md` (the tables) and `worst.png` (the worst ten first clicks).

Three forms of prompt, all from the truth alone: one click at the inner-most pixel; the tight box;
three clicks, the second and third in the middle of what is wrong with the answer before, which is
given back as mask input. People whose names are not in the split's `[validation]` are reported apart.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import cases
import metrics
import report
from engines import Answer, Daemon, Engine, Package, Question

ROOT = Path(__file__).resolve().parents[2]
FORMS = ("click", "box", "three clicks")


@dataclass(frozen=True)
class Row:
    """One answer about one object."""

    picture: str
    person: str
    validation: bool
    modality: str
    image_type: str
    thing: str
    group: str
    origin: str
    form: str
    iou: float
    dice: float
    boundary_f: float
    confidence: float
    raw: float
    seconds: float
    area_px: int


def measure(engine: Engine, pictures: Iterable[cases.Picture], validation: frozenset[str]) -> tuple[list[Row], list[report.Shown], list[float]]:
    """Every answer, what the first clicks looked like, and the seconds that encoding took."""
    rows: list[Row] = []
    shown: list[report.Shown] = []
    encoding: list[float] = []
    for p in pictures:
        encoding.append(engine.open(p))
        for t in p.things:
            answers = _ask(engine, t.mask)
            for form, a in zip(FORMS, answers):
                known = p.person in validation
                rows.append(Row(p.name, p.person, known, p.modality, p.image_type, t.name, t.group, t.origin, form,
                                metrics.iou(a.mask, t.mask), metrics.dice(a.mask, t.mask), metrics.boundary_f(a.mask, t.mask),
                                a.confidence, a.raw, a.seconds, int(t.mask.sum())))  # fmt: skip
            click = metrics.innermost(t.mask)
            shown.append(report.Shown(p, t, answers[0].mask, click, rows[-3].iou, rows[-3].confidence))
    return rows, shown, encoding


def _ask(engine: Engine, truth: metrics.Mask) -> tuple[Answer, Answer, Answer]:
    """One click; the box; and the first click corrected twice."""
    x, y = metrics.innermost(truth)
    clicks = ((x, y, 1),)
    first = engine.ask(Question(clicks))
    ys, xs = np.nonzero(truth)
    box = int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
    boxed = engine.ask(Question(box=box))
    last = first
    for _ in range(2):
        wrong = last.mask != truth
        if not wrong.any():
            break
        x, y = metrics.innermost(wrong)
        clicks = (*clicks, (x, y, int(truth[y, x])))
        last = engine.ask(Question(clicks, state=last.state))
    return first, boxed, last


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("pack", type=Path, help="data pack with manifest.csv")
    which = ap.add_mutually_exclusive_group(required=True)
    which.add_argument("--package", type=Path, help="engine package folder, run under onnxruntime")
    which.add_argument("--url", help="base address of a running daemon; its token in SAM2D_TOKEN")
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--split", type=Path, default=ROOT / "engines" / "train" / "split.toml")
    ap.add_argument("--compare", type=Path, help="quality.json of another engine, shown beside")
    ap.add_argument("--only-validation", action="store_true")
    a = ap.parse_args()
    engine: Engine = Package(a.package) if a.package else Daemon(a.url, os.environ.get("SAM2D_TOKEN"))
    validation = frozenset(tomllib.loads(a.split.read_text())["validation"]["people"])
    pictures = [p for p in cases.from_manifest(a.pack) if not a.only_validation or p.person in validation]
    volume = a.pack / "volumes" / "ts-example-nifti"
    if volume.exists() and not a.only_validation:
        pictures += cases.sagittal(volume, "TS-EXAMPLE-CT", "model")
    began = time.perf_counter()
    rows, shown, encoding = measure(engine, pictures, validation)
    a.out.mkdir(parents=True, exist_ok=True)
    document = dict(schema=1, engine=engine.name, encode_seconds_median=float(np.median(encoding)), rows=[asdict(r) for r in rows])
    (a.out / "quality.json").write_text(json.dumps(document, indent=0))
    other = json.loads(a.compare.read_text()) if a.compare else None
    text = report.markdown(document, other)
    (a.out / "quality.md").write_text(text)
    report.worst(shown, a.out / "worst.png")
    report.twelve([s for s in shown if s.picture.person in validation], a.out / "twelve.png")
    print(text)
    print(f"{len(rows)} answers about {len(shown)} objects in {time.perf_counter() - began:.0f} s; see {a.out}")


if __name__ == "__main__":
    main()
