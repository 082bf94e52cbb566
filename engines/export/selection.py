"""Which of the decoder's M masks is the answer.

Why it is a file of its own: the rule is part of an engine package (`selection` in engine.toml), the
daemon applies it in Rust, and every reference number in the repository names the mask that it
picks. This is the readable statement of it.

Rules, for logits [M, h, w] and predicted IoU [M] of one prompt:

1. M = 1: mask 0. M = 3: the best predicted IoU. Both whatever the manifest names.
2. `sam2`, M = 4: masks 1..3 are SAM2's multimask output, mask 0 its single mask.
   One click, or no prompt at all: the best predicted IoU among 1..3.
   A box, a fed-back mask, or two and more clicks: mask 0, unless its stability is below 0.98; then
   the best among 1..3.
3. `mask0-first`, M = 4: always mask 0; 1..3 are alternatives. Measured better on sam2-nano.

Source of rule 2: `_use_multimask` and `_dynamic_multimask_via_stability` in facebookresearch/sam2
(sam2/modeling/sam2_base.py, sam/mask_decoder.py), settings of the published SAM2.1 configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

SAM2 = "sam2"
MASK0_FIRST = "mask0-first"
RULES = (SAM2, MASK0_FIRST)

STABILITY_DELTA = 0.05
STABILITY_THRESHOLD = 0.98


def stability(logits: np.ndarray, delta: float = STABILITY_DELTA) -> float:
    """Area above +delta over area above -delta, on the decoder's own grid; 1.0 for an empty mask."""
    inner = int((logits > delta).sum())
    outer = int((logits > -delta).sum())
    return inner / outer if outer > 0 else 1.0


def confidence(calibration: Mapping[str, Any], logits: np.ndarray, iou: float, *, single_click: bool) -> tuple[float, float]:
    """(confidence, score) of one mask [h, w]: `[calibration]` of a manifest, as the daemon reads it.

    The score is predicted IoU x stability at `stability_delta`; the curve is `click` for one click
    where there is one, else the common `x`, `y`; flat beyond its ends.
    """
    score = float(np.clip(iou, 0, 1)) * stability(logits, calibration.get("stability_delta", STABILITY_DELTA))
    curve = calibration.get("click", calibration) if single_click else calibration
    return float(np.interp(score, curve["x"], curve["y"])), score


def choose(rule: str, logits: np.ndarray, iou: np.ndarray, *, single_click: bool) -> int:
    """Index of the mask that answers one prompt.

    `logits` [M, h, w], `iou` [M]. `single_click` is true for one click and for no prompt at all,
    false for a box, a fed-back mask, or more than one click.
    """
    if rule not in RULES:
        raise ValueError(f"unknown selection rule {rule!r}: one of {', '.join(RULES)}")
    masks = logits.shape[0]
    if masks == 1:
        return 0
    if masks == 3:
        return int(np.argmax(iou))
    if masks != 4:
        raise ValueError(f"a decoder has 1, 3 or 4 masks, not {masks}")
    if rule == MASK0_FIRST:
        return 0
    if not single_click and stability(logits[0]) >= STABILITY_THRESHOLD:
        return 0
    return 1 + int(np.argmax(iou[1:]))
