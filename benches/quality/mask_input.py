"""What a mask loses when it is given back as a PNG instead of by its id. Not for diagnostic use.

    python benches/quality/mask_input.py PACK --url http://127.0.0.1:8642

For every object of the validation people: one click, then one correction where the answer is wrong,
with the first answer given back by `mask_id` (its logits), as the PNG of its mask (10 inside, −10
outside, after area averaging), and not at all.
"""

from __future__ import annotations

import argparse
import base64
import os
import tomllib
from pathlib import Path

import cv2
import numpy as np

import cases
import metrics
from engines import Daemon, Question

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("pack", type=Path)
    ap.add_argument("--url", required=True)
    a = ap.parse_args()
    daemon = Daemon(a.url, os.environ.get("SAM2D_TOKEN"))
    validation = tomllib.loads((ROOT / "engines" / "train" / "split.toml").read_text())["validation"]["people"]
    found: dict[str, list[float]] = {"one click": [], "corrected, by id": [], "corrected, as PNG": [], "corrected, not given back": []}
    people, agree = [], []
    for p in cases.from_manifest(a.pack):
        if p.person not in validation or p.name.startswith("natural"):
            continue
        daemon.open(p)
        for t in p.things:
            clicks = ((*metrics.innermost(t.mask), 1),)
            first = daemon.ask(Question(clicks))
            wrong = first.mask != t.mask
            if not wrong.any() or not first.mask.any():
                continue
            x, y = metrics.innermost(wrong)
            clicks = (*clicks, (x, y, int(t.mask[y, x])))
            ok, png = cv2.imencode(".png", first.mask.astype(np.uint8) * 255)
            states = (first.state, base64.b64encode(png.tobytes()).decode(), None)
            masks = [daemon.ask(Question(clicks, state=s)).mask for s in states]
            people.append(p.person)
            agree.append(metrics.iou(masks[0], masks[1]))
            for row, mask in zip(found.values(), (first.mask, *masks)):
                row.append(metrics.iou(mask, t.mask))
    print("| prompt | IoU | \n|---|---|")
    for name, row in found.items():
        print(f"| {name} | {metrics.mean_by_person(row, people)} |")
    print(f"\n{len(people)} objects of {len(set(people))} people; the masks by id and as PNG overlap by {np.mean(agree):.3f}.")


if __name__ == "__main__":
    main()
