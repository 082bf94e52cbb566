"""What a SAM2 network is to these scripts: pictures in, masks of one prompt out.

`Network` has three implementations: `OnnxNetwork` here (onnxruntime on a package folder),
transformers' own Sam2Model (sam2_model.py) and sam2-nano's PyTorch code (nano.py). Reference numbers
come from the latter two; onnxruntime is what the export is checked with.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import onnxruntime

from picture import Prompt, image_tensor
from selection import choose

ENCODER_OUTPUTS = ("high_res_feats_0", "high_res_feats_1", "image_embed")
DECODER_INPUTS = ("image_embed", "high_res_feats_0", "high_res_feats_1", "point_coords", "point_labels", "mask_input", "has_mask_input")
DECODER_OUTPUTS = ("masks", "iou_predictions", "object_score_logits")
"""Tensor names of samexporter, which the daemon binds by."""


@dataclass(frozen=True)
class Shapes:
    """What the two graphs declare."""

    input_size: int
    embed_channels: int
    masks: int


@dataclass(frozen=True)
class Answer:
    """One prompt's way through both graphs."""

    logits: np.ndarray
    """[M, S/4, S/4]."""
    iou: np.ndarray
    """[M]."""
    object_score: float | None
    chosen: int


class Network(Protocol):
    """A SAM2 network, whatever runs it."""

    shapes: Shapes

    def encode(self, pixels: np.ndarray) -> Any:
        """Features of an 8-bit picture, [H, W] or [H, W, 3]; what `decode` takes."""

    def decode(self, features: Any, prompt: Prompt, size: tuple[int, int], rule: str) -> Answer:
        """One prompt, in pixels of an image of `size` = (width, height)."""


class OnnxNetwork:
    """A package folder under onnxruntime, on one thread."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.encoder, self.decoder = (
            onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
            for name in ("encoder.onnx", "decoder.onnx")
        )
        self.shapes = read_shapes(folder)
        self.outputs = [o.name for o in self.decoder.get_outputs() if o.name in DECODER_OUTPUTS]

    def encode(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """The three feature maps of an 8-bit picture, by name."""
        image = image_tensor(pixels, self.shapes.input_size).numpy()
        return dict(zip(ENCODER_OUTPUTS, self.encoder.run(list(ENCODER_OUTPUTS), {"image": image})))

    def decode(self, features: dict[str, np.ndarray], prompt: Prompt, size: tuple[int, int], rule: str) -> Answer:
        """One prompt (in pixels of an image of `size` = width, height) on encoded features."""
        side = self.shapes.input_size
        rows = prompt.rows(side, *size)
        mask = np.zeros((1, 1, side // 4, side // 4), np.float32)
        if prompt.mask_input is not None:
            mask[0, 0] = prompt.mask_input
        feed = features | {
            "point_coords": rows[None, :, :2],
            "point_labels": rows[None, :, 2],
            "mask_input": mask,
            "has_mask_input": np.asarray([float(prompt.mask_input is not None)], np.float32),
        }
        out = dict(zip(self.outputs, self.decoder.run(self.outputs, feed)))
        logits, iou = out["masks"][0], out["iou_predictions"][0]
        score = float(out["object_score_logits"][0, 0]) if "object_score_logits" in out else None
        return Answer(logits, iou, score, choose(rule, logits, iou, single_click=prompt.single_click))


def read_shapes(folder: Path) -> Shapes:
    """S, C and M as the two graphs declare them."""
    encoder = onnx.load(folder / "encoder.onnx").graph
    decoder = onnx.load(folder / "decoder.onnx").graph
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*encoder.input, *encoder.output, *decoder.output]}
    return Shapes(dims["image"][3], dims["image_embed"][1], dims["masks"][1])
