"""Parity folders: a picture, prompts, and what PyTorch answers. Format: tests/fixtures/README.md.

A reference is worth something only if a wrong runtime can fail it, so `write_reference` refuses
answers that would prove nothing: an empty or a full mask, a mask whose border lies so near to the
threshold that rounding decides it, a mask choice that rounding decides.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from network import Answer, Network
from picture import Prompt, image_tensor, to_image
from selection import MASK0_FIRST, confidence

SCHEMA = 1
FED_BACK_LIMIT = 32.0
"""Logits fed back are clamped to this, as the daemon does."""
NEAREST = 1e-5
"""Least distance of the chosen mask's logits from the threshold, relative to the largest logit."""
HEADROOM = 3.0
"""That distance is at least so many times the difference between PyTorch and the second runtime."""
IOU_MARGIN = 1e-3
"""Least lead of the best predicted IoU where it decides."""


class UnfitReference(Exception):
    """An answer that no test could learn anything from; another seed, picture or prompt is needed."""


def standard_prompts(width: int, height: int) -> list[Prompt]:
    """The cases of every parity folder, on the picture of pictures.py; the fed-back mask is added later."""

    def place(px: float, py: float) -> tuple[float, float]:
        return round(px * width / 64, 1), round(py * height / 64, 1)

    inside, outside, far = place(21, 30), place(32, 43), place(44, 34)
    box = (*place(12.5, 19.5), *place(17, 21))
    return [
        Prompt("point", ((*inside, 1),)),
        Prompt("two_points", ((*inside, 1), (*far, 0))),
        Prompt("box", (), box),
        Prompt("box_and_points", ((*inside, 1), (*outside, 0)), box),
        Prompt("no_prompt"),
    ]


def write_reference(
    folder: Path, package: str, network: Network, rule: str, pixels: np.ndarray, prompts: list[Prompt], check: Network
) -> None:
    """Writes one parity folder with the answers of `network`.

    `package` is the path of the engine package as reference.json names it. `check` is that package
    under another runtime; its answers bound how near to the threshold a reference may be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    height, width = pixels.shape[:2]
    Image.fromarray(pixels).save(folder / "image.png", optimize=True)
    features, check_features = network.encode(pixels), check.encode(pixels)
    first = network.decode(features, prompts[0], (width, height), rule)
    fed_back = np.clip(first.logits[first.chosen], -FED_BACK_LIMIT, FED_BACK_LIMIT)
    calibration = tomllib.loads((folder / package / "engine.toml").read_text())["calibration"]
    cases = []
    for prompt in [*prompts, Prompt("mask_input", prompts[0].points, None, fed_back)]:
        answer = network.decode(features, prompt, (width, height), rule)
        other = check.decode(check_features, prompt, (width, height), rule)
        _compare(f"{folder.name}/{prompt.name}", answer, other, (width, height), rule)
        case = _case(folder, prompt, answer, network.shapes.input_size, (width, height))
        sure, _ = confidence(calibration, answer.logits[answer.chosen], float(answer.iou[answer.chosen]), single_click=prompt.single_click)
        cases.append(case | {"confidence": sure})
    document = {
        "schema": SCHEMA,
        "package": package,
        "torch": torch.__version__.split("+")[0],
        "selection": rule,
        "input_size": network.shapes.input_size,
        "image": {"path": "image.png", "width": width, "height": height},
        "cases": cases,
    }
    (folder / "reference.json").write_text(to_json(document))


def write_preprocess(folder: Path, cases: list[tuple[str, np.ndarray, int]]) -> None:
    """Pictures and their encoder input tensors; cases are (name, pixels, S)."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for name, pixels, size in cases:
        Image.fromarray(pixels).save(folder / f"{name}.png", optimize=True)
        tensor = _store(folder / f"{name}.tensor.f32", image_tensor(pixels, size).numpy())
        height, width = pixels.shape[:2]
        entries.append(
            {"name": name, "image": f"{name}.png", "width": width, "height": height, "input_size": size, "tensor": tensor}
        )
    (folder / "cases.json").write_text(to_json({"schema": SCHEMA, "cases": entries}))


