"""Pictures and prompts on their way into SAM2, and masks on their way back.

The reference for `src/imaging`: the same steps as sam2/utils/transforms.py takes (ToTensor,
torchvision Resize to S x S, Normalize), written with PyTorch. What a file must hold on to:

1. The picture is stretched to S x S, antialiased bilinear, never padded.
2. Prompt rows: the box's two corners first (labels 2, 3), then the clicks (1 in, 0 out); x * S / W,
   y * S / H. No prompt is the one row (0, 0, -1). The graph itself adds the half pixel.
3. Logits return by bilinear upsampling, align_corners=False, threshold 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Prompt:
    """One prompt in image pixels, as a request gives it."""

    name: str
    points: tuple[tuple[float, float, int], ...] = ()
    """x, y, label; label 1 in, 0 out."""
    box: tuple[float, float, float, float] | None = None
    """x, y, width, height."""
    mask_input: np.ndarray | None = field(default=None, compare=False)
    """Logits of an earlier answer, [S/4, S/4]."""

    @property
    def single_click(self) -> bool:
        """One click or nothing: the case in which SAM2 is ambiguous by design."""
        return self.box is None and self.mask_input is None and len(self.points) <= 1

    def rows(self, size: int, width: int, height: int) -> np.ndarray:
        """Decoder rows [N, 3] f32: x, y on the S x S picture, label."""
        rows: list[tuple[float, float, int]] = []
        if self.box is not None:
            x, y, w, h = self.box
            rows += [(x, y, 2), (x + w - 1, y + h - 1, 3)]
        rows += list(self.points)
        scaled = [(x * size / width, y * size / height, label) for x, y, label in rows]
        return np.asarray(scaled or [(0.0, 0.0, -1)], np.float32)


def image_tensor(pixels: np.ndarray, size: int) -> torch.Tensor:
    """Encoder input [1, 3, S, S], f32, RGB, (x / 255 - mean) / std.

    `pixels` is uint8, [H, W] grey or [H, W, 3] RGB; grey is repeated over the channels.
    """
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    unit = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
    unit = resize(unit, [size, size], interpolation=InterpolationMode.BILINEAR, antialias=True)
    mean = torch.tensor(PIXEL_MEAN).reshape(3, 1, 1)
    std = torch.tensor(PIXEL_STD).reshape(3, 1, 1)
    return ((unit - mean) / std).unsqueeze(0)


def to_image(logits: np.ndarray, width: int, height: int) -> np.ndarray:
    """Logits [h, w] of one mask on the image's own grid, [height, width] f32."""
    grid = torch.from_numpy(np.array(logits))[None, None].float()
    return functional.interpolate(grid, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def bounding_box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """x, y, width, height of a boolean mask, or None if it is empty."""
    ys, xs = np.nonzero(mask)
    if len(xs) == 0:
        return None
    return int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1
