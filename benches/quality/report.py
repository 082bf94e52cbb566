"""Tables and pictures of measured answers.

Every mean carries how many objects and people it is of, and a 95 % bootstrap interval over people;
a row of fewer than five people is marked: it is reported, not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cases import Picture, Thing
from metrics import JUDGED_FROM_PEOPLE, Mask, Mean, calibration_error, mean_by_person

FORMS = ("click", "box", "three clicks")
_HUMAN = ("human", "human-corrected model", "human-verified", "semi-automatic, human-edited")

Rows = list[dict[str, Any]]


def _is(*groups: str) -> Callable[[dict[str, Any]], bool]:
    return lambda r: r["group"] in groups


# (what, prompt form, target, which rows): the quality that the engine is held to.
_TARGETS: tuple[tuple[str, str, float, Callable[[dict[str, Any]], bool]], ...] = (
    ("vertebrae", "click", 0.75, _is("vertebrae")),
    ("kidneys", "click", 0.80, _is("kidney")),
    ("bone", "click", 0.80, _is("bone")),
    ("back muscle and psoas", "click", 0.65, _is("autochthon", "iliopsoas")),
    ("liver", "click", 0.75, _is("liver")),
    ("all with human contours", "click", 0.55, lambda r: r["origin"] in _HUMAN),
    ("all", "box", 0.80, lambda r: True),
    ("all", "three clicks", 0.80, lambda r: True),
)


@dataclass(frozen=True)
class Shown:
    """One first click, for the pictures."""

    picture: Picture
    thing: Thing
    mask: Mask
    click: tuple[int, int]
    iou: float
    confidence: float


def markdown(document: dict[str, Any], other: dict[str, Any] | None) -> str:
    """The whole report; `other` is an earlier engine's document, shown beside."""
    rows: Rows = document["rows"]
    photographs = [r for r in rows if r["picture"].startswith("natural/")]
    drawn = [r for r in rows if r["origin"] == "drawn"]
    medical = [r for r in rows if r not in photographs and r not in drawn]
    validation, training = ([r for r in medical if r["validation"] is v] for v in (True, False))
    before = other["rows"] if other else []
    out = [f"# Quality of {document['engine']}", "", "Not for diagnostic use. Mean IoU, 95 % bootstrap interval over people. A row marked ° has fewer"]
    out += [f"than {JUDGED_FROM_PEOPLE} people and is reported, not judged. Encoding: {document['encode_seconds_median'] * 1e3:.0f} ms (median wall time)."]
    if other:
        out += [f"Before: {other['engine']}, asked the same."]
    out += ["", "## Against the targets", "", *_targets(validation, training, before)]
    parts = (("Validation people", validation), ("People of the training set (not a test)", training), ("Drawings (not people)", drawn), ("Photographs", photographs))
    for title, part in parts:
        if part:
            out += ["", f"## {title}", "", *_by(part, before, "origin"), "", *_by(part, before, "group")]
    out += ["", "## Confidence", "", *_confidence(validation)]
    return "\n".join(out) + "\n"


def _mean(rows: Rows, key: str = "iou") -> Mean | None:
    return mean_by_person([r[key] for r in rows], [r["person"] for r in rows]) if rows else None


def _cell(m: Mean | None) -> str:
    return "–" if m is None else str(m)


def _same(before: Rows, rows: Rows) -> Rows:
    """Those answers of another engine that are about the same objects in the same form."""
    keys = {(r["picture"], r["thing"], r["form"]) for r in rows}
    return [r for r in before if (r["picture"], r["thing"], r["form"]) in keys]


