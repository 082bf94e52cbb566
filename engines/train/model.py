"""The network of `sam2-nano`: SAM2's image architecture scaled down for one CPU.

What: a Hiera-type image encoder (two convolution stages, two attention stages), a feature
pyramid, and (in `decoder.py`) SAM2's prompt encoder and two-way mask decoder. Inputs and outputs
are those of SAM2.1's two-file ONNX export, so that one engine runs both.

Why it is not a shrunken copy of SAM2's code: convolutions with batch normalisation in the first
two stages cost a fraction of attention on a CPU and fold into plain convolutions at export.

Invariants
1. Parameter names are those of version 1's checkpoint: `load_checkpoint` continues from it.
2. Input sides are multiples of 32. A checkpoint may be moved to another side (`resize_to`): only
   the learned position embedding is interpolated; every other size-dependent table is computed.
3. `fuse` is for export only; a fused network must not be trained.

What it does not do: no memory attention (no video), no text, no automatic mask generation.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decoder import Decoder

# RGB/255 is normalised with ImageNet's statistics. Source: sam2/utils/transforms.py.
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Config:
    """Sizes of one network. Four entries per tuple: the encoder's stages at strides 4, 8, 16, 32."""

    size: int = 256
    dims: tuple[int, ...] = (40, 80, 160, 192)
    blocks: tuple[int, ...] = (1, 2, 5, 1)
    heads: tuple[int, ...] = (0, 0, 5, 6)
    mlp: tuple[int, ...] = (2, 2, 4, 3)
    windows: tuple[int, ...] = (0, 0, 0, 0)  # 0: attention over the whole image
    glob: tuple[int, ...] = ()  # blocks of stage 3 that stay global where the stage is windowed
    hidden: int = 128
    dec_mlp: int = 384
    dec_heads: int = 4
    dec_layers: int = 2
    refine: int = 1

    @staticmethod
    def of(values: dict[str, Any]) -> Config:
        """From the plain dictionary kept in a checkpoint."""
        return Config(**{k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()})


CONFIGS = {
    # 3.5 M parameters: what the package ships.
    "small": Config(),
    # 7 M parameters at twice the side, for 20 minutes of a GPU. Dry-run for a few steps only.
    "gpu512": Config(size=512, dims=(48, 96, 224, 288), blocks=(2, 2, 6, 2), heads=(0, 0, 7, 9), windows=(0, 0, 16, 0), glob=(2, 5)),
}


