"""Compares checkpoint.py, sam2_model.py and picture.py with facebookresearch/sam2 itself.

    python engines/export/check_official.py CLONE_OF_FACEBOOKRESEARCH_SAM2 --size tiny

Needs a clone of that repository and its two configuration packages (hydra-core, iopath). The
official model is built from its own configuration with random weights and saved the way the
published checkpoints are; what `load_official` makes of the file must then answer as the official
SAM2ImagePredictor does: its own transform, prompt handling and choice between mask 0 and masks
1..3. No weights are fetched. With `--checkpoint` the published file is read instead.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from checkpoint import load_official
from picture import Prompt
from pictures import shapes_picture
from reference import standard_prompts
from sam2_model import SIZES, HfNetwork, spread
from selection import SAM2

CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
PICTURE = (300, 200)
TOLERANCE = 1e-3


def official_predictor(clone: Path, size: str, checkpoint: Path | None):
    """SAM2ImagePredictor on the official model, with random weights unless a checkpoint is given."""
    sys.path.insert(0, str(clone))
    from sam2.build_sam import build_sam2
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    config = f"configs/sam2.1/sam2.1_hiera_{CONFIGS[size]}.yaml"
    torch.manual_seed(3)  # the position matrix is a buffer, drawn as the model is built
    model = build_sam2(config, None if checkpoint is None else str(checkpoint), device="cpu")
    if checkpoint is None:
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(spread(name, parameter, draw))
    return SAM2ImagePredictor(model)


def official_logits(predictor, prompt: Prompt) -> np.ndarray:
    """The official answer to one prompt, [S/4, S/4]."""
    if not prompt.points and prompt.box is None:
        return _official_without_prompt(predictor.model, predictor._features)
    box = None
    if prompt.box is not None:
        x, y, w, h = prompt.box
        box = np.asarray([x, y, x + w - 1, y + h - 1], np.float32)
    _, iou, logits = predictor.predict(
        point_coords=np.asarray([p[:2] for p in prompt.points], np.float32) if prompt.points else None,
        point_labels=np.asarray([p[2] for p in prompt.points], np.int32) if prompt.points else None,
        box=box,
        multimask_output=prompt.single_click,
        return_logits=True,
    )
    return logits[int(np.argmax(iou))]


def _official_without_prompt(model, features) -> np.ndarray:
    """SAM2's own way of no prompt, the row (0, 0, -1), is in the tracker's heads; the predictor sends no row at all."""
    model.pred_obj_scores = False  # else a negative object score blanks the mask
    with torch.no_grad():
        masks, _, iou, *_ = model._forward_sam_heads(
            features["image_embed"], None, None, features["high_res_feats"], multimask_output=True
        )
    return masks[0, int(iou.argmax())].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clone", type=Path)
    parser.add_argument("--size", choices=CONFIGS, default="tiny")
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    predictor = official_predictor(args.clone, args.size, args.checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        path = args.checkpoint or Path(folder) / "random.pt"
        if args.checkpoint is None:
            torch.save({"model": predictor.model.state_dict()}, path)
        network = HfNetwork(load_official(path, SIZES[args.size]), 4)
    pixels = shapes_picture(*PICTURE, colour=True)
    predictor.set_image(pixels)
    features, failed = network.encode(pixels), False
    for prompt in standard_prompts(*PICTURE):
        ours = network.decode(features, prompt, PICTURE, SAM2)
        theirs = official_logits(predictor, prompt)
        here = ours.logits[ours.chosen]
        if prompt.points or prompt.box is not None:
            here = np.clip(here, -32.0, 32.0)  # as the predictor clamps what it gives
        difference = float(np.abs(here - theirs).max() / np.abs(theirs).max())
        print(f"{prompt.name}: mask {ours.chosen}, {difference:.1e} of the largest logit")
        failed |= difference > TOLERANCE
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