def _targets(validation: Rows, training: Rows, before: Rows) -> list[str]:
    out = ["| what | prompt | target | validation people | people, objects | before | training people | before |", "|---|---|---|---|---|---|---|---|"]
    for what, form, target, wanted in _TARGETS:
        v, t = ([r for r in part if r["form"] == form and wanted(r)] for part in (validation, training))
        m = _mean(v)
        who = f"{m.people}, {m.objects}{'' if m.judged else ' °'}" if m else "nobody"
        out.append(f"| {what} | {form} | {target:.2f} | {_cell(m)} | {who} | {_cell(_mean(_same(before, v)))} | {_cell(_mean(t))} | {_cell(_mean(_same(before, t)))} |")
    return out


def _by(rows: Rows, before: Rows, key: str) -> list[str]:
    title = {"origin": "truth origin", "group": "object"}[key]
    out = [f"| {title} | context | prompt | people | objects | IoU | before | Dice | boundary F (2 px) | ms |", "|---|---|---|---|---|---|---|---|---|---|"]
    groups = sorted({(r[key], r["image_type"]) for r in rows})
    for name, context in groups:
        for form in FORMS:
            part = [r for r in rows if r[key] == name and r["form"] == form and r["image_type"] == context]
            m, d, f = _mean(part), _mean(part, "dice"), _mean(part, "boundary_f")
            if m is None or d is None or f is None:
                continue
            mark = "" if m.judged else " °"
            ms = float(np.median([r["seconds"] for r in part])) * 1e3
            out.append(f"| {name} | {context} | {form} | {m.people}{mark} | {m.objects} | {m} | {_cell(_mean(_same(before, part)))} | {d.mean:.3f} | {f.mean:.3f} | {ms:.0f} |")
    return out


def _confidence(rows: Rows) -> list[str]:
    out = []
    for form in ("all forms together", *FORMS):
        part = [r for r in rows if form in (r["form"], "all forms together")]
        if not part:
            continue
        error, bins = calibration_error([r["confidence"] for r in part], [r["iou"] for r in part])
        out += [f"Validation people, {form}: expected calibration error **{error:.3f}** over {len(part)} answers.", ""]
        out += ["| confidence | measured IoU | answers |", "|---|---|---|", *[f"| {c:.2f} | {m:.2f} | {n} |" for c, m, n in bins], ""]
    return out


def worst(shown: Sequence[Shown], path: Path) -> None:
    """The ten worst first clicks."""
    _sheet(sorted(shown, key=lambda s: s.iou)[:10], path, 5)


def twelve(shown: Sequence[Shown], path: Path) -> None:
    """Twelve first clicks spread over people and objects, good and bad alike, for looking at."""
    seen: dict[tuple[str, str], Shown] = {}
    for s in shown:
        seen.setdefault((s.picture.person, s.thing.group), s)
    some = list(seen.values())
    _sheet([some[i] for i in np.linspace(0, len(some) - 1, min(12, len(some))).round().astype(int)], path, 4)


def _sheet(shown: Sequence[Shown], path: Path, columns: int, side: int = 320) -> None:
    tiles = [_tile(s, side) for s in shown]
    if not tiles:
        return
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    cv2.imwrite(str(path), np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]))


def _tile(s: Shown, side: int) -> np.ndarray:
    """Truth green, answer red, click blue; no name of a person."""
    grey = s.picture.pixels
    colour = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR) if grey.ndim == 2 else grey[..., ::-1]
    h, w = grey.shape[:2]
    tile = cv2.resize(colour, (side, side)).copy()
    for mask, ink in ((s.thing.mask, (0, 220, 0)), (s.mask, (60, 60, 255))):
        small = cv2.resize(mask.astype(np.uint8), (side, side), interpolation=cv2.INTER_NEAREST)
        cv2.drawContours(tile, cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], -1, ink, 1)
    cv2.circle(tile, (int((s.click[0] + 0.5) * side / w), int((s.click[1] + 0.5) * side / h)), 4, (255, 160, 60), -1)
    for text, y in ((s.thing.name[:26], 14), (f"IoU {s.iou:.2f}, said {s.confidence:.2f}", side - 8)):
        cv2.putText(tile, text, (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3)
        cv2.putText(tile, text, (4, y), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 255, 255), 1)
    return tile
