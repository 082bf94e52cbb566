"""Training samples, made on the fly: one picture, K masks, K prompts.

A sample is (picture u8 [S,S,3], targets u8 [K,S/4,S/4] (255 = inside, area-averaged), points f32
[K,3,2], labels f32 [K,3], clear f32 [K]). `clear` is how sure one click on this object can mean
just this object: 1 for named organs, bones and tumours, less for compartments and pseudo-objects.
It weighs mask 0's loss on one click, so that "the whole compartment" stays an alternative of
masks 1–3. (Version 1 gave both the same weight, and one click took the whole compartment.)

Invariants
1. A seed and a worker number give the same stream; the share of each source follows the step, not
   the clock, so that a resumed run sees what an unbroken one would.
2. An object is asked for only if it can be seen in the window chosen (a grey step at its border).

    python dataset.py CACHE PICTURE.png     # timings, and a picture to look at
"""
from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

import pseudo
import views
from phantom import Mask, Rng
from prompts import POINTS, prompt
from sources import Cache
from views import Candidate

cv2.setNumThreads(1)
Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]

# How often an object is asked for, by the beginning of its name (otherwise 1).
_WEIGHT = {
    "vertebrae": 2.5, "iliopsoas": 2.5, "autochthon": 2.2, "kidney": 1.8, "liver": 1.8, "spleen": 1.5, "urinary": 1.5,
    "sacrum": 1.2, "hip": 1.2, "gluteus": 1.2, "aorta": 1.3, "inferior": 1.2, "rib": 0.5, "lung": 0.7, "adrenal": 0.3,
    "vertebra": 3.0, "psoas": 3.0, "erector": 2.0, "disc": 0.4, "canal": 0.4, "spinous": 0.4, "bowel-gas": 0.3, "body": 0.2,
    "tumour": 2.0, "bone": 1.5,
}  # fmt: skip
# … in views through the kidneys, where they and their small neighbours are what is learnt.
_ABDOMEN_WEIGHT = _WEIGHT | {"kidney": 6.0, "adrenal": 0.8, "pancreas": 2.0, "gallbladder": 2.0, "spleen": 2.0, "duodenum": 1.5}
# Compartments and parts: one click seldom means them.
_UNCLEAR = {"body": 0.1, "muscle-wall": 0.2, "visceral-fat": 0.2, "mediastinum": 0.3, "wall-muscle": 0.4, "marrow": 0.2, "bowel-gas": 0.6, "spine": 0.1}
_PSEUDO_CLEAR, _PHOTO_CLEAR = 0.15, 0.5


def _by_prefix(table: dict[str, float], name: str, default: float = 1.0) -> float:
    return next((v for k, v in table.items() if name.startswith(k)), default)


@dataclass(frozen=True)
class Mix:
    """Shares of the sources (need not add up to 1) and of pseudo-objects among a labelled view's prompts."""

    volume: float = 0.24
    spine: float = 0.28
    slices: float = 0.20
    axial_phantom: float = 0.10
    sagittal_phantom: float = 0.12
    photograph: float = 0.06
    abdomen: float = 0.0
    pseudo: float = 0.18

    def at(self, progress: float) -> Mix:
        """Fewer drawings and pseudo-objects, more people, towards the end."""
        p = min(max(progress, 0.0), 1.0)
        return Mix(self.volume * (0.9 + 0.3 * p), self.spine, self.slices, self.axial_phantom * (1.3 - 0.6 * p),
                   self.sagittal_phantom * (1.3 - 0.6 * p), self.photograph * (1.2 - 0.6 * p), self.abdomen, self.pseudo * (1.3 - 0.6 * p))  # fmt: skip


@dataclass
class _View:
    picture: NDArray[np.uint8]
    hu: NDArray[np.float32] | None
    candidates: list[Candidate]
    pseudo: float
    pseudo_clear: float = _PSEUDO_CLEAR
    weights: dict[str, float] = field(default_factory=lambda: _WEIGHT)


