"""Trains `sam2-nano`.

    python train.py CACHE RUN --steps 7000 --start model.pt --compile     # two CPU cores
    python train.py CACHE RUN --steps 7000 --resume --compile             # goes on where it stopped
    python train.py CACHE RUN --steps 20000 --config gpu512 --device cuda --batch 32 --workers 14

RUN is a folder: `last.pt` (everything needed to resume; written every few minutes and at the end),
`phase1.pt` (weights when the side grows), `log.jsonl`. The averaged weights (`ema`) are usable at
any moment: a run that is cut off loses only the end of its schedule.

Invariants
1. The schedule is a function of the step alone, never of the clock.
2. Every checkpoint is written beside and renamed: a kill leaves the last one whole.
3. Mask 0 answers the first click for objects that one click can mean (`clear` in `dataset.py`);
   masks 1–3 share whatever else it may mean, and only the best of them is corrected.
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dataset import Mix, Sampler, Stream
from model import CONFIGS, PIXEL_MEAN, PIXEL_STD, Config, SamNano, load_checkpoint, resized_state
from prompts import correction
from sources import Cache

_SPARE_ROWS = 2  # prompt rows kept free for corrective clicks


@dataclass
class Plan:
    """The schedule. `grow_at` is the share of steps after which pictures have side `grow_to`."""

    steps: int
    lr: float = 8e-4
    warmup: int = 150
    floor: float = 0.02  # of `lr`, at the end
    batch: int = 8
    k: int = 8
    refine_from: float = 0.0  # share of steps before corrective clicks are trained
    grow_at: float = 0.7
    grow_to: int = 320
    ema: float = 0.997
    seed: int = 7
    abdomen: float = 0.0  # share of views at the kidneys' height, beside `Mix`'s own

    def rate(self, step: int) -> float:
        """Warm-up, then cosine to the floor."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return self.lr * min(1.0, (step + 1) / self.warmup) * (cosine * (1 - self.floor) + self.floor)


