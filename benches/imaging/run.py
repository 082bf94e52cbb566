"""Speed of the imaging room beside what Python services are made of, on the same inputs, in one run.

    run.py [--bench BINARY] [--sam2d BINARY] [--runs N] [--json FILE]

Bytes → encoder tensor: pydicom, OpenCV and torchvision do what sam2d does (decode, rescale, window
−100..200 HU, grey to RGB, antialiased Resize, Normalize). Logits → answer: OpenCV and Pillow (bilinear
resize, threshold, components, PNG, contours, approximation, bounding box). Everything on one thread.
Inputs are made here from samples/phantom-axial.dcm, with a scanner's noise: a 512×512 16-bit CT,
uncompressed and JPEG 2000, and a 2048×2048 PNG; S = 1024 (SAM2.1) and 256 (sam2-nano).

The best of all runs of each side (what the work costs), and in brackets the medians (what it took, with
whatever else the machine was doing); both sides run alternately, so that a busy machine slows both.
Python: tests/python/requirements.txt. Rust: `cargo bench --no-run --bench imaging`.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

import cv2
import numpy as np
import pydicom
import torch
from PIL import Image
from pydicom.uid import JPEG2000Lossless
from torchvision.transforms.v2 import Normalize, Resize

ROOT = Path(__file__).resolve().parents[2]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
GOALS = {"tensor": 5.0, "answer": 3.0}


def inputs(folder):
    """name → path of the three images."""
    noise = np.random.default_rng(7)
    dataset = pydicom.dcmread(ROOT / "samples" / "phantom-axial.dcm")
    stored = cv2.resize(dataset.pixel_array.astype(np.float32), (512, 512), interpolation=cv2.INTER_LINEAR)
    stored = (stored + noise.normal(0, 12, stored.shape)).clip(0, 4095).astype(dataset.pixel_array.dtype)
    dataset.Rows = dataset.Columns = 512
    dataset.PixelData = stored.tobytes()
    plain = folder / "ct512.dcm"
    dataset.save_as(plain)
    dataset.compress(JPEG2000Lossless)
    packed = folder / "ct512-j2k.dcm"
    dataset.save_as(packed)
    levels = ((stored.astype(np.float32) - stored.min()) / np.ptp(stored) * 255).astype(np.uint8)
    large = cv2.resize(levels, (2048, 2048), interpolation=cv2.INTER_CUBIC)
    large = (large + noise.normal(0, 3, large.shape)).clip(0, 255).astype(np.uint8)
    png = folder / "grey2048.png"
    cv2.imwrite(str(png), large)
    return {
        "CT 512×512, 16 bit, uncompressed": plain,
        "CT 512×512, 16 bit, JPEG 2000 lossless": packed,
        "PNG 2048×2048, 8 bit grey": png,
    }


def windowed(values):
    low, high = -100.0, 200.0
    return np.clip((values - low) * (255.0 / (high - low)), 0, 255).astype(np.uint8)


def python_tensor(path, side):
    """What a Python service does for one image; returns the function to time."""
    data = path.read_bytes()
    resize, normalize = Resize((side, side), antialias=True), Normalize(MEAN, STD)

    def run():
        if path.suffix == ".dcm":
            dataset = pydicom.dcmread(io.BytesIO(data))
            values = dataset.pixel_array.astype(np.float32)
            grey = windowed(values * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept))
            rgb = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
        else:
            rgb = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        tensor = torch.from_numpy(rgb).permute(2, 0, 1).to(torch.float32).div(255)
        return normalize(resize(tensor)).unsqueeze(0).contiguous()

    return run


def python_answer(logits, size):
    width, height = size

    def run():
        up = cv2.resize(logits, (width, height), interpolation=cv2.INTER_LINEAR)
        mask = (up > 0).astype(np.uint8)
        area = int(mask.sum())
        small = max(16, 0.01 * area)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        keep = stats[:, cv2.CC_STAT_AREA] >= small
        keep[0] = False
        mask = keep[labels].astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
        x, y, w, h = (stats[:, i] for i in range(4))
        inner = (x > 0) & (y > 0) & (x + w < width) & (y + h < height)
        fill = inner & (stats[:, cv2.CC_STAT_AREA] < small)
        fill[0] = False
        mask = np.where(fill[labels], 1, mask).astype(np.uint8) * 255
        file = io.BytesIO()
        Image.fromarray(mask).save(file, "PNG")
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        polygons = [cv2.approxPolyDP(contour, 0.95, True) for contour in contours]
        return file.getvalue(), polygons, cv2.boundingRect(mask)

    return run


def blob_logits(side):
    """An organ with a ragged edge, a neighbour, and specks."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    rough = cv2.GaussianBlur(np.random.default_rng(3).normal(0, 1, (side, side)).astype(np.float32), (0, 0), 3)
    organ = 1 - ((x - 0.45) / 0.22) ** 2 - ((y - 0.5) / 0.3) ** 2
    other = 1 - ((x - 0.8) / 0.07) ** 2 - ((y - 0.3) / 0.1) ** 2
    return (8 * np.maximum(organ, other) + 4 * rough).astype(np.float32)