def _case(folder: Path, prompt: Prompt, answer: Answer, side: int, size: tuple[int, int]) -> dict:
    """One entry of `cases`, and its files."""
    upsampled = to_image(answer.logits[answer.chosen], *size)
    mask = upsampled > 0
    where = f"{folder.name}/{prompt.name}"
    if not mask.any() or mask.all():
        raise UnfitReference(f"{where}: the mask is empty or full; choose another seed or prompt")
    nearest, largest = float(np.abs(upsampled).min()), float(np.abs(answer.logits).max())
    if nearest < NEAREST * largest:
        raise UnfitReference(f"{where}: a logit lies {nearest:.1e} from the threshold; rounding would decide it")
    path = f"{prompt.name}.mask.png"
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / path, optimize=True)
    fed_back = None
    if prompt.mask_input is not None:
        fed_back = _store(folder / f"{prompt.name}.input.f32", prompt.mask_input)
    return {
        "name": prompt.name,
        "points": [[x, y, label] for x, y, label in prompt.points],
        "box": None if prompt.box is None else list(prompt.box),
        "mask_input": fed_back,
        "rows": [[float(v) for v in row] for row in prompt.rows(side, *size)],
        "logits": _store(folder / f"{prompt.name}.logits.f32", answer.logits),
        "iou_predictions": [float(v) for v in answer.iou],
        "object_score": answer.object_score,
        "chosen": answer.chosen,
        "mask": {"path": path, "area_px": int(mask.sum())},
        "nearest_to_threshold": nearest,
    }


def _compare(where: str, reference: Answer, other: Answer, size: tuple[int, int], rule: str) -> None:
    """Refuses a reference that a second runtime does not reach, or where rounding decides mask or choice."""
    largest = float(np.abs(reference.logits).max())
    difference = float(np.abs(reference.logits - other.logits).max()) / largest
    if difference > 1e-4 or reference.chosen != other.chosen:
        raise UnfitReference(f"{where}: runtimes differ by {difference:.1e} of the largest logit, or choose another mask")
    here, there = (to_image(answer.logits[reference.chosen], *size) for answer in (reference, other))
    if float(np.abs(here).min()) < HEADROOM * float(np.abs(here - there).max()):
        raise UnfitReference(f"{where}: a pixel lies as near to the threshold as the runtimes to each other")
    multi = reference.iou[1:] if len(reference.iou) == 4 else reference.iou
    by_iou = not (rule == MASK0_FIRST and len(reference.iou) == 4)
    if by_iou and len(multi) > 1 and float(np.diff(np.sort(multi))[-1]) < IOU_MARGIN:
        raise UnfitReference(f"{where}: the two best predicted IoU are too near to each other: {multi}")
    print(f"{where}: mask {reference.chosen}, difference to onnxruntime {difference:.1e}")


def _store(path: Path, array: np.ndarray) -> dict:
    """Raw little-endian f32 in C order, and the entry that names it."""
    path.write_bytes(np.ascontiguousarray(array, dtype="<f4").tobytes())
    return {"path": path.name, "shape": list(array.shape)}


def to_json(document: dict) -> str:
    """Indented, but a list of numbers or of rows stays on one line."""

    def render(value: object, indent: str) -> str:
        inner = indent + "  "
        if isinstance(value, dict):
            if len(value) <= 3 and all(not isinstance(v, dict) for v in value.values()) and "cases" not in value:
                return json.dumps(value)
            body = ",\n".join(f"{inner}{json.dumps(k)}: {render(v, inner)}" for k, v in value.items())
            return "{\n" + body + "\n" + indent + "}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(inner + render(v, inner) for v in value) + "\n" + indent + "]"
        return json.dumps(value)

    return render(document, "") + "\n"

