"""Prompt encoder and mask decoder of `sam2-nano` (SAM2's, with two additions).

Layout: `point_coords` [B,N,2] in pixels of the S×S input, `point_labels` [B,N] (−1 pad, 0 out,
1 in, 2/3 box corners), `mask_input` [B,1,S/4,S/4] logits, `has_mask_input` [B]; out come `masks`
[B,4,S/4,S/4] logits, `iou_predictions` [B,4], `object_score_logits` [B,1]. Half a pixel is added
to points inside the graph, as SAM2 does. Source: sam2/modeling/sam/prompt_encoder.py.

Two additions to SAM2, both inside the graph, because a model trained from nothing on few people
learns to follow prompts many times faster with them:
* a click's token also gets the features found at its place, pooled under a small Gaussian on all
  three levels (SAM2 gives the token its position only);
* positive clicks, negative clicks, box and previous mask are drawn as four maps on the S/4 grid
  and feed the mask-prompt convolutions and the last upscaling step.

Invariants
1. Rows with label −1 are exactly neutral (masked in attention), unlike SAM2: points may be padded.
2. No Shape or Gather chains in the exported graph (`_reshape`): only B and N are dynamic.
3. The IoU head never sends gradients into the masks it judges.
"""
from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _ExportReshape(torch.autograd.Function):
    """Reshape with ONNX's 0 (keep) and −1 (infer), so that tracing records no shape arithmetic."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: list[int]) -> Tensor:
        return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape)])

    @staticmethod
    def symbolic(g: Any, x: Any, shape: list[int]) -> Any:
        if -1 not in shape and 0 in shape:
            shape = [-1 if i == shape.index(0) else d for i, d in enumerate(shape)]
        return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(shape, dtype=torch.int64)))


def _reshape(x: Tensor, *shape: int) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return _ExportReshape.apply(x, list(shape))
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(shape)])


class LayerNorm2d(nn.Module):
    """LayerNorm over channels of [B,C,H,W]."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.n = nn.LayerNorm(c, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.n(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _mlp(i: int, h: int, o: int, n: int = 3) -> nn.Sequential:
    layers: list[nn.Module] = []
    for j in range(n):
        layers.append(nn.Linear(i if j == 0 else h, o if j == n - 1 else h))
        if j < n - 1:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """Multi-head attention with an inner width, as in SAM's decoder."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.h, self.inner = heads, inner
        self.q, self.k, self.v = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(dim, inner)
        self.o = nn.Linear(inner, dim)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """`bias` [B,1,1,Nk]: −10⁴ on padded keys."""
        h, d = self.h, self.inner // self.h
        q = _reshape(self.q(q), 0, -1, h, d).transpose(1, 2)
        k = _reshape(self.k(k), 0, -1, h, d)
        v = _reshape(self.v(v), 0, -1, h, d).transpose(1, 2)
        if q.is_cuda:
            mask = None if bias is None else bias.to(q.dtype)
            o = F.scaled_dot_product_attention(q, k.transpose(1, 2), v, attn_mask=mask)
        else:
            a = (q * d**-0.5) @ k.permute(0, 2, 3, 1)
            o = torch.softmax(a if bias is None else a + bias, -1) @ v
        return self.o(_reshape(o.transpose(1, 2), 0, -1, self.inner))


class TwoWayLayer(nn.Module):
    """SAM's two-way block: tokens look at tokens, tokens at the image, the image at the tokens."""

    def __init__(self, dim: int, heads: int, mlp: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.sa, self.ti, self.it = Attention(dim, heads, dim), Attention(dim, heads, dim // 2), Attention(dim, heads, dim // 2)
        self.f = nn.Sequential(nn.Linear(dim, mlp), nn.ReLU(), nn.Linear(mlp, dim))
        self.n1, self.n2, self.n3, self.n4 = (nn.LayerNorm(dim) for _ in range(4))

    def forward(self, q: Tensor, k: Tensor, q0: Tensor, pe: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        t = q if self.first else q + q0
        o = self.sa(t, t, q, bias)
        q = self.n1(o if self.first else q + o)
        q = self.n2(q + self.ti(q + q0, k + pe, k))
        q = self.n3(q + self.f(q))
        k = self.n4(k + self.it(k + pe, q + q0, q, bias))
        return q, k


class Decoder(nn.Module):
    """Prompts and an embedding in, four masks with predicted IoU out."""

    def __init__(self, size: int, c: int, mlp: int, heads: int, layers: int, refine: int) -> None:
        super().__init__()
        self.C, self.size, self.g = c, size, size // 16
        self.register_buffer("pe_mat", torch.randn(2, c // 2))
        self.label_emb = nn.Parameter(torch.randn(4, c) * 0.5)
        self.tok = nn.Parameter(torch.randn(1, 6, c) * 0.5)  # object score, IoU, 4 masks
        self.no_mask = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.cf0, self.cf1, self.cf2 = nn.Linear(c // 8, c), nn.Linear(c // 4, c), nn.Linear(c, c)
        self.m1, self.mn1 = nn.Conv2d(4, 16, 2, 2), LayerNorm2d(16)
        self.m2, self.mn2 = nn.Conv2d(16, 32, 2, 2), LayerNorm2d(32)
        self.m3 = nn.Conv2d(32, c, 1)
        self.hi = nn.Conv2d(4, c // 8, 3, padding=1)
        self.layers = nn.ModuleList([TwoWayLayer(c, heads, mlp, i == 0) for i in range(layers)])
        self.fa, self.fn = Attention(c, heads, c // 2), nn.LayerNorm(c)
        self.u1, self.un = nn.ConvTranspose2d(c, c // 4, 2, 2), LayerNorm2d(c // 4)
        self.u2 = nn.ConvTranspose2d(c // 4, c // 8, 2, 2)
        self.ref = nn.ModuleList([nn.Conv2d(c // 8, c // 8, 3, padding=1) for _ in range(2 * refine)])
        self.hyper = nn.ModuleList([_mlp(c, c, c // 8) for _ in range(4)])
        self.obj = _mlp(c, c, 1)
        # IoU head: SAM2's token plus what the mask covers (features under it, sharpness, area).
        self.iq, self.im, self.ik = nn.Linear(c, c), nn.Linear(c, c, bias=False), nn.Linear(c, c, bias=False)
        self.iu, self.ist, self.io = nn.Linear(c // 8, c, bias=False), nn.Linear(3, c, bias=False), _mlp(c, c, 1)
        self.compute_tables()
        # A click attends to its own place from the start: q and k begin equal and orthogonal.
        for a in [x.ti for x in self.layers] + [x.it for x in self.layers] + [self.fa]:
            w = nn.init.orthogonal_(torch.empty_like(a.q.weight), gain=1.5)
            a.q.weight.data.copy_(w)
            a.k.weight.data.copy_(w)

    def compute_tables(self) -> None:
        """Position encoding of the image grid and pixel centres of the three levels."""
        g = self.g

        def centres(n: int) -> Tensor:
            return (torch.arange(n) + 0.5) / n

        y, x = torch.meshgrid(centres(g), centres(g), indexing="ij")
        angle = (2 * torch.stack([x, y], -1) - 1) @ self.pe_mat * (2 * math.pi)
        self.register_buffer("pe", torch.cat([angle.sin(), angle.cos()], -1).reshape(1, g * g, self.C))
        for i, n in ((0, 4 * g), (1, 2 * g), (2, g)):
            self.register_buffer(f"a{i}", (centres(n) * self.size).reshape(1, 1, n))

    def _pool(self, feat: Tensor, c: int, n: int, axis: Tensor, x: Tensor, y: Tensor, sigma: float) -> Tensor:
        """Gaussian-weighted mean of `feat` [B,c,n,n] under each point: [B,N,c]."""
        gx = torch.softmax(-(((axis - x) / sigma) ** 2) * 0.5, -1)
        gy = torch.softmax(-(((axis - y) / sigma) ** 2) * 0.5, -1)
        w = _reshape(gy.unsqueeze(-1) * gx.unsqueeze(-2), 0, -1, n * n)
        return w @ _reshape(feat, 0, c, n * n).transpose(1, 2)

    @torch.compiler.disable  # inductor (CPU, bf16) of torch 2.15 writes C++ that does not compile for this part
    def quality(self, masks: Tensor, kk: Tensor, u: Tensor, q: Tensor) -> Tensor:
        """Predicted IoU of each mask, [B,4]."""
        c, g = self.C, self.g
        f = 4 * g
        logits = _reshape(masks.detach(), 0, 4, f * f)
        p = torch.sigmoid(logits)
        area = p.mean(-1, keepdim=True)
        unsure = (p * (1 - p)).mean(-1, keepdim=True)
        core = torch.sigmoid(logits - 2).mean(-1, keepdim=True)
        pk = _reshape(F.avg_pool2d(_reshape(p, 0, 4, f, f), 4), 0, 4, g * g)
        pk = (pk @ kk.detach()) / (pk.sum(-1, keepdim=True) + 0.05)
        pu = (p @ _reshape(u.detach(), 0, c // 8, f * f).transpose(1, 2)) / (p.sum(-1, keepdim=True) + 1)
        shape = torch.cat([torch.sqrt(area), unsure / (area + 1e-3), core / (area + 1e-3)], -1)
        t = self.iq(q[:, 1]).unsqueeze(1) + self.im(q[:, 2:6]) + self.ik(pk) + self.iu(pu) + self.ist(shape)
        return _reshape(self.io(F.relu(t)), 0, 4)

    def forward(
        self, image_embed: Tensor, h0: Tensor, h1: Tensor, pts: Tensor, lab: Tensor, mask_input: Tensor, has_mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        c, g, s = self.C, self.g, float(self.size)
        f = 4 * g
        p = pts + 0.5
        x, y = p[..., :1], p[..., 1:]
        label = lab.unsqueeze(-1)
        kind = [((label > i - 0.5) & (label < i + 0.5)).to(p.dtype) for i in range(4)]
        real = (label > -0.5).to(p.dtype)
        angle = (p * (2 / s) - 1) @ self.pe_mat * (2 * math.pi)
        pe = torch.cat([angle.sin(), angle.cos()], -1)

        def corner(v: Tensor, i: int) -> Tensor:
            return (v * kind[i]).sum(1, keepdim=True)

        has_box = kind[2].sum(1, keepdim=True)
        x0, y0, x1, y1 = corner(x, 2), corner(y, 2), corner(x, 3), corner(y, 3)
        b2 = kind[2]  # the first corner's token looks at the centre of the box
        xc, yc = x * (1 - b2) + (x0 + x1) * 0.5 * b2, y * (1 - b2) + (y0 + y1) * 0.5 * b2
        found = (
            self.cf0(self._pool(h0, c // 8, f, self.a0, xc, yc, s / 100))
            + self.cf1(self._pool(h1, c // 4, 2 * g, self.a1, xc, yc, s / 50))
            + self.cf2(self._pool(image_embed, c, g, self.a2, xc, yc, s / 25))
        )
        sparse = pe * real + (kind[0] + kind[1] + b2) * found
        for i in range(4):
            sparse = sparse + self.label_emb[i] * kind[i]
        zero = lab[:, :1].unsqueeze(-1) * 0
        q0 = torch.cat([self.tok + zero, sparse], 1)
        present = torch.cat([self.tok[..., :1] * 0 + 1 + zero, real], 1)
        bias = ((present - 1) * 1e4).transpose(1, 2).unsqueeze(1)

        prompt_maps = self._draw(x, y, kind, has_box, (x0, y0, x1, y1), mask_input, has_mask)
        hm = has_mask.reshape(-1, 1, 1, 1)
        dense = self.m3(F.relu(self.mn2(self.m2(F.relu(self.mn1(self.m1(prompt_maps))))))) + (1 - hm) * self.no_mask
        kk = _reshape(image_embed + dense, 0, c, g * g).transpose(1, 2)
        q = q0
        for layer in self.layers:
            q, kk = layer(q, kk, q0, self.pe, bias)
        q = self.fn(q + self.fa(q + q0, kk + self.pe, kk))
        img = _reshape(kk.transpose(1, 2), 0, c, g, g)
        u = F.gelu(self.un(self.u1(img) + h1))
        u = F.relu(self.u2(u) + h0 + self.hi(prompt_maps))
        for i in range(0, len(self.ref), 2):
            u = u + self.ref[i + 1](F.relu(self.ref[i](u)))
        hyper = torch.stack([m(q[:, 2 + i]) for i, m in enumerate(self.hyper)], 1)
        masks = _reshape(hyper @ _reshape(u, 0, c // 8, f * f), 0, 4, f, f) * 1.0
        predicted = self.quality(masks, kk, u, q)
        if not self.training:
            # The head is linear: version 1 answered −0.015 once in 225 prompts, which no IoU can be.
            predicted = predicted.clamp(0.0, 1.0)
        return masks, predicted, self.obj(q[:, 0])

    def _draw(
        self, x: Tensor, y: Tensor, kind: list[Tensor], has_box: Tensor, corners: tuple[Tensor, ...], mask_input: Tensor, has_mask: Tensor
    ) -> Tensor:
        """Positive clicks, negative clicks, box and previous mask as maps [B,4,S/4,S/4]."""
        f, s = 4 * self.g, float(self.size)
        x0, y0, x1, y1 = corners
        ex = torch.exp(-(((self.a0 - x) / (s / 50)) ** 2))
        ey = torch.exp(-(((self.a0 - y) / (s / 50)) ** 2)).transpose(1, 2)
        positive, negative = ey @ (ex * kind[1]), ey @ (ex * kind[0])
        k = 128 / s
        bx = torch.sigmoid((self.a0 - x0) * k) * torch.sigmoid((x1 - self.a0) * k)
        by = torch.sigmoid((self.a0 - y0) * k) * torch.sigmoid((y1 - self.a0) * k)
        box = by.transpose(1, 2) @ (bx * has_box)
        maps = [_reshape(m, 0, 1, f, f) for m in (positive, negative, box)]
        return torch.cat([*maps, torch.tanh(mask_input * 0.2) * has_mask.reshape(-1, 1, 1, 1)], 1)
