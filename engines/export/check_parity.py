"""Runs engine packages under onnxruntime against parity folders (tests/fixtures/README.md).

    python engines/export/check_parity.py tests/fixtures/parity [more folders]

The same comparison as the daemon's own test makes of its CPU engine, by another runtime: when the
daemon fails and this passes, the fault is the daemon's; when both fail, package and references do
not belong together. Exit 1 on any difference.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
from PIL import Image

from network import OnnxNetwork
from picture import Prompt, to_image
from selection import confidence

TOLERANCE = 1e-3
CONFIDENCE_TOLERANCE = 4e-3
"""Stability counts pixels: one of a few hundred may fall on the other side."""


def check(folder: Path) -> list[str]:
    """What differs between the package of one parity folder and its references."""
    document = json.loads((folder / "reference.json").read_text())
    network = OnnxNetwork(folder / document["package"])
    pixels = np.asarray(Image.open(folder / document["image"]["path"]))
    size = (document["image"]["width"], document["image"]["height"])
    if pixels.shape[1::-1] != size:
        return [f"image is {pixels.shape[1::-1]}, not {size}"]
    calibration = tomllib.loads((folder / document["package"] / "engine.toml").read_text())["calibration"]
    features, wrong = network.encode(pixels), []
    for case in document["cases"]:
        prompt = _prompt(folder, case)
        answer = network.decode(features, prompt, size, document["selection"])
        expected = _floats(folder, case["logits"])
        difference = float(np.abs(answer.logits - expected).max() / np.abs(expected).max())
        iou = float(np.abs(answer.iou - np.asarray(case["iou_predictions"])).max())
        mask = to_image(answer.logits[answer.chosen], *size) > 0
        same_mask = bool((mask == (np.asarray(Image.open(folder / case["mask"]["path"])) > 0)).all())
        sure, _ = confidence(calibration, answer.logits[answer.chosen], float(answer.iou[answer.chosen]), single_click=prompt.single_click)
        rows = np.allclose(prompt.rows(network.shapes.input_size, *size), case["rows"], rtol=0, atol=1e-4)
        print(f"{folder.name}/{case['name']}: logits {difference:.1e}, IoU {iou:.1e}, mask {answer.chosen}, {int(mask.sum())} px")
        failures = {
            f"logits differ by {difference:.1e}": difference > TOLERANCE,
            f"IoU differs by {iou:.1e}": iou > TOLERANCE,
            f"mask {answer.chosen} chosen, not {case['chosen']}": answer.chosen != case["chosen"],
            "thresholded mask differs": not same_mask,
            f"area is {int(mask.sum())}, not {case['mask']['area_px']}": int(mask.sum()) != case["mask"]["area_px"],
            "prompt rows differ": not rows,
            f"confidence is {sure:.4f}, not {case['confidence']:.4f}": abs(sure - case["confidence"]) > CONFIDENCE_TOLERANCE,
        }
        if case["object_score"] is not None:
            score = abs((answer.object_score or 0.0) - case["object_score"])
            failures[f"object score differs by {score:.1e}"] = score > TOLERANCE * max(1.0, abs(case["object_score"]))
        wrong += [f"{case['name']}: {what}" for what, failed in failures.items() if failed]
    return wrong


def _prompt(folder: Path, case: dict) -> Prompt:
    fed_back = None if case["mask_input"] is None else _floats(folder, case["mask_input"])
    box = None if case["box"] is None else tuple(case["box"])
    return Prompt(case["name"], tuple((x, y, int(label)) for x, y, label in case["points"]), box, fed_back)


def _floats(folder: Path, entry: dict) -> np.ndarray:
    """A raw f32 file as its entry describes it."""
    return np.fromfile(folder / entry["path"], dtype="<f4").reshape(entry["shape"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="parity folders, or folders that hold some")
    found = sorted({p.parent for folder in parser.parse_args().folders for p in folder.glob("**/reference.json")})
    if not found:
        sys.exit("no reference.json in these folders")
    wrong = [f"{folder}: {line}" for folder in found for line in check(folder)]
    print("\n".join(wrong) if wrong else f"{len(found)} packages agree with their references")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