def mask_losses(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`logits` [n,4,f,f], `target` [n,f,f] soft → (loss [n,4], IoU [n,4] of the thresholded masks).

    Cross entropy weighted by the error (so that easy pixels count little), over the root of the area
    (so that small objects count), plus dice with squares.
    """
    t = target[:, None].expand_as(logits)
    p = logits.sigmoid()
    ce = F.binary_cross_entropy_with_logits(logits, t, reduction="none") * (p - t).abs()
    area = t.flatten(2).mean(-1).clamp(min=0.004)
    overlap = (p * t).flatten(2).sum(-1)
    dice = 1 - (2 * overlap + 1) / ((p * p).flatten(2).sum(-1) + (t * t).flatten(2).sum(-1) + 1)
    with torch.no_grad():
        a, g = logits > 0, t > 0.5
        iou = (a & g).flatten(2).sum(-1) / (a | g).flatten(2).sum(-1).clamp(min=1)
    return 1.5 * ce.flatten(2).mean(-1) / area.sqrt() + dice, iou


def losses(logits: Tensor, predicted: Tensor, score: Tensor, target: Tensor, first: Tensor, clear: Tensor) -> tuple[Tensor, Tensor]:
    """Mean loss and IoU [n,4]. `first`: one click or none, so that the object is ambiguous."""
    per_mask, iou = mask_losses(logits, target)
    several = per_mask[:, 1:].min(1).values + 0.05 * per_mask[:, 1:].mean(1)
    asked = torch.where(first, 0.7 * several + clear * per_mask[:, 0], per_mask[:, 0] + 0.35 * several)
    judged = F.mse_loss(predicted, iou, reduction="none").mean(1) * 2 + (predicted - iou).abs().mean(1) * 0.3
    # Mask 0's prediction is what a first click shows: once more, where the click was clear.
    shown = clear * first * (predicted[:, 0] - iou[:, 0]) ** 2 * 2
    present = F.softplus(-score[:, 0]) * 0.05  # every training prompt has an object
    return (asked + judged + shown + present).mean(), iou


class Trainer:
    """One run: network, average, optimiser, stream."""

    def __init__(self, args: argparse.Namespace, plan: Plan) -> None:
        self.args, self.plan, self.device = args, plan, torch.device(args.device)
        self.run: Path = args.run
        self.run.mkdir(parents=True, exist_ok=True)
        self.step = 0
        last = self.run / "last.pt"
        state = torch.load(last, map_location="cpu", weights_only=True) if args.resume and last.exists() else None
        if state:
            net = SamNano(Config.of(state["cfg"]))
            net.load_state_dict(state["net"])
            self.step = int(state["step"])
        elif args.start:
            net = load_checkpoint(args.start)
        else:
            net = SamNano(CONFIGS[args.config])
        self._adopt(net, state["ema"] if state else None)
        if state:
            self.optimiser.load_state_dict(state["optimiser"])
        self.sampler = Sampler(Cache.load(args.cache), net.config.size, plan.k)
        self.mean, self.std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) for v in (PIXEL_MEAN, PIXEL_STD))

    def _adopt(self, net: SamNano, ema: dict[str, Tensor] | None) -> None:
        """Takes a network into training: average, optimiser, compiled callables."""
        self.net = net.to(self.device).train()
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        if ema:
            self.average.load_state_dict(ema)
        plain, decayed = [], []
        for name, p in self.net.named_parameters():
            (plain if p.ndim < 2 or any(k in name for k in ("tok", "emb", "pos")) else decayed).append(p)
        groups = [dict(params=decayed, weight_decay=0.03), dict(params=plain, weight_decay=0.0)]
        self.optimiser = torch.optim.AdamW(groups, lr=self.plan.lr, betas=(0.9, 0.98), fused=True)

        def compiled(f: Callable) -> Callable:
            return torch.compile(f, dynamic=False) if self.args.compile else f

        self.encode, self.decode, self.loss = compiled(self.net.enc), compiled(self.net.dec), compiled(losses)
        floating = lambda m: [v for v in m.state_dict().values() if v.dtype.is_floating_point]  # noqa: E731
        self._pairs = floating(self.average), floating(self.net)

    def _grow(self) -> None:
        """The same weights, moments and average at the larger side."""
        old = self.net.config.size
        moments = self.optimiser.state_dict()
        average = resized_state(self.average.state_dict(), old, self.plan.grow_to)
        net = self.net.resize_to(self.plan.grow_to)
        positions = [i for i, p in enumerate(p for g in self.optimiser.param_groups for p in g["params"]) if p is self.net.enc.pos3]
        self._adopt(net, None)
        self.average.load_state_dict(average, strict=False)
        for i in positions:  # the position embedding has a new shape: its moments begin anew
            moments["state"].pop(i, None)
        self.optimiser.load_state_dict(moments)

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        plan, size = self.plan, self.net.config.size
        stream = Stream(self.sampler.resized(size), Mix(abdomen=plan.abdomen), plan.seed, self.step * plan.batch, plan.steps * plan.batch)
        return iter(torch.utils.data.DataLoader(stream, batch_size=plan.batch, num_workers=self.args.workers, prefetch_factor=6))

    def save(self, name: str = "last.pt") -> None:
        state = dict(net=self.net.state_dict(), ema=self.average.state_dict(), optimiser=self.optimiser.state_dict(),
                     cfg=asdict(self.net.config), step=self.step, plan=asdict(self.plan))  # fmt: skip
        part = self.run / (name + ".part")
        torch.save(state, part)
        os.replace(part, self.run / name)

    def train(self) -> None:
        """Runs the rest of the schedule."""
        plan, log, began, saved = self.plan, [], time.time(), time.time()
        grow_step = int(plan.steps * plan.grow_at) if plan.grow_to > self.net.config.size else None
        batches = self._batches()
        while self.step < plan.steps:
            if grow_step is not None and self.step >= grow_step and self.net.config.size < plan.grow_to:
                self.save("phase1.pt")
                self._grow()
                batches = self._batches()
            for group in self.optimiser.param_groups:
                group["lr"] = plan.rate(self.step)
            log.append(self._one(next(batches)))
            self.step += 1
            if self.step % 50 == 0:
                values = np.nanmean(np.array(log), 0)
                row = dict(step=self.step, s=round(time.time() - began, 1), lr=plan.rate(self.step), size=self.net.config.size,
                           **{k: round(float(v), 4) for k, v in zip(_LOGGED, values)})  # fmt: skip
                with (self.run / "log.jsonl").open("a") as f:
                    f.write(json.dumps(row) + "\n")
                print(row, flush=True)
                log = []
            if time.time() - saved > 150:
                self.save()
                saved = time.time()
        self.save()

    def _one(self, batch: tuple[Tensor, ...]) -> list[float]:
        plan, dev = self.plan, self.device
        picture, target, points, labels, clear = (t.to(dev) for t in batch)
        n, f = picture.shape[0] * plan.k, self.net.config.size // 4
        x = (picture.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std
        target = target.reshape(n, f, f).float() / 255
        points = F.pad(points.reshape(n, -1, 2), (0, 0, 0, _SPARE_ROWS))
        labels = F.pad(labels.reshape(n, -1), (0, _SPARE_ROWS), value=-1.0)
        clear, first = clear.reshape(n), (labels >= 0).sum(1) <= 1
        used = labels.shape[1] - _SPARE_ROWS
        rounds = 0 if self.step < plan.refine_from * plan.steps else (1, 0, 0, 1, 0, 2)[self.step % 6]
        rows = torch.arange(n, device=dev)
        with torch.autocast(dev.type, dtype=torch.bfloat16):
            features = [t.repeat_interleave(plan.k, 0) for t in self.encode(x)]
        total, first_iou, first_predicted, last_iou = torch.zeros((), device=dev), None, None, None
        mask, has = torch.zeros(n, 1, f, f, device=dev), torch.zeros(n, device=dev)
        for r in range(rounds + 1):
            with torch.autocast(dev.type, dtype=torch.bfloat16):
                logits, predicted, score = self.decode(features[2], features[0], features[1], points, labels, mask, has)
            logits, predicted = logits.float(), predicted.float()
            loss, iou = self.loss(logits, predicted, score.float(), target, first if r == 0 else torch.zeros_like(first), clear)
            total, last_iou = total + loss, iou
            if r == 0:
                first_iou, first_predicted = iou, predicted.detach()
            if r < rounds:
                # What is shown is corrected: mask 0, but sometimes the best of the others, as a person may pick it.
                pick = torch.where(torch.rand(n, device=dev) < 0.25, 1 + predicted.detach()[:, 1:].argmax(1), torch.zeros_like(rows))
                shown = logits.detach()[rows, pick]
                points, labels = points.clone(), labels.clone()
                points[:, used + r], labels[:, used + r] = correction(shown, target)
                mask = shown.clamp(-32, 32)[:, None]
                has = (torch.rand(n, device=dev) < 0.85).float() if r == 0 else torch.ones(n, device=dev)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), 2.0)
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(*self._pairs, 1 - min(plan.ema, (1 + self.step) / (10 + self.step)))
        one = first & (clear > 0.9)
        value = lambda v, m: v[m].mean().item() if bool(m.any()) else math.nan  # noqa: E731
        return [total.item() / (rounds + 1), value(first_iou[:, 0], one), value(first_iou[:, 1:].max(1).values, one),
                value(first_iou[:, 0], ~first), last_iou[:, 0].mean().item() if rounds else math.nan,
                (first_predicted - first_iou).abs().mean().item(), float(norm)]  # fmt: skip


_LOGGED = ("loss", "one_click_mask0", "one_click_best3", "more_prompts", "corrected", "iou_error", "grad")


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("cache", type=Path, help="written by sources.py")
    ap.add_argument("run", type=Path)
    ap.add_argument("--start", type=Path, help="continue from these weights, with a new schedule")
    ap.add_argument("--resume", action="store_true", help="go on with RUN/last.pt on its own schedule")
    ap.add_argument("--config", choices=sorted(CONFIGS), default="small")
    ap.add_argument("--device", default="cpu")
    ap.add_argument("--workers", type=int, default=1)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--compile", action="store_true", help="needs a C++ compiler; minutes to start, then several times faster")
    ap.add_argument("--steps", type=int, required=True)
    ap.add_argument("--lr", type=float)
    ap.add_argument("--batch", type=int)
    ap.add_argument("--grow-to", type=int)
    ap.add_argument("--grow-at", type=float)
    ap.add_argument("--abdomen", type=float, help="share of axial views at the kidneys' height; 0 in the schedule of 2.0.0")
    ap.add_argument("--warmup", type=int)
    ap.add_argument("--seed", type=int)
    a = ap.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(a.threads)
    given = {k: v for k in ("lr", "batch", "grow_to", "grow_at", "abdomen", "warmup", "seed") if (v := getattr(a, k)) is not None}
    Trainer(a, replace(Plan(a.steps), **given)).train()


if __name__ == "__main__":
    main()
