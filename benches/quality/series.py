"""Walking through a series from one click, against clicking every slice. Not for diagnostic use.

    python benches/quality/series.py PACK --url http://127.0.0.1:8642 --out /tmp/series

For each object of a volume of the pack whose slices have truths: one click at its inner-most pixel in
the middle slice; from there up and down each next slice is asked with `prompt_from` the answer
before, nothing else, until the object ends. Beside it every slice is clicked on its own. Dice per
slice, mean over the object's slices; a slice after the walk got lost counts as it came out (0 where
empty). Written: `series.json`, `series.md`.

What it does not do: it stops where the truth ends; a daemon's client must see that itself.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import cv2
import numpy as np

import metrics
from cases import Picture, Thing
from engines import Daemon, Question

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ("liver", "spleen", "kidney_left", "kidney_right", "aorta", "iliopsoas_left", "iliopsoas_right", "autochthon_left", "vertebrae_L3", "urinary_bladder", "hip_left")  # fmt: skip


def volume(folder: Path, names: tuple[str, ...], scale: int = 3) -> list[Picture]:
    """Axial slices of the labelled volume, top last, with the named objects."""
    import nibabel as nib
    from nibabel import orientations as o

    def load(path: Path) -> np.ndarray:
        img = nib.load(path)
        turn = o.ornt_transform(o.io_orientation(img.affine), o.axcodes2ornt(("L", "P", "S")))
        return o.apply_orientation(np.asanyarray(img.dataobj), turn).transpose(2, 1, 0).astype(np.float32)

    hu = load(folder / "example_ct.nii.gz")
    labels = {n: load(p) for n in names if (p := folder / "example_seg" / f"{n}.nii.gz").exists()}
    size, pictures = (hu.shape[2] * scale, hu.shape[1] * scale), []
    for z in range(hu.shape[0]):
        big = cv2.resize(hu[z], size, interpolation=cv2.INTER_CUBIC)
        grey = (np.clip((big + 160) / 400, 0, 1) * 255).astype(np.uint8)
        masks = {n: cv2.resize(a[z], size, interpolation=cv2.INTER_LINEAR) > 0.5 for n, a in labels.items() if a[z].any()}
        things = tuple(Thing(n, "model", m) for n, m in masks.items() if m.sum() >= 60)
        pictures.append(Picture(f"axial {z}", "TS-EXAMPLE-CT", "CT", None, grey, things))
    return pictures


class Walk:
    """A daemon asked slice by slice."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def click(self, picture: Picture, truth: metrics.Mask) -> tuple[metrics.Mask, str]:
        self._daemon.open(picture)
        a = self._daemon.ask(Question(((*metrics.innermost(truth), 1),)))
        return a.mask, a.state

    def follow(self, picture: Picture, before: str) -> tuple[metrics.Mask, str]:
        self._daemon.open(picture)
        a = self._daemon.ask(Question(fields={"prompt_from": before}))
        return a.mask, a.state


def walk(walker: Walk, pictures: list[Picture], truths: list[metrics.Mask]) -> list[float]:
    """Dice of each slice, from one click in the middle."""
    middle, dice = len(pictures) // 2, [0.0] * len(pictures)
    mask, start = walker.click(pictures[middle], truths[middle])
    dice[middle] = metrics.dice(mask, truths[middle])
    if not mask.any():
        return dice
    for way in (range(middle + 1, len(pictures)), range(middle - 1, -1, -1)):
        before = start
        for i in way:
            mask, before = walker.follow(pictures[i], before)
            dice[i] = metrics.dice(mask, truths[i])
            if not mask.any():
                break
    return dice


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("pack", type=Path)
    ap.add_argument("--url", required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--step", type=int, default=1, help="take every n-th slice")
    ap.add_argument("--objects", nargs="*", default=list(OBJECTS))
    a = ap.parse_args()
    walker, rows = Walk(Daemon(a.url, os.environ.get("SAM2D_TOKEN"))), []
    pictures = volume(a.pack / "volumes" / "ts-example-nifti", tuple(a.objects))[:: a.step]
    for name in a.objects:
        found = [(p, t.mask) for p in pictures for t in p.things if t.name == name]
        if len(found) < 3:
            continue
        slices, truths = [p for p, _ in found], [t for _, t in found]
        walked = walk(walker, slices, truths)
        clicked = [metrics.dice(walker.click(p, t)[0], t) for p, t in found]
        rows.append(dict(thing=name, slices=len(found), walked=walked, clicked=clicked))
        print(name, len(found), f"walked {np.mean(walked):.3f}, every slice clicked {np.mean(clicked):.3f}", flush=True)
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "series.json").write_text(json.dumps(rows, indent=0))
    (a.out / "series.md").write_text(table(rows))
    print(table(rows))


def table(rows: list[dict]) -> str:
    """A row per object, and the mean over objects."""
    out = ["| object | slices | Dice, one click and `prompt_from` | Dice, every slice clicked |", "|---|---|---|---|"]
    for r in rows:
        out.append(f"| {r['thing']} | {r['slices']} | {np.mean(r['walked']):.3f} | {np.mean(r['clicked']):.3f} |")
    means = [np.mean([np.mean(r[k]) for r in rows]) for k in ("walked", "clicked")] if rows else [0, 0]
    out.append(f"| mean of {len(rows)} objects | {sum(r['slices'] for r in rows)} | {means[0]:.3f} | {means[1]:.3f} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
