"""Reads an official SAM2 or SAM2.1 checkpoint (.pt) into transformers' Sam2Model.

Only the image half is read: the memory of the video tracker has no part in one-image segmentation.
Loading is strict both ways: a name that is neither used nor known to belong to the tracker, or a
weight that stays unset, stops the export. The file is opened with `weights_only`, so it can hold
tensors and nothing that runs.

check_official.py compares the result with facebookresearch/sam2 itself.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from transformers import Sam2Model

from sam2_model import Size, build

TRACKER = (
    "memory_attention.",
    "memory_encoder.",
    "maskmem_tpos_enc",
    "mask_downsample.",
    "no_mem_pos_enc",
    "no_obj_embed_spatial",
    "no_obj_ptr",
    "obj_ptr_proj.",
    "obj_ptr_tpos_proj.",
)
"""Weights of the video tracker."""

RENAMES = (
    (r"^image_encoder\.trunk\.", "vision_encoder.backbone."),
    (r"^image_encoder\.neck\.convs\.(\d+)\.conv\.", r"vision_encoder.neck.convs.\1."),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    (r"^no_mem_embed$", "no_memory_embedding"),
    (r"\.patch_embed\.proj\.", ".patch_embed.projection."),
    (r"\.pe_layer\.positional_encoding_gaussian_matrix$", ".shared_embedding.positional_embedding"),
    (r"\.mask_downscaling\.0\.", ".mask_embed.conv1."),
    (r"\.mask_downscaling\.1\.", ".mask_embed.layer_norm1."),
    (r"\.mask_downscaling\.3\.", ".mask_embed.conv2."),
    (r"\.mask_downscaling\.4\.", ".mask_embed.layer_norm2."),
    (r"\.mask_downscaling\.6\.", ".mask_embed.conv3."),
    (r"\.output_upscaling\.0\.", ".upscale_conv1."),
    (r"\.output_upscaling\.1\.", ".upscale_layer_norm."),
    (r"\.output_upscaling\.3\.", ".upscale_conv2."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.norm_final_attn\.", ".layer_norm_final_attn."),
    (r"\.out_proj\.", ".o_proj."),
    # Blocks have two layers; the heads of the decoder have three.
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"(hypernetworks_mlps\.\d|_head)\.layers\.0\.", r"\1.proj_in."),
    (r"(hypernetworks_mlps\.\d|_head)\.layers\.1\.", r"\1.layers.0."),
    (r"(hypernetworks_mlps\.\d|_head)\.layers\.2\.", r"\1.proj_out."),
)
"""Official name to transformers' name; every rule is tried, in this order."""


def load_official(path: Path, size: Size) -> Sam2Model:
    """The image half of an official checkpoint, in evaluation mode."""
    stored = torch.load(path, map_location="cpu", weights_only=True)["model"]
    model = build(size)
    model.load_state_dict(translate(stored), strict=True)
    return model.eval()


def translate(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Official names and layouts to transformers' state dict."""
    out: dict[str, torch.Tensor] = {}
    points: dict[int, torch.Tensor] = {}
    for name, tensor in stored.items():
        if name.startswith(TRACKER):
            continue
        point = re.fullmatch(r"sam_prompt_encoder\.point_embeddings\.(\d)\.weight", name)
        if point:
            points[int(point.group(1))] = tensor
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        out[name] = tensor
    out["prompt_encoder.point_embed.weight"] = torch.cat([points[i] for i in sorted(points)])
    # transformers keeps the one random matrix of position encoding twice
    out["shared_image_embedding.positional_embedding"] = out["prompt_encoder.shared_embedding.positional_embedding"].clone()
    return out
