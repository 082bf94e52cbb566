"""sam2-nano in PyTorch, as the reference for its ONNX files.

The folder given holds `model.py` (the network) and `model.pt` (its weights, BatchNorm not yet
folded); neither is part of the repository's default build. The package stores weights as fp16
(every float array of more than 64 values), so the reference rounds them the same way: what remains
is the difference of the runtimes, not of the rounding.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn

from network import Answer, Shapes
from picture import Prompt, image_tensor
from selection import choose

KEPT_FP32 = 64
"""Arrays up to this size were exported as they are."""


class NanoNetwork:
    """The trained network, BatchNorm folded, weights rounded to fp16 and computed in fp32."""

    def __init__(self, model_py: Path, weights: Path) -> None:
        spec = importlib.util.spec_from_file_location("nano_model", model_py)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        stored = torch.load(weights, map_location="cpu", weights_only=True)
        self.model: nn.Module = module.SAMSmall(stored["cfg"])
        self.model.load_state_dict(stored["ema"])
        self.model.eval()
        self.model.fuse().eval()
        with torch.no_grad():
            for array in [*self.model.parameters(), *self.model.buffers()]:
                if array.is_floating_point() and array.numel() > KEPT_FP32:
                    array.copy_(array.half().float())
        self.shapes = Shapes(stored["cfg"]["size"], stored["cfg"]["hidden"], 4)

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
