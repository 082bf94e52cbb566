"""sam2-nano in PyTorch, as the reference for its ONNX files.

The network is `engines/train/model.py`; the weights are a file of its `save_weights`, BatchNorm not
yet folded. The package stores weights as fp16 (every float array of more than 64 values), so the
reference rounds them the same way: what remains is the difference of the runtimes, not of the
rounding.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from network import Answer, Shapes
from picture import Prompt, image_tensor
from selection import choose

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

from model import load_checkpoint  # noqa: E402

KEPT_FP32 = 64
"""Arrays up to this size were exported as they are."""


class NanoNetwork:
    """The trained network, BatchNorm folded, weights rounded to fp16 and computed in fp32."""

    def __init__(self, weights: Path) -> None:
        self.model: nn.Module = load_checkpoint(weights).eval()
        self.model.fuse().eval()
        with torch.no_grad():
            for array in [*self.model.parameters(), *self.model.buffers()]:
                if array.is_floating_point() and array.numel() > KEPT_FP32:
                    array.copy_(array.half().float())
        self.shapes = Shapes(self.model.config.size, self.model.config.hidden, 4)

    def encode(self, pixels: np.ndarray) -> tuple[torch.Tensor, ...]:
        """high_res_feats_0, high_res_feats_1, image_embed."""
        with torch.no_grad():
            return self.model.enc(image_tensor(pixels, self.shapes.input_size))

    def decode(self, features: tuple[torch.Tensor, ...], prompt: Prompt, size: tuple[int, int], rule: str) -> Answer:
        """One prompt through the decoder."""
        side = self.shapes.input_size
        rows = torch.from_numpy(prompt.rows(side, *size))[None]
        mask = torch.zeros(1, 1, side // 4, side // 4)
        if prompt.mask_input is not None:
            mask[0, 0] = torch.from_numpy(prompt.mask_input)
        given = torch.tensor([float(prompt.mask_input is not None)])
        fine, middle, coarse = features
        with torch.no_grad():
            masks, iou, score = self.model.dec(coarse, fine, middle, rows[..., :2], rows[..., 2], mask, given)
        logits, iou = masks[0].numpy(), iou[0].numpy()
        return Answer(logits, iou, float(score[0, 0]), choose(rule, logits, iou, single_click=prompt.single_click))