class Sampler:
    """Draws samples of one side and one K from the cache."""

    def __init__(self, cache: Cache, size: int, k: int) -> None:
        self.cache, self.size, self.k = cache, size, k
        self.volume = views.Volume(cache)
        self.planes = {p: [x for x in cache.phantoms if x[0] == p] for p in ("axial", "sagittal")}

    def resized(self, size: int) -> Sampler:
        """The same sources at another side, without preparing them again."""
        other = object.__new__(Sampler)
        other.__dict__.update(self.__dict__, size=size)
        return other

    def sample(self, rng: Rng, mix: Mix) -> Sample | None:
        """One sample, or None where nothing in the view could be asked for."""
        shares = np.array([mix.volume, mix.spine, mix.slices, mix.axial_phantom, mix.sagittal_phantom, mix.photograph, mix.abdomen])
        source = rng.choice(7, p=shares / shares.sum())
        if source <= 1 or source == 6:
            view = self._volume(rng, ("anywhere", "spine")[source] if source <= 1 else "abdomen", mix.pseudo)
        elif source == 2:
            view = self._slice(rng, mix.pseudo)
        elif source <= 4:
            view = self._phantom(rng, "axial" if source == 3 else "sagittal", mix.pseudo * 0.5)
        else:
            view = self._photograph(rng)
        return self._ask(rng, view)

    def _render(self, rng: Rng, hu: NDArray[np.float32], sagittal: bool) -> NDArray[np.uint8]:
        if rng.uniform() < (0.45 if sagittal else 0.04):
            return views.l3_export(hu)
        return views.tone(rng, views.window(rng, hu))

    def _volume(self, rng: Rng, part: str, share: float) -> _View:
        hu, found, sagittal = self.volume.cut(rng, self.size, part)
        hu = views.noise(rng, hu)
        if sagittal and rng.uniform() < 0.5:
            hu = views.thick_slices(rng, hu)
        if rng.uniform() < 0.1:
            spinal = [c.number for c in found if c.name.startswith(("vertebrae", "sacrum"))]
            if spinal:
                m = cv2.morphologyEx(np.isin(found[0].ids, spinal).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
                found.append(Candidate("spine", m))
        weights = _ABDOMEN_WEIGHT if part == "abdomen" else _WEIGHT
        return _View(self._render(rng, hu, sagittal), hu, found, share * (1.0 if part == "anywhere" else 0.6), weights=weights)

    def _slice(self, rng: Rng, share: float) -> _View:
        s = self.cache.slices[rng.integers(len(self.cache.slices))]
        if s.modality == "ct":
            hu, ids = views.warp(rng, self.size, np.clip(s.image, -1050, 2500), s.ids, -1024, cubic=rng.uniform() < 0.3)
            hu = views.noise(rng, hu) + rng.normal() * 8
            found = [Candidate(n, ids, i) for i, n in s.names.items()]
            bones = [b for b in (pseudo.bone(rng, hu) for _ in range(2)) if b is not None]
            found += [Candidate("bone", b.astype(np.uint8)) for b in bones]
            return _View(self._render(rng, hu, False), hu, found, 0.4)
        lo, hi = np.percentile(s.image, [1, 99.5])
        grey, ids = views.warp(rng, self.size, np.clip((s.image - lo) / (hi - lo), 0, 1.2).astype(np.float32), s.ids, 0)
        return _View(views.tone(rng, grey), None, [Candidate(n, ids, i) for i, n in s.names.items()], 0.4)

    def _phantom(self, rng: Rng, plane: str, share: float) -> _View:
        _, h, objects, kinds = self.planes[plane][rng.integers(len(self.planes[plane]))]
        hu, ids = views.warp(rng, self.size, h.astype(np.float32), objects, -1000, upright=plane == "sagittal")
        hu = hu + (rng.normal(size=256) * 12).astype(np.float32)[ids]
        if rng.uniform() < 0.4:
            hu = views.noise(rng, hu)
        if plane == "sagittal" and rng.uniform() < 0.5:
            hu = views.thick_slices(rng, hu)
        count = np.bincount(ids.ravel(), minlength=256)
        found = [Candidate(k, ids, i) for i, k in kinds.items() if count[i] >= 60]
        return _View(self._render(rng, hu, plane == "sagittal"), hu, found, share)

    def _photograph(self, rng: Rng) -> _View:
        a, _ = views.warp(rng, self.size, self.cache.photographs[rng.integers(len(self.cache.photographs))], None, (0, 0, 0))
        if rng.uniform() < 0.3:
            a = np.repeat(a.mean(-1, keepdims=True).astype(np.uint8), 3, -1)
        shaken = (a.astype(np.float32) / 255) ** np.exp(rng.normal() * 0.3) * 255 + rng.normal(size=a.shape) * rng.uniform(0, 6)
        return _View(np.clip(shaken, 0, 255).astype(np.uint8), None, [], 1.0, _PHOTO_CLEAR)

    def _ask(self, rng: Rng, v: _View) -> Sample | None:
        n, k_all = self.size, self.k
        grey = v.picture if v.picture.ndim == 2 else cv2.cvtColor(v.picture, cv2.COLOR_RGB2GRAY)
        chooser = _Chooser(rng, v, grey)
        targets = np.zeros((k_all, n // 4, n // 4), np.uint8)
        points, labels = np.zeros((k_all, POINTS, 2), np.float32), np.full((k_all, POINTS), -1, np.float32)
        clear = np.zeros(k_all, np.float32)
        k = tries = 0
        while k < k_all and tries < 4 * k_all:
            tries += 1
            if v.hu is not None and rng.uniform() < 0.012:
                m = pseudo.body(v.hu)
                if m is not None and m.mean() > 0.03:  # no prompt at all means the body
                    targets[k] = quarter(m)
                    clear[k] = 1
                    k += 1
                continue
            m, sure = chooser.next()
            if m is None or m.sum() < 40 or m.mean() > 0.9:
                continue
            points[k], labels[k] = prompt(rng, m)
            targets[k], clear[k] = quarter(m), sure
            k += 1
        if k == 0:
            return None
        again = np.arange(k, k_all) % k
        for a in (targets, points, labels, clear):
            a[k:] = a[again]
        picture = v.picture if v.picture.ndim == 3 else np.repeat(v.picture[..., None], 3, -1)
        return np.ascontiguousarray(picture), targets, points, labels, clear


class _Chooser:
    """Picks objects of one view by weight; an object is cut out, cleaned and judged visible when first picked."""

    def __init__(self, rng: Rng, v: _View, grey: NDArray[np.uint8]) -> None:
        self.rng, self.v, self.grey = rng, v, grey
        self.weights = np.array([_by_prefix(v.weights, c.name) for c in v.candidates])
        self.ready: dict[int, Mask] = {}
        self.pool: list[Mask] = []

    def next(self) -> tuple[Mask | None, float]:
        if self.weights.sum() > 0 and self.rng.uniform() >= self.v.pseudo:
            m, name = self._named()
            if m is not None:
                return m, _by_prefix(_UNCLEAR, name)
        if self.pool and (len(self.pool) >= 4 or self.rng.uniform() < 0.3):
            return self.pool[self.rng.integers(len(self.pool))], self.v.pseudo_clear
        m = pseudo.region(self.rng, self.v.picture, self.v.hu, self.grey)
        if m is not None:
            self.pool.append(m)
        return m, self.v.pseudo_clear

    def _named(self) -> tuple[Mask | None, str]:
        while self.weights.sum() > 0:
            i = int(self.rng.choice(len(self.weights), p=self.weights / self.weights.sum()))
            name = self.v.candidates[i].name
            if i not in self.ready:
                m = self._cut_out(self.v.candidates[i])
                if m is None:
                    self.weights[i] = 0
                    continue
                self.ready[i] = m
            return self.ready[i], name
        return None, ""

    def _cut_out(self, c: Candidate) -> Mask | None:
        """One connected part of a named object, smoothed; None if too small or invisible."""
        m = c.mask().astype(np.uint8)
        n = m.shape[0]
        x, y, w, h = cv2.boundingRect(m)
        if w <= 4 or h <= 4:
            return None
        x0, y0, x1, y1 = max(0, x - 4), max(0, y - 4), x + w + 4, y + h + 4
        part = np.ascontiguousarray(m[y0:y1, x0:x1])
        if not c.name.startswith(("spine", "tumour")) or c.name.startswith("spinous"):
            count, labels, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
            areas = stats[1:, 4]
            large = np.nonzero(areas >= max(50, 0.06 * areas.sum()))[0] if count > 1 else []
            if len(large) == 0:
                return None
            chosen = int(large[self.rng.integers(len(large))]) if self.rng.uniform() < 0.5 else int(areas.argmax())
            part = (labels == 1 + chosen).astype(np.uint8)
        part = (cv2.GaussianBlur(part * 255, (0, 0), 1.0) > 127).astype(np.uint8)
        if part.sum() < 100 * (n / 256) ** 2:
            return None
        if self.v.hu is not None:
            near = self.grey[y0:y1, x0:x1]
            ring = ((cv2.dilate(part, np.ones((7, 7), np.uint8)) > 0) & (part == 0)).astype(np.uint8)
            (inner,), (spread,) = (v[0] for v in cv2.meanStdDev(near, mask=part))
            outer = cv2.meanStdDev(near, mask=ring)[0][0, 0]
            if not (spread > 1 or not ring.any() or abs(inner - outer) >= 4):
                return None
        full = np.zeros((n, n), bool)
        full[y0:y1, x0:x1] = part > 0
        return full


def quarter(m: Mask) -> NDArray[np.uint8]:
    """The mask on the S/4 grid, 0..255, averaged over each cell."""
    n = m.shape[0]
    return (cv2.resize(m.astype(np.float32), (n // 4, n // 4), interpolation=cv2.INTER_AREA) * 255).astype(np.uint8)


class Stream(torch.utils.data.IterableDataset):
    """Endless samples for one worker; `first` and `total` (in samples, all workers together) set the progress."""

    def __init__(self, sampler: Sampler, mix: Mix, seed: int, first: int, total: int) -> None:
        self.sampler, self.mix, self.seed, self.first, self.total = sampler, mix, seed, first, total

    def __iter__(self) -> Iterator[Sample]:
        info = torch.utils.data.get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        rng = np.random.default_rng([self.seed, worker, self.first])
        torch.set_num_threads(1)
        made = self.first
        while True:
            s = self.sampler.sample(rng, self.mix.at(made / self.total))
            if s is not None:
                made += workers
                yield s


def _picture(sampler: Sampler, out: Path) -> None:
    rng, rows = np.random.default_rng(1), []
    nothing = dict(volume=0.0, spine=0.0, slices=0.0, axial_phantom=0.0, sagittal_phantom=0.0, photograph=0.0, abdomen=0.0)
    for name, times in (("volume", 1), ("spine", 4), ("slices", 2), ("axial_phantom", 1), ("sagittal_phantom", 2), ("photograph", 1), ("abdomen", 2)):
        mix = Mix(**{**nothing, name: 1.0})
        start = time.time()
        drawn = [s for s in (sampler.sample(rng, mix) for _ in range(20)) if s is not None]
        print(f"{name}: {(time.time() - start) / 20 * 1e3:.1f} ms a sample, {20 - len(drawn)} empty")
        for picture, targets, points, labels, _ in drawn[:times]:
            row = []
            for t, ps, ls in zip(targets, points, labels):
                v = picture.copy()
                m = (cv2.resize(t, picture.shape[:2]) > 127).astype(np.uint8)
                cv2.drawContours(v, cv2.findContours(m, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], -1, (0, 255, 0), 1)
                for p, label in zip(ps, ls):
                    if label >= 0:
                        cv2.circle(v, (int(p[0]), int(p[1])), 4, ((255, 0, 0), (0, 0, 255), (255, 255, 0), (255, 255, 0))[int(label)], -1)
                row.append(v)
            rows.append(np.hstack(row))
    cv2.imwrite(str(out), np.vstack(rows)[..., ::-1])


if __name__ == "__main__":
    _picture(Sampler(Cache.load(Path(sys.argv[1])), 256, 8), Path(sys.argv[2]))
