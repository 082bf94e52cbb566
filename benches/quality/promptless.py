"""One click without a prompt: how often is what the daemon finds by itself right? Not for diagnostic use.

    python benches/quality/promptless.py PACK --url http://127.0.0.1:8642 --out /tmp/promptless

A running daemon is asked about pictures with a known truth and no prompt, in each context and
target. An answer is *right* where its IoU with a truth that fits the profile is at least 0.5, *empty*
where nothing was found (an honest nothing), else *wrong*. Written: `promptless.json`, `promptless.md`.

What fits: `L3` a vertebral body L2, L3 or L4 (a drawn column: its middle three); `psoas` both psoas
muscles together; `muscle` all labelled muscle together; `auto` any labelled object. A picture
without what the profile looks for (`nothing` below) is right when it is empty.

What it can't judge: abdominal wall muscles are labelled in drawings alone, so the people's `muscle`
rows hold the back and hip muscles only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

import cases
import metrics
from cases import Picture, Thing
from engines import Daemon, Question

ROOT = Path(__file__).resolve().parents[2]
RIGHT = 0.5
_MUSCLES = ("iliopsoas", "autochthon", "gluteus")
_DRAWN_MUSCLES = ("psoas", "erector", "muscle-wall", "wall-muscle")


@dataclass(frozen=True)
class Asked:
    """One picture in one context; `truths` are the masks any of which would be right."""

    group: str
    profile: str
    picture: Picture
    truths: tuple[metrics.Mask, ...]

    @property
    def fields(self) -> dict[str, str]:
        """What the request says besides the picture."""
        return {"l3": {}, "auto": {}}.get(self.profile, {"target": self.profile})

    @property
    def image_type(self) -> str:
        return {"l3": "L3", "auto": "auto"}.get(self.profile, "middle")


def asked(pack: Path, validation: frozenset[str], drawings: int) -> Iterator[Asked]:
    """Every question: pictures of people, cuts of the labelled volume, drawings of the validation seeds."""
    for p in cases.from_manifest(pack):
        if p.path is None or p.name.startswith("natural"):
            continue
        group = "validation people" if p.person in validation else "training people"
        yield Asked(group, "auto", p, tuple(t.mask for t in p.things))
        if p.person in validation and p.modality == "CT":  # thighs and pelves: no lumbar level among them
            yield Asked("validation people, nothing of it", "psoas", replace(p, image_type="middle"), ())
    volume = pack / "volumes" / "ts-example-nifti"
    for p in cases.sagittal(volume, "TS-EXAMPLE-CT", "model", offsets_mm=(-9, -6, -3, 0, 3, 6, 9)):
        middle = tuple(t.mask for t in p.things if t.name in ("vertebrae_L2", "vertebrae_L3", "vertebrae_L4"))
        yield Asked("training people", "l3", p, middle)
    for p in _axial(volume):
        for profile, names in (("psoas", ("iliopsoas",)), ("muscle", _MUSCLES)):
            yield Asked("training people", profile, p, _union(p, names))
    for p in _drawn(drawings):
        if p.image_type == "L3":
            column = sorted((t for t in p.things if t.name == "vertebra"), key=lambda t: float(np.nonzero(t.mask)[0].mean()))
            inner = column[1:-1] if len(column) > 3 else column
            yield Asked("drawings", "l3", p, tuple(t.mask for t in inner))
        else:
            for profile, names in (("psoas", ("psoas",)), ("muscle", _DRAWN_MUSCLES)):
                truths = _union(p, names)
                yield Asked("drawings" if truths else "drawings, nothing of it", profile, p, truths)


def _union(p: Picture, names: tuple[str, ...]) -> tuple[metrics.Mask, ...]:
    parts = [t.mask for t in p.things if t.name.startswith(names)]
    return (np.logical_or.reduce(parts),) if parts else ()


def _axial(volume: Path, scale: int = 4) -> Iterator[Picture]:
    """Axial slices of the labelled volume at the lumbar vertebrae, every fourth."""
    import nibabel as nib
    from nibabel import orientations as o

    def load(path: Path) -> np.ndarray:
        img = nib.load(path)
        turn = o.ornt_transform(o.io_orientation(img.affine), o.axcodes2ornt(("L", "P", "S")))
        return o.apply_orientation(np.asanyarray(img.dataobj), turn).transpose(2, 1, 0).astype(np.float32)

    hu = load(volume / "example_ct.nii.gz")
    sides = [f"{m}_{s}" for m in ("iliopsoas", "autochthon", "gluteus_maximus", "gluteus_medius") for s in ("left", "right")]
    labels = {n: load(volume / "example_seg" / f"{n}.nii.gz") for n in sides if (volume / "example_seg" / f"{n}.nii.gz").exists()}
    spine = sum(load(volume / "example_seg" / f"vertebrae_{level}.nii.gz") for level in ("L2", "L3", "L4", "L5"))
    for z in np.unique(np.argwhere(spine > 0)[:, 0])[::4]:
        size = (hu.shape[2] * scale, hu.shape[1] * scale)
        big = cv2.resize(hu[z], size, interpolation=cv2.INTER_CUBIC)
        grey = (np.clip((big + 160) / 400, 0, 1) * 255).astype(np.uint8)
        masks = {n: cv2.resize(a[z], size, interpolation=cv2.INTER_LINEAR) > 0.5 for n, a in labels.items()}
        things = tuple(Thing(n, "model", m) for n, m in masks.items() if m.sum() >= 200)
        yield Picture(f"axial {z}", "TS-EXAMPLE-CT", "CT", None, grey, things, image_type="middle")


def _drawn(count: int) -> Iterator[Picture]:
    """Drawn sagittal columns (L3 export) and axial slices of the validation seeds."""
    sys.path.insert(0, str(ROOT / "engines" / "train"))
    from phantom import axial
    from phantom_sagittal import sagittal
    from sources import Split
    from views import l3_export

    first = Split.read().phantom_validation
    for plane, draw in (("sagittal", sagittal), ("axial", axial)):
        for seed in range(first[plane][0], first[plane][0] + count):
            hu, ids, kinds = draw(seed)
            grey = l3_export(hu) if plane == "sagittal" else (np.clip((hu + 160) / 400, 0, 1) * 255).astype(np.uint8)
            things = tuple(Thing(kind, "drawn", ids == number) for number, kind in kinds.items() if (ids == number).sum() >= 60)
            yield Picture(f"drawing {plane} {seed}", f"{plane} drawings", "CT", None, grey, things, image_type="L3" if plane == "sagittal" else "middle")


def verdict(iou: float | None, empty: bool, wanted: bool) -> str:
    """right, empty or wrong."""
    if empty:
        return "empty" if wanted else "right"
    return "right" if wanted and iou is not None and iou >= RIGHT else "wrong"


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("pack", type=Path)
    ap.add_argument("--url", required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--drawings", type=int, default=24, help="of each plane")
    ap.add_argument("--only", help="a profile")
    a = ap.parse_args()
    daemon = Daemon(a.url, os.environ.get("SAM2D_TOKEN"))
    validation = frozenset(tomllib.loads((ROOT / "engines" / "train" / "split.toml").read_text())["validation"]["people"])
    rows = []
    for q in asked(a.pack, validation, a.drawings):
        if a.only and q.profile != a.only:
            continue
        daemon.open(replace(q.picture, image_type=q.image_type))
        answer = daemon.ask(Question(fields=q.fields))
        empty = not answer.mask.any()
        ious = [metrics.iou(answer.mask, t) for t in q.truths]
        best = max(ious, default=None)
        rows.append(dict(group=q.group, profile=q.profile, picture=q.picture.name, person=q.picture.person, iou=best,
                         confidence=answer.confidence, verdict=verdict(best, empty, bool(q.truths)), seconds=answer.seconds))  # fmt: skip
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "promptless.json").write_text(json.dumps(rows, indent=0))
    text = table(rows)
    (a.out / "promptless.md").write_text(text)
    print(text)


def table(rows: list[dict]) -> str:
    """A row per profile and group."""
    out = ["| profile | pictures of | people | pictures | right | empty | wrong | IoU of answers | confidence: right, wrong |", "|---|---|---|---|---|---|---|---|---|"]
    for profile, group in sorted({(r["profile"], r["group"]) for r in rows}):
        part = [r for r in rows if (r["profile"], r["group"]) == (profile, group)]
        n = Counter(r["verdict"] for r in part)
        ious = [r["iou"] for r in part if r["iou"] is not None and r["confidence"] > 0]
        said = [[r["confidence"] for r in part if r["verdict"] == v and r["confidence"] > 0] for v in ("right", "wrong")]
        mean = lambda v: f"{np.mean(v):.2f}" if len(v) else "–"  # noqa: E731
        out.append(f"| {profile} | {group} | {len({r['person'] for r in part})} | {len(part)} | {n['right']} | {n['empty']} | {n['wrong']} | {mean(ious)} | {mean(said[0])}, {mean(said[1])} |")
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    main()
