"""transformers' Sam2Model at any size, from a seed or from a checkpoint, and its own answers.

Three things need a SAM2 that is small, or has SAM2.1's exact shape without anyone's weights: the
parity fixtures, the parity check at full size, and a build of a TensorRT plan where no checkpoint may
be fetched. The answers of `HfNetwork` come from Sam2Model.forward as transformers ships it; nothing
of trace.py is used, so that they can stand as a reference for what trace.py exports.

Invariants: a seed gives the same weights on any machine (one CPU generator, parameters in their own
order), and they are spread so that logits cross zero: as Sam2Model initialises itself (normal, 0.02)
every mask is flat and parity would mean nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Sam2Config, Sam2Model
from transformers.models.sam2.configuration_sam2 import (
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2PromptEncoderConfig,
    Sam2VisionConfig,
)

from network import Answer, Shapes
from picture import Prompt, image_tensor
from selection import choose


@dataclass(frozen=True)
class Size:
    """The knobs in which SAM2 models differ."""

    size: int
    dims: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    windows: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    background: tuple[int, int]
    """Grid of the background position embedding, before it is interpolated."""
    hidden: int
    mlp_dim: int
    decoder_heads: int


# Source of the four published sizes: sam2/configs/sam2.1/*.yaml in facebookresearch/sam2.
SIZES = {
    "tiny": Size(1024, (96, 192, 384, 768), (1, 2, 4, 8), (1, 2, 7, 2), (8, 4, 14, 7), (5, 7, 9), (7, 7), 256, 2048, 8),
    "small": Size(1024, (96, 192, 384, 768), (1, 2, 4, 8), (1, 2, 11, 2), (8, 4, 14, 7), (7, 10, 13), (7, 7), 256, 2048, 8),
    "base_plus": Size(1024, (112, 224, 448, 896), (2, 4, 8, 16), (2, 3, 16, 3), (8, 4, 14, 7), (12, 16, 20), (14, 14), 256, 2048, 8),
    "large": Size(1024, (144, 288, 576, 1152), (2, 4, 8, 16), (2, 6, 36, 4), (8, 4, 16, 8), (23, 33, 43), (7, 7), 256, 2048, 8),
    # Test size: windows larger than the grid (14 on 8, 7 on 4) exercise the padding, block 3 is global.
    "test": Size(128, (8, 16, 24, 32), (1, 2, 3, 4), (1, 1, 2, 1), (8, 4, 14, 7), (3,), (7, 7), 32, 64, 4),
}


LOGIT_GAIN = 8.0
"""Seeded mask heads are drawn so much larger: logits reach some tens, as a trained SAM2's do, and masks can be stable."""


def build(size: Size) -> Sam2Model:
    """An untrained Sam2Model of the given shape, in evaluation mode."""
    grid = size.size // 4
    backbone = Sam2HieraDetConfig(
        hidden_size=size.dims[0],
        num_attention_heads=size.heads[0],
        image_size=[size.size, size.size],
        blocks_per_stage=list(size.blocks),
        embed_dim_per_stage=list(size.dims),
        num_attention_heads_per_stage=list(size.heads),
        window_size_per_stage=list(size.windows),
        global_attention_blocks=list(size.global_blocks),
        window_positional_embedding_background_size=list(size.background),
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=list(size.dims[::-1]),
        backbone_feature_sizes=[[grid, grid], [grid // 2, grid // 2], [grid // 4, grid // 4]],
        fpn_hidden_size=size.hidden,
    )
    prompt = Sam2PromptEncoderConfig(hidden_size=size.hidden, image_size=size.size, patch_size=16)
    decoder = Sam2MaskDecoderConfig(
        hidden_size=size.hidden,
        mlp_dim=size.mlp_dim,
        iou_head_hidden_dim=size.hidden,
        num_attention_heads=size.decoder_heads,
    )
    config = Sam2Config(
        vision_config=vision.to_dict(), prompt_encoder_config=prompt.to_dict(), mask_decoder_config=decoder.to_dict()
    )
    return Sam2Model(config).eval()


def seeded(size: Size, seed: int) -> Sam2Model:
    """A Sam2Model with random weights that make masks of some shape."""
    model = build(size)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(spread(name, parameter, draw))
        matrix = torch.randn(model.shared_image_embedding.positional_embedding.shape, generator=draw)
        # SAM2 has one matrix; transformers keeps it twice and only its conversion script ties them.
        model.shared_image_embedding.positional_embedding.copy_(matrix)
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(matrix)
        for head in model.mask_decoder.output_hypernetworks_mlps:
            head.proj_out.weight.mul_(LOGIT_GAIN)
            head.proj_out.bias.mul_(LOGIT_GAIN)
    return model


def spread(name: str, parameter: nn.Parameter, draw: torch.Generator) -> torch.Tensor:
    """Weights by fan-in, LayerNorms near identity, embeddings of unit size."""
    noise = torch.randn(parameter.shape, generator=draw)
    if "norm" in name:
        return noise * 0.1 + (1.0 if name.endswith("weight") else 0.0)
    if name.endswith("bias"):
        return noise * 0.1
    if "embed" in name and "projection" not in name and "conv" not in name:
        return noise * 0.5
    if name.endswith(("token.weight", "tokens.weight")):
        return noise * 0.5
    fan_in = math.prod(parameter.shape[1:])
    return noise / math.sqrt(fan_in)


def load(folder: Path) -> Sam2Model:
    """A checkpoint in transformers' own format (config.json and safetensors)."""
    return Sam2Model.from_pretrained(folder, local_files_only=True).eval()


class HfNetwork:
    """Sam2Model.forward, asked for every mask it has."""

    def __init__(self, model: Sam2Model, masks: int) -> None:
        self.model = model
        self.shapes = Shapes(int(model.prompt_encoder.input_image_size), model.hidden_dim, masks)

    def encode(self, pixels: np.ndarray) -> list[torch.Tensor]:
        """The three feature maps, coarsest last."""
        return self.model.get_image_embeddings(image_tensor(pixels, self.shapes.input_size))

    def decode(self, features: list[torch.Tensor], prompt: Prompt, size: tuple[int, int], rule: str) -> Answer:
        """Mask 0 from the single-mask mode, 1..3 from the multimask mode, joined as the package has them."""
        rows = torch.from_numpy(prompt.rows(self.shapes.input_size, *size)).to(features[0].dtype)
        fed_back = None if prompt.mask_input is None else torch.from_numpy(prompt.mask_input)[None, None]
        parts = []
        self.model.mask_decoder.dynamic_multimask_via_stability = False
        for multimask in {1: (False,), 3: (True,), 4: (False, True)}[self.shapes.masks]:
            with torch.no_grad():
                out = self.model(
                    image_embeddings=features,
                    input_points=rows[None, None, :, :2],
                    input_labels=rows[None, None, :, 2].to(torch.int32),
                    input_masks=fed_back,
                    multimask_output=multimask,
                )
            parts.append(out)
        logits = torch.cat([out.pred_masks[0, 0] for out in parts]).numpy()
        iou = torch.cat([out.iou_scores[0, 0] for out in parts]).numpy()
        score = float(parts[0].object_score_logits[0, 0, 0])
        return Answer(logits, iou, score, choose(rule, logits, iou, single_click=prompt.single_click))
