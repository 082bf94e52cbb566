#!/usr/bin/env python3
"""A pack of real images through `sam2d`: command line, form and JSON, and what hostile files do.

    python benches/pack/run.py --bin target/release/sam2d --data DIR [--out report.json]

DIR holds manifest.csv: a row per image (and per object with a truth mask, a point within it and a
box round it). Checked, and a reason to exit with 1: any 5xx; masks that differ between the command
line, the form and JSON; a mask of the wrong size; a daemon that does not answer afterwards.
Reported: mean IoU per origin of the truth, answers by status and code for odd and hostile files, the
daemon's memory before and after. Not a test of diagnostic quality.
"""

import argparse
import base64
import collections
import csv
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import uuid

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "python"))
from daemon import Daemon  # noqa: E402

SLICES = {
    "ct-slice", "ct-slice-jpeg", "ct-slice-png", "ct-slice-multipart", "ct-notruth", "mr-slice",
    "mr-slice-png16", "natural", "natural-notruth", "png-valid", "jpg-valid",
}
ODD = {"zoo", "zoo-undecodable", "zoo-nopixel", "hostile", "dicom-seg", "rtstruct"}


def form(image: bytes, fields: dict) -> tuple[bytes, dict]:
    """multipart/form-data as the existing editors send it."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="slice"\r\nContent-Type: application/octet-stream\r\n\r\n'
    body = b"".join(parts) + head.encode() + image + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def as_json(image: bytes, fields: dict) -> tuple[bytes, dict]:
    body = {"image_data": base64.b64encode(image).decode(), "image_type": "auto"} | fields
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


SEGMENT = "/api/segmentation/sam2"


def by_form(daemon, image, prompt, frame):
    fields = {name: json.dumps(value) for name, value in prompt.items()}
    if frame is not None:
        fields["frame"] = str(frame)
    return daemon.ask("POST", SEGMENT, *form(image, fields))


def by_json(daemon, image, prompt, frame):
    fields = prompt | ({} if frame is None else {"frame": frame})
    return daemon.ask("POST", SEGMENT, *as_json(image, fields))


def by_command(binary, path, prompt, frame):
    with tempfile.TemporaryDirectory() as folder:
        words = [binary, "segment", str(path), "--out", folder, "--json"]
        for click in prompt.get("click_points", []):
            words += ["--point", f"{click['x']},{click['y']},{click['label']}"]
        if "box" in prompt:
            box = prompt["box"]
            words += ["--box", f"{box['x']},{box['y']},{box['width']},{box['height']}"]
        if frame is not None:
            words += ["--frame", str(frame)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            return None, done.stderr.strip().splitlines()[0] if done.stderr else "no words"
        return pathlib.Path(json.loads(done.stdout)["mask"]).read_bytes(), ""


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    union = (mask | truth).sum()
    return float((mask & truth).sum() / union) if union else 1.0


def prompts(row, width, height):
    """The manifest's point and box; where there is none, a click in the middle."""
    if row["point_x"]:
        yield "point", {"click_points": [{"x": float(row["point_x"]), "y": float(row["point_y"]), "label": 1}]}
    else:
        yield "middle", {"click_points": [{"x": width // 2, "y": height // 2, "label": 1}]}
    if row["box_x0"]:
        x0, y0, x1, y1 = (float(row[key]) for key in ("box_x0", "box_y0", "box_x1", "box_y1"))
        yield "box", {"box": {"x": x0, "y": y0, "width": x1 - x0 + 1, "height": y1 - y0 + 1}}


def slices(daemon, binary, data, rows, wrong):
    """Every readable slice, three ways. Returns IoUs by origin and prompt, and counts."""
    scores, counts, timings = collections.defaultdict(list), collections.Counter(), []
    seen = set()
    for row in (row for row in rows if row["kind"] in SLICES):
        path = data / row["file"]
        image = path.read_bytes()
        frame = 0 if int(row["frames"] or 1) > 1 else None
        width, height = int(row["cols"] or 2), int(row["rows"] or 2)
        for name, prompt in prompts(row, width, height):
            status, body = by_form(daemon, image, prompt, frame)
            answer = json.loads(body)
            counts[f"{row['kind']} {status} {answer.get('code', '')}".strip()] += 1
            if status >= 500:
                wrong.append(f"{row['file']}: {status} {answer.get('code')}")
            if status != 200:
                continue
            timings.append(answer["timings_ms"] | {"total": answer["processing_time_ms"]})
            png = base64.b64decode(answer["mask_data"])
            mask = np.asarray(Image.open(io.BytesIO(png)))
            if mask.shape != (answer["image"]["height"], answer["image"]["width"]):
                wrong.append(f"{row['file']}: mask {mask.shape}")
            # The three ways are compared once an image: they differ in nothing an object could change.
            if (row["file"], name) not in seen:
                seen.add((row["file"], name))
                status, body = by_json(daemon, image, prompt, frame)
                same = status == 200 and base64.b64decode(json.loads(body)["mask_data"]) == png
                if not same:
                    wrong.append(f"{row['file']} {name}: JSON differs from the form ({status})")
                written, words = by_command(binary, path, prompt, frame)
                if written != png:
                    wrong.append(f"{row['file']} {name}: the command line differs: {words}")
                counts["three ways compared"] += 1
            if row["truth_mask"] and name != "middle":
                truth = np.asarray(Image.open(data / row["truth_mask"]).convert("L")) > 0
                if truth.shape == mask.shape:
                    scores[row["truth_origin"], name].append(iou(mask > 0, truth))
    return scores, counts, timings


def odd(daemon, data, rows, wrong):
    """Odd and hostile files: any answer but a 5xx, and an unharmed daemon."""
    counts = collections.Counter()
    for row in (row for row in rows if row["kind"] in ODD):
        image = (data / row["file"]).read_bytes()
        prompt = {"click_points": [{"x": 1, "y": 1, "label": 1}]}
        status, body = by_form(daemon, image, prompt, None)
        answer = json.loads(body)
        if answer.get("code") == "frame_required":
            status, body = by_form(daemon, image, prompt, 0)
            answer = json.loads(body)
        counts[f"{row['kind']} {status} {answer.get('code', '')}".strip()] += 1
        if status >= 500:
            wrong.append(f"{row['file']}: {status} {answer.get('code')} {answer.get('detail')}")
        if status == 200:
            mask = Image.open(io.BytesIO(base64.b64decode(answer["mask_data"])))
            if mask.size != (answer["image"]["width"], answer["image"]["height"]):
                wrong.append(f"{row['file']}: mask {mask.size}")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", required=True, type=lambda p: str(pathlib.Path(p).resolve()))
    parser.add_argument("--data", required=True, type=lambda p: pathlib.Path(p).resolve())
    parser.add_argument("--out", type=pathlib.Path, help="write the report as JSON")
    args = parser.parse_args()
    rows = list(csv.DictReader((args.data / "manifest.csv").open()))
    wrong: list[str] = []
    daemon = Daemon(args.bin)
    start = time.monotonic()
    try:
        scores, counts, timings = slices(daemon, args.bin, args.data, rows, wrong)
        before = daemon.memory_kb()
        hostile = odd(daemon, args.data, rows, wrong)
        after = daemon.memory_kb()
        status, _ = daemon.ask("GET", "/readyz")
        if status != 200:
            wrong.append(f"after the hostile files /readyz is {status}")
    finally:
        code = daemon.stop()
    if code != 0:
        wrong.append(f"the daemon ended with {code}")

    print("\nmean IoU (Demonstration model. Not for diagnostic use.)")
    for (origin, name), values in sorted(scores.items()):
        print(f"  {np.mean(values):.3f}  n={len(values):3d}  {name:5s}  {origin}")
    print("\nslices by status")
    for key, count in sorted(counts.items()):
        print(f"  {count:4d}  {key}")
    print("\nodd and hostile files by status and code")
    for key, count in sorted(hostile.items()):
        print(f"  {count:4d}  {key}")
    print(f"\ndaemon memory before and after the odd files: {before} kB, {after} kB")
    medians = {
        stage: round(float(np.median([t[stage] for t in timings if t.get(stage) is not None] or [np.nan])), 2)
        for stage in ("decode", "queue", "encode", "prompt", "render", "total")
    }
    print(f"median ms per stage: {medians}")
    print(f"{len(wrong)} faults, {time.monotonic() - start:.0f} s")
    for line in wrong:
        print("  FAULT", line)
    if args.out:
        report = {
            "mean_iou": {f"{o} | {n}": [float(np.mean(v)), len(v)] for (o, n), v in scores.items()},
            "slices": counts, "odd": hostile, "memory_kb": [before, after], "median_ms": medians, "faults": wrong,
        }
        args.out.write_text(json.dumps(report, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