def timed(run):
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e6


def rust(binary, *words):
    result = subprocess.run([binary, *map(str, words)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def compared(python, binary, *words, rounds, runs):
    """(best, median) of both sides in ms, taken alternately, and our stages' best in µs."""
    python()
    ours, theirs = [], []
    for _ in range(rounds):
        theirs += [timed(python) for _ in range(runs)]
        ours += rust(binary, *words)
    stages = {name: min(round_[name] for round_ in ours) for name in ours[0] if name.endswith("_us")}
    own = stages.pop("best_us") / 1e3, statistics.median(round_["median_us"] for round_ in ours) / 1e3
    stages.pop("median_us")
    return own, (min(theirs) / 1e3, statistics.median(theirs) / 1e3), stages


def bench_binary():
    command = ["cargo", "bench", "--no-run", "--bench", "imaging", "--message-format=json"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.splitlines()
    found = [json.loads(line).get("executable") for line in lines if '"name":"imaging"' in line]
    return next(path for path in found if path)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bench")
    parser.add_argument("--sam2d", default=str(ROOT / "target/release/sam2d"))
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json")
    options = parser.parse_args()
    binary = options.bench or bench_binary()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rows = []

    def row(goal, what, ours, theirs, stages):
        faster = theirs[0] / ours[0]
        rows.append({"what": what, "sam2d_ms": ours, "python_ms": theirs, "faster": faster, "goal": GOALS[goal], "stages_us": stages})
        own, other = (f"{best:.2f} ({median:.2f})" for best, median in (ours, theirs))
        print(f"| {what} | {own} | {other} | {faster:.1f} | {GOALS[goal]:.0f} |", flush=True)

    print("| input | sam2d, ms | Python, ms | times faster | goal |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for what, path in inputs(folder).items():
            for side in (1024, 256):
                run = python_tensor(path, side)
                for how, words in (("in process", "inline"), ("through the child", options.sam2d)):
                    args = ("tensor", side, options.runs, words, path)
                    numbers = compared(run, binary, *args, rounds=options.rounds, runs=options.runs)
                    row("tensor", f"{what} → S = {side}, {how}", *numbers)
        for side, size in ((256, (512, 512)), (64, (512, 512)), (256, (2048, 2048))):
            logits = blob_logits(side)
            path = folder / "logits.f32"
            path.write_bytes(logits.tobytes())
            args = ("answer", options.runs, path, side, *size)
            numbers = compared(python_answer(logits, size), binary, *args, rounds=options.rounds, runs=options.runs)
            row("answer", f"logits {side}×{side} → answer {size[0]}×{size[1]}", *numbers)
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))
    missed = [r["what"] for r in rows if r["faster"] < r["goal"]]
    print(f"\n{len(rows) - len(missed)} of {len(rows)} reach their goal" + "".join(f"\nmissed: {m}" for m in missed))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