class ConvBN(nn.Sequential):
    """Convolution, batch normalisation and (by default) ReLU."""

    def __init__(self, i: int, o: int, k: int = 3, stride: int = 1, act: bool = True) -> None:
        layers: list[nn.Module] = [nn.Conv2d(i, o, k, stride, k // 2, bias=False), nn.BatchNorm2d(o, momentum=0.03)]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if act else []))

    def fuse(self) -> nn.Sequential:
        """The same function as one convolution with bias, from the running statistics."""
        conv, bn = self[0], self[1]
        fused = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=True)
        gain = (bn.weight / (bn.running_var + bn.eps).sqrt()).detach()
        fused.weight.data = conv.weight.detach() * gain[:, None, None, None]
        fused.bias.data = (bn.bias - bn.running_mean * gain).detach()
        return nn.Sequential(fused, *list(self)[2:])


class ConvBlock(nn.Module):
    """Fused inverted bottleneck with a residual: stages 1 and 2."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.a = ConvBN(dim, dim * ratio)
        self.b = ConvBN(dim * ratio, dim, 1, act=False)
        nn.init.constant_(self.b[1].weight, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(self.a(x))


class AttnBlock(nn.Module):
    """Pre-norm transformer block on tokens [B, g·g, C]: stages 3 and 4; `window` 0 is global."""

    def __init__(self, dim: int, heads: int, ratio: int, window: int = 0) -> None:
        super().__init__()
        self.h, self.win = heads, window
        self.n1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.n2 = nn.LayerNorm(dim)
        self.f1 = nn.Linear(dim, dim * ratio)
        self.f2 = nn.Linear(dim * ratio, dim)
        for layer in (self.proj, self.f2):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, g: int) -> Tensor:
        b, n_all, c = x.shape
        y = self.n1(x)
        w = self.win if 0 < self.win < g else 0
        if w:
            y = y.reshape(b, g // w, w, g // w, w, c).transpose(2, 3).reshape(-1, w * w, c)
        n = y.shape[1]
        q, k, v = self.qkv(y).reshape(-1, n, 3, self.h, c // self.h).permute(2, 0, 3, 1, 4)
        if x.is_cuda:
            o = F.scaled_dot_product_attention(q, k, v)
        else:  # torch's CPU flash attention has a slow backward pass: .60 → .40 s a step without it
            o = torch.softmax((q * (c // self.h) ** -0.5) @ k.transpose(-2, -1), -1) @ v
        o = self.proj(o.transpose(1, 2).reshape(-1, n, c))
        if w:
            o = o.reshape(b, g // w, g // w, w, w, c).transpose(2, 3).reshape(b, n_all, c)
        x = x + o
        return x + self.f2(F.gelu(self.f1(self.n2(x))))


def _up2(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class Encoder(nn.Module):
    """`image` [B,3,S,S] → (`high_res_feats_0` [B,C/8,S/4,S/4], `…_1` [B,C/4,S/8,S/8], `image_embed` [B,C,S/16,S/16])."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        d, hid = c.dims, c.hidden
        self.size = c.size
        grid = c.size // 16
        self.stem = nn.Sequential(ConvBN(3, d[0] // 2, 3, 2), ConvBN(d[0] // 2, d[0], 3, 2))
        self.st1 = nn.Sequential(*[ConvBlock(d[0], c.mlp[0]) for _ in range(c.blocks[0])])
        self.d2 = ConvBN(d[0], d[1], 3, 2, act=False)
        self.st2 = nn.Sequential(*[ConvBlock(d[1], c.mlp[1]) for _ in range(c.blocks[1])])
        self.d3 = ConvBN(d[1], d[2], 3, 2, act=False)
        self.pos3 = nn.Parameter(torch.randn(1, grid * grid, d[2]) * 0.02)
        self.st3 = nn.ModuleList(
            [AttnBlock(d[2], c.heads[2], c.mlp[2], 0 if i in c.glob else c.windows[2]) for i in range(c.blocks[2])]
        )
        self.d4 = nn.Conv2d(d[2], d[3], 2, 2)
        self.st4 = nn.ModuleList([AttnBlock(d[3], c.heads[3], c.mlp[3], c.windows[3]) for _ in range(c.blocks[3])])
        self.neck = nn.ModuleList([nn.Conv2d(x, hid, 1) for x in d[2:]])
        self.lat1 = nn.Conv2d(d[1], hid // 4, 1)
        self.lat0 = nn.Conv2d(d[0], hid // 8, 1)
        self.top1 = nn.Conv2d(hid, hid // 4, 1)
        self.top0 = nn.Conv2d(hid // 4, hid // 8, 1)
        self.smooth = ConvBN(hid, hid, 3, act=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        f0 = self.st1(self.stem(image))
        f1 = self.st2(self.d2(f0))
        x = self.d3(f1)
        b, d, g = x.shape[0], x.shape[1], self.size // 16
        x = x.flatten(2).transpose(1, 2) + self.pos3
        for block in self.st3:
            x = block(x, g)
        f2 = x.transpose(1, 2).reshape(b, d, g, g)
        y = self.d4(f2)
        d4 = y.shape[1]
        y = y.flatten(2).transpose(1, 2)
        for block in self.st4:
            y = block(y, g // 2)
        f3 = y.transpose(1, 2).reshape(b, d4, g // 2, g // 2)
        e = self.neck[0](f2) + _up2(self.neck[1](f3))
        e = e + self.smooth(e)
        h1 = self.lat1(f1) + _up2(self.top1(e))
        h0 = self.lat0(f0) + _up2(self.top0(h1))
        return h0, h1, e


class SamNano(nn.Module):
    """Encoder and decoder together, as trained."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.enc = Encoder(config)
        self.dec = Decoder(config.size, config.hidden, config.dec_mlp, config.dec_heads, config.dec_layers, config.refine)

    def fuse(self) -> SamNano:
        """Folds every batch normalisation into its convolution (export only)."""
        for module in list(self.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, ConvBN):
                    setattr(module, name, child.fuse())
        return self

    def resize_to(self, size: int) -> SamNano:
        """The same weights at another input side; the position embedding is interpolated bicubically."""
        if size == self.config.size:
            return self
        state = resized_state(self.state_dict(), self.config.size, size)
        other = SamNano(replace(self.config, size=size))
        other.load_state_dict(state, strict=False)
        other.dec.compute_tables()  # from the loaded frequencies, for the new side
        return other


def resized_state(state: dict[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """A state dictionary fit for another side: position embedding interpolated, computed tables dropped."""
    computed = {"dec.pe", "dec.a0", "dec.a1", "dec.a2"}
    out = {k: v for k, v in state.items() if k not in computed}
    g0, g1 = old // 16, new // 16
    pos = out["enc.pos3"].reshape(1, g0, g0, -1).permute(0, 3, 1, 2)
    pos = F.interpolate(pos, size=(g1, g1), mode="bicubic", align_corners=False)
    out["enc.pos3"] = pos.permute(0, 2, 3, 1).reshape(1, g1 * g1, -1).contiguous()
    return out


def load_checkpoint(path: Path, weights: str = "ema") -> SamNano:
    """A network from a training checkpoint or from version 1's `model.pt` (both keep `cfg` and `ema`).

    The file is unpickled without executing code (`weights_only`).
    """
    data = torch.load(path, map_location="cpu", weights_only=True)
    net = SamNano(Config.of(data["cfg"]))
    state = data.get(weights) or data["ema"]
    missing, unexpected = net.load_state_dict(state, strict=False)
    if missing or unexpected:
        raise ValueError(f"{path}: not this architecture (missing {missing[:3]}, unexpected {unexpected[:3]})")
    net.dec.compute_tables()  # fp16 is too coarse for pixel centres; they follow from the side anyway
    return net


def save_weights(net: SamNano, path: Path) -> None:
    """Weights (fp16) and configuration alone: what a later training continues from and packages are exported from."""
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    torch.save({"ema": half, "cfg": asdict(net.config)}, path)
