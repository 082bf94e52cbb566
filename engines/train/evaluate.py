"""Measures a checkpoint while it trains, with the same questions as `benches/quality`.

    python evaluate.py RUN/last.pt --pack PACK --out DIR [--phantoms 40] [--compare OTHER/quality.json]

Besides the pack's pictures it asks about drawn phantoms of the validation seeds: the only
vertebrae, kidneys and psoas muscles that no training has seen. A drawing is no person: its rows
are reported apart.

What it does not do: nothing here chooses a checkpoint. Whoever picks by the validation table must
say so in the report.
"""
from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch

from model import load_checkpoint
from phantom import axial
from phantom_sagittal import sagittal
from sources import HERE, Split
from views import l3_export

ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "benches" / "quality"), str(ROOT / "engines" / "export")]

import cases  # noqa: E402
import quality  # noqa: E402
import report  # noqa: E402
from engines import Answer, Question  # noqa: E402
from picture import Prompt, image_tensor, to_image  # noqa: E402
from selection import MASK0_FIRST, choose, stability  # noqa: E402

_UNASKED = {"body", "muscle-wall", "visceral-fat", "mediastinum", "wall-muscle", "marrow", "bowel-gas"}


class Checkpoint:
    """Averaged weights of a checkpoint, as an engine under test."""

    def __init__(self, path: Path, weights: str = "ema", rule: str = MASK0_FIRST) -> None:
        self.net = load_checkpoint(path, weights).eval()
        self.name, self._rule, self._side = f"{path.parent.name}/{path.name}", rule, self.net.config.size

    @torch.no_grad()
    def open(self, picture: cases.Picture) -> float:
        began = time.perf_counter()
        self._fine, self._middle, self._coarse = self.net.enc(image_tensor(picture.pixels, self._side))
        self._size = picture.pixels.shape[1], picture.pixels.shape[0]
        return time.perf_counter() - began

    @torch.no_grad()
    def ask(self, question: Question) -> Answer:
        began = time.perf_counter()
        f = self._side // 4
        prompt = Prompt("", tuple((float(x), float(y), label) for x, y, label in question.clicks), question.box, question.state)
        rows = torch.from_numpy(prompt.rows(self._side, *self._size))[None]
        mask = torch.zeros(1, 1, f, f) if question.state is None else torch.from_numpy(question.state)[None, None]
        given = torch.tensor([float(question.state is not None)])
        masks, iou, _ = self.net.dec(self._coarse, self._fine, self._middle, rows[..., :2], rows[..., 2], mask, given)
        logits, predicted = masks[0].numpy(), iou[0].numpy()
        chosen = choose(self._rule, logits, predicted, single_click=prompt.single_click)
        raw = float(np.clip(predicted[chosen], 0, 1)) * stability(logits[chosen])
        answer = to_image(logits[chosen], *self._size) > 0
        return Answer(answer, raw, np.clip(logits[chosen], -32, 32), time.perf_counter() - began, raw)


def phantoms(split: Split, count: int) -> Iterator[cases.Picture]:
    """Validation phantoms, `count` of each plane; up to eight visible objects each."""
    for plane, draw in (("axial", axial), ("sagittal", sagittal)):
        first = split.phantom_validation[plane][0]
        for seed in range(first, first + count):
            hu, ids, kinds = draw(seed)
            grey = l3_export(hu) if plane == "sagittal" and seed % 2 else (np.clip((hu + 160) / 400, 0, 1) * 255).astype(np.uint8)
            things = []
            for number, kind in kinds.items():
                _, parts, stats, _ = cv2.connectedComponentsWithStats((ids == number).astype(np.uint8), connectivity=8)
                if kind in _UNASKED or len(stats) < 2 or stats[1:, 4].max() < 100:
                    continue
                m = parts == 1 + int(stats[1:, 4].argmax())
                ring = (cv2.dilate(m.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0) & ~m
                if abs(float(grey[m].mean()) - float(grey[ring].mean())) >= 10:
                    things.append(cases.Thing(kind, "drawn", m))
            picked = np.random.default_rng(seed).permutation(len(things))[:8]
            yield cases.Picture(f"phantom {plane} {seed}", f"{plane} phantoms", "CT", None, grey, tuple(things[i] for i in picked))


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("checkpoint", type=Path)
    ap.add_argument("--pack", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--phantoms", type=int, default=40)
    ap.add_argument("--weights", choices=("ema", "net"), default="ema")
    ap.add_argument("--rule", choices=("mask0-first", "sam2"), default=MASK0_FIRST)
    ap.add_argument("--compare", type=Path)
    a = ap.parse_args()
    torch.set_num_threads(1)
    split = Split.read()
    validation = frozenset(tomllib.loads((HERE / "split.toml").read_text())["validation"]["people"])
    pictures = [*cases.from_manifest(a.pack), *cases.sagittal(a.pack / "volumes" / "ts-example-nifti", "TS-EXAMPLE-CT", "model"), *phantoms(split, a.phantoms)]
    rows, shown, encoding = quality.measure(Checkpoint(a.checkpoint, a.weights, a.rule), pictures, validation)
    a.out.mkdir(parents=True, exist_ok=True)
    document = dict(schema=1, engine=str(a.checkpoint), encode_seconds_median=float(np.median(encoding)), rows=[asdict(r) for r in rows])
    (a.out / "quality.json").write_text(json.dumps(document, indent=0))
    text = report.markdown(document, json.loads(a.compare.read_text()) if a.compare else None)
    (a.out / "quality.md").write_text(text)
    report.worst([s for s in shown if s.picture.image_type == "L3"], a.out / "worst-sagittal.png")
    print(text)


if __name__ == "__main__":
    main()
