"""Writes the manifest of an engine package: engine.toml beside encoder.onnx and decoder.onnx.

What is measured is read from the files (input size, channels, mask count, hashes) or computed with
PyTorch or onnxruntime (the golden answer: mask, area, box, predicted IoU); what is claimed (name, licence,
intended use) is said on the command line. The daemon refuses a package whose hashes differ and is
not ready before the golden picture came out right, so this file never takes a golden value by hand.

    python engines/export/package.py engines/sam2-nano --name sam2-nano --point 84,120,1 ...

It does not export anything (export_onnx.py does) and does not judge the model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from network import Network, OnnxNetwork, Shapes
from picture import Prompt, bounding_box, to_image
from selection import RULES

MAX_PROMPTS = 64
"""Prompts per decoder call; the daemon sends at most so many."""
MAX_POINTS = 66
"""Rows per prompt: 64 clicks and the two corners of a box."""


@dataclass(frozen=True)
class Claims:
    """What no file can tell about itself."""

    name: str
    version: str
    architecture: str
    precision: str
    selection: str
    intended_use: str
    notice: str
    licence: str
    checkpoint: str


Calibration = dict[str, Any]
IDENTITY: Calibration = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
"""`[calibration]`: predicted IoU x stability to confidence, piecewise linear; identity where nobody has fitted it."""


def write_manifest(
    folder: Path, claims: Claims, prompt: Prompt, calibration: Calibration = IDENTITY, network: Network | None = None
) -> None:
    """Runs the golden picture and writes golden_mask.png and engine.toml into `folder`.

    The golden answer is `network`'s: PyTorch where there is one, else the package's own under
    onnxruntime.
    """
    package = network or OnnxNetwork(folder)
    pixels = np.asarray(Image.open(folder / "golden.png"))
    height, width = pixels.shape[:2]
    answer = package.decode(package.encode(pixels), prompt, (width, height), claims.selection)
    mask = to_image(answer.logits[answer.chosen], width, height) > 0
    box = bounding_box(mask)
    if box is None or mask.all():
        raise SystemExit("the golden mask is empty or full: it would prove nothing")
    Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "golden_mask.png", optimize=True)
    text = render(folder, claims, package.shapes, prompt, int(mask.sum()), box, float(answer.iou[answer.chosen]), calibration)
    (folder / "engine.toml").write_text(text)


def render(
    folder: Path,
    claims: Claims,
    shapes: Shapes,
    prompt: Prompt,
    area: int,
    box: tuple[int, int, int, int],
    iou: float,
    calibration: Calibration = IDENTITY,
) -> str:
    """The manifest's text; engines/README.md explains it key by key."""
    s = json.dumps  # a JSON string is a TOML basic string, a JSON array of numbers a TOML array
    lines = ["# Engine package manifest, written by engines/export/package.py; the keys: engines/README.md.", "schema = 1"]
    lines += [f"{key} = {s(getattr(claims, key))}" for key in ("name", "version", "architecture")]
    lines += [f"{key} = {getattr(shapes, key)}" for key in ("input_size", "embed_channels", "masks")]
    lines += [f"{key} = {s(getattr(claims, key))}" for key in ("precision", "selection", "intended_use", "notice", "licence", "checkpoint")]
    lines += ["", "[limits]", f"max_prompts = {MAX_PROMPTS}", f"max_points = {MAX_POINTS}"]
    lines += ["", "[calibration]", *(f"{key} = {_toml(calibration[key])}" for key in ("stability_delta", "x", "y", "click") if key in calibration)]
    for role in ("encoder", "decoder"):
        lines += ["", f"[files.{role}]", f'path = "{role}.onnx"', 'format = "onnx"', f'sha256 = "{sha256(folder / f"{role}.onnx")}"']
    lines += ["", "[golden]", 'image = "golden.png"', f'sha256 = "{sha256(folder / "golden.png")}"']
    lines += [f"points = {s([[float(x), float(y), label] for x, y, label in prompt.points])}"]
    if prompt.box is not None:
        lines += [f"box = {s([float(v) for v in prompt.box])}"]
    lines += [f"area_px = {area}", "area_tolerance = 0.02", f"bounding_box = {s(list(box))}"]
    lines += [f"iou = {iou:.4f}", "iou_tolerance = 0.02"]
    lines += ['mask = "golden_mask.png"', f'mask_sha256 = "{sha256(folder / "golden_mask.png")}"', "mask_iou_min = 0.98"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A number, a list of numbers, or an inline table of them."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(v)}" for key, v in value.items()) + " }"
    return json.dumps(value)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def numbers(text: str) -> tuple[float, ...]:
    """Comma-separated numbers of the command line."""
    return tuple(float(part) for part in text.split(","))


def click(text: str) -> tuple[float, float, int]:
    """`X,Y` or `X,Y,LABEL` of the command line."""
    x, y, *label = numbers(text)
    return x, y, int(label[0]) if label else 1


def add_claims(parser: argparse.ArgumentParser) -> None:
    """The arguments behind `Claims`."""
    parser.add_argument("--name", required=True)
    parser.add_argument("--version", default="1.0.0")
    parser.add_argument("--architecture", default="sam2")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--selection", choices=RULES, default="sam2")
    parser.add_argument("--intended-use", default="research")
    parser.add_argument("--notice", default="Not for diagnostic use.")
    parser.add_argument("--licence", required=True, help="SPDX expression")
    parser.add_argument("--origin", dest="checkpoint", default="", help="where the weights come from, in a sentence")


def claims_of(args: argparse.Namespace) -> Claims:
    """`Claims` from parsed arguments."""
    return Claims(**{key: getattr(args, key) for key in Claims.__dataclass_fields__})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds encoder.onnx, decoder.onnx and golden.png")
    parser.add_argument("--point", type=click, action="append", default=[], help="golden click X,Y[,LABEL], in pixels of golden.png")
    parser.add_argument("--box", type=numbers, help="golden box X,Y,WIDTH,HEIGHT")
    parser.add_argument("--calibration", type=Path, help="written by engines/train/calibrate.py; identity without it")
    add_claims(parser)
    args = parser.parse_args()
    fitted = json.loads(args.calibration.read_text()) if args.calibration else IDENTITY
    write_manifest(args.folder, claims_of(args), Prompt("golden", tuple(args.point), args.box), fitted)
    print((args.folder / "engine.toml").read_text(), end="")


if __name__ == "__main__":
    main()
