"""Holds tensors, masks, clean-up and outlines (cargo example `masks`) against PyTorch's, SciPy's and skimage's.

    compare_masks.py MASKS_BINARY [--cases N] [--seed N]

- tensors: torchvision's Resize (antialiased) and Normalize on the same levels, grey and colour;
- masks: torch's bilinear interpolation (align_corners=False) of random logits, > 0; where the logit is
  within 1e-4 of 0, either side is right;
- clean-up: the contract's rules written down once more over scipy.ndimage.label;
- outlines: areas and number of rings by scipy; skimage's point-in-polygon of every pixel's centre: exact
  rings give the mask with its holes filled, simplified polygons differ only at its border.

Sizes from 1×1 to some 300, odd ones and slivers. Exit status 1 if anything differs; the last lines count
and give the largest difference seen.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from skimage.measure import points_in_poly
from torchvision.transforms.v2 import Normalize, Resize

EIGHT, FOUR = np.ones((3, 3), int), ndimage.generate_binary_structure(2, 1)
TENSOR_TOLERANCE = 1e-5
NORMALIZE = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def size_of(dice):
    kind = dice.integers(4)
    if kind == 0:
        return int(dice.integers(1, 4)), int(dice.integers(1, 300))
    if kind == 1:
        return int(dice.integers(1, 300)), int(dice.integers(1, 4))
    return int(dice.integers(1, 300)), int(dice.integers(1, 300))


def check_tensor(binary, folder, dice):
    width, height = size_of(dice)
    side = int(dice.choice([1, 16, 33, 128, 256]))
    colour = bool(dice.integers(2))
    levels = dice.integers(0, 256, (height, width, 3) if colour else (height, width), dtype=np.uint8)
    picture, output = folder / "picture.png", folder / "tensor.f32"
    Image.fromarray(levels).save(picture)
    subprocess.run([binary, "tensor", picture, str(side), output], check=True)
    ours = np.fromfile(output, "<f4").reshape(3, side, side)
    rgb = levels if colour else np.repeat(levels[..., None], 3, axis=2)
    tensor = torch.from_numpy(rgb.copy()).permute(2, 0, 1).to(torch.float32) / 255
    theirs = NORMALIZE(Resize((side, side), antialias=True)(tensor)).numpy()
    worst = float(np.abs(ours - theirs).max())
    wrong = [f"tensor of {width}×{height} → {side} differs by {worst:.2e}"] if worst > TENSOR_TOLERANCE else []
    return worst, wrong


def random_logits(dice):
    """Blobs and specks; now and then nothing, or everything."""
    side = int(dice.choice([1, 2, 7, 32, 64]))
    smooth = float(dice.choice([0.5, 1, 2, 5]))
    field = ndimage.gaussian_filter(dice.normal(0, 1, (side, side)), smooth)
    field = field / (np.abs(field).max() + 1e-9) * 8 + dice.choice([-20, -1, 0, 1, 20], p=[0.03, 0.3, 0.34, 0.3, 0.03])
    return field.astype(np.float32)


def piece_at(labels, click):
    y, x = int(click[1]), int(click[0])
    return labels[min(y, labels.shape[0] - 1), min(x, labels.shape[1] - 1)]


def cleaned_auto(mask, clicks):
    """CONTRACT: drop components below max(16 px, 1 %), fill holes below the same; clicks protect."""
    labels, count = ndimage.label(mask, EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    small = max(16, 0.01 * mask.sum())
    protected = {piece_at(labels, click) for click in clicks if click[2] == 1}
    out = mask.copy()
    for piece in range(1, count + 1):
        if areas[piece] < small and piece not in protected:
            out[labels == piece] = False
    labels, count = ndimage.label(~out, FOUR)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    border = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    small = max(16, 0.01 * out.sum())
    protected = {piece_at(labels, click) for click in clicks if click[2] == 0}
    for piece in range(1, count + 1):
        if piece not in border and areas[piece] < small and piece not in protected:
            out[labels == piece] = True
    return out


def cleaned_l3(mask, clicks):
    """CONTRACT: exactly one component, under the first positive click, else the largest."""
    labels, count = ndimage.label(mask, EIGHT)
    if count == 0:
        return mask
    positive = [click for click in clicks if click[2] == 1]
    kept = piece_at(labels, positive[0]) if positive else 0
    if kept == 0:
        kept = 1 + int(np.argmax(np.bincount(labels.ravel(), minlength=count + 1)[1:]))
    return labels == kept


def inside(polygons, shape):
    """Pixels whose centre lies in a polygon."""
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]]
    centres = np.stack([x.ravel() + 0.5, y.ravel() + 0.5], axis=1)
    out = np.zeros(shape, bool)
    for polygon in polygons:
        out |= points_in_poly(centres, np.asarray(polygon, float)).reshape(shape)
    return out


def shoelace(corners):
    x, y = np.asarray(corners, float).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(np.roll(x, -1), y))


def check_mask(binary, folder, dice):
    width, height = size_of(dice)
    logits = random_logits(dice)
    side = logits.shape[0]
    clicks = [(dice.uniform(0, width), dice.uniform(0, height), int(label)) for label in dice.integers(0, 2, dice.integers(0, 4))]
    if clicks and not any(click[2] for click in clicks):
        clicks = [(x, y, 1) for x, y, _ in clicks]
    # One pixel can't be in and out.
    clicks = [c for i, c in enumerate(clicks) if all((int(c[0]), int(c[1])) != (int(o[0]), int(o[1])) for o in clicks[:i])]
    if clicks and not any(click[2] for click in clicks):
        clicks = []
    path, output = folder / "logits.f32", folder / "mask"
    path.write_bytes(logits.tobytes())
    words = [binary, "mask", path, side, width, height, output, *(f"{x!r},{y!r},{label}" for x, y, label in clicks)]
    result = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=True)
    said = json.loads(result.stdout)
    read = lambda kind: np.asarray(Image.open(f"{output}.{kind}.png")) > 0
    raw, auto, l3 = read("raw"), read("auto"), read("l3")
    what = f"{side}×{side} → {width}×{height} with {len(clicks)} clicks"
    wrong = []
    up = torch.nn.functional.interpolate(torch.from_numpy(logits)[None, None], size=(height, width), mode="bilinear", align_corners=False)
    up = up[0, 0].numpy()
    if ((up > 0) != raw)[np.abs(up) > 1e-4].any():
        wrong.append(f"{what}: another mask than torch's")
    if not np.array_equal(auto, cleaned_auto(raw, clicks)):
        wrong.append(f"{what}: clean-up differs")
    if not np.array_equal(l3, cleaned_l3(raw, clicks)):
        wrong.append(f"{what}: the one component differs")
    filled = auto | ~np.isin(ndimage.label(~np.pad(auto, 1), FOUR)[0][1:-1, 1:-1], [1]) if auto.any() else auto
    if said["holes_px"] != int((filled & ~auto).sum()):
        wrong.append(f"{what}: {said['holes_px']} px of holes, not {int((filled & ~auto).sum())}")
    labels, count = ndimage.label(auto, EIGHT)
    if len(said["rings"]) != count or said["areas"] != sorted(said["areas"], reverse=True):
        wrong.append(f"{what}: {len(said['rings'])} rings for {count} components")
    if [round(shoelace(ring)) for ring in said["rings"]] != said["areas"]:
        wrong.append(f"{what}: areas are not their rings'")
    if width * height <= 20_000:
        if not np.array_equal(inside(said["rings"], auto.shape), filled):
            wrong.append(f"{what}: exact rings give another mask")
        simple = inside(said["polygons"], auto.shape)
        padded = np.pad(auto, 1)
        border = (ndimage.binary_dilation(padded, EIGHT) & ~ndimage.binary_erosion(padded, EIGHT))[1:-1, 1:-1]
        if ((simple != filled) & ~border).any():
            wrong.append(f"{what}: simplified polygons are off by more than a pixel")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--cases", type=int, default=150)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = np.random.default_rng(options.seed)
    largest, wrong = 0.0, []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for _ in range(options.cases):
            worst, tensor_wrong = check_tensor(options.binary, folder, dice)
            largest = max(largest, worst)
            wrong += tensor_wrong + check_mask(options.binary, folder, dice)
    print(*wrong, sep="\n")
    print(f"tensors: {options.cases}, largest difference from torchvision {largest:.2e} (allowed {TENSOR_TOLERANCE:.0e})")
    print(f"masks with clean-up and outlines: {options.cases}; {len(wrong)} findings")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
