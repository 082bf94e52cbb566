#!/usr/bin/env python3
"""What resting in half precision does to masks: the same prompts on embeddings as the encoder made
them (memory, f32) and as they come back from disk (f16), over a pack of real images.

    python benches/cache/half.py --bin target/release/sam2d --data DIR [--engine PACKAGE] [--limit N]

DIR holds manifest.csv (file, kind, object's point and box). A daemon answers every prompt of every
image, is stopped, loses its answers (`v1/answer`), and is started again: what it answers then is
decoded from disk. A round in which its encoder runs again counts nothing and is said. Printed:
masks, those that differ at all, and the differing share of the image's pixels: mean, 99th
percentile, largest; for masks that hold anything, IoU of the two.
"""

import argparse
import csv
import http.client
import io
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import uuid

import numpy as np
from PIL import Image

KINDS = {"ct-slice", "ct-slice-jpeg", "ct-slice-png", "ct-notruth", "mr-slice", "mr-slice-png16", "natural"}


class Daemon:
    def __init__(self, args, root: pathlib.Path) -> None:
        words = [args.bin, "--listen", "127.0.0.1:0", "--state-dir", root / "state", "--cache-dir", root / "cache"]
        if args.engine:
            words += ["--engine", args.engine]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for line in self.process.stdout:
            if line.startswith("listening on http://"):
                self.address = line.split("//")[1].strip()
                break
        else:
            raise SystemExit("the daemon did not start")
        deadline = time.monotonic() + 120
        while self.ask("GET", "/readyz")[0] != 200:
            if time.monotonic() > deadline:
                raise SystemExit("the daemon did not become ready")
            time.sleep(0.1)

    def ask(self, method, path, body=None, headers={}):
        connection = http.client.HTTPConnection(self.address, timeout=120)
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def metric(self, name: str) -> float:
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if line.startswith(name + " "):
                return float(line.rsplit(" ", 1)[1])
        raise SystemExit(f"no {name}")

    def mask(self, file: pathlib.Path, fields: dict):
        mark = uuid.uuid4().hex
        part = f'--{mark}\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
        body = (part % ("file", '; filename="x"')).encode() + file.read_bytes() + b"\r\n"
        for name, value in fields.items():
            body += (part % (name, "")).encode() + value.encode() + b"\r\n"
        body += f"--{mark}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={mark}", "Accept": "image/png"}
        for _ in range(20):
            status, answer = self.ask("POST", "/api/segmentation/sam2", body, headers)
            if status != 503:
                break
            time.sleep(1)
        return np.array(Image.open(io.BytesIO(answer))) > 0 if status == 200 else None

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def prompts(row: dict):
    """A click on the object and a box round it."""
    x, y = int(row["point_x"]), int(row["point_y"])
    yield {"click_points": json.dumps([{"x": x, "y": y, "label": 1}])}
    x0, y0, x1, y1 = (int(row[f"box_{side}"]) for side in ("x0", "y0", "x1", "y1"))
    yield {"box": json.dumps({"x": x0, "y": y0, "width": x1 - x0 + 1, "height": y1 - y0 + 1})}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--data", required=True, type=pathlib.Path)
    parser.add_argument("--engine")
    parser.add_argument("--limit", type=int, default=10_000, help="objects")
    args = parser.parse_args()
    with open(args.data / "manifest.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in KINDS and row["point_x"]]
    rows = rows[:: max(1, len(rows) // args.limit)][: args.limit]
    asked = [(args.data / row["file"], fields) for row in rows for fields in prompts(row)]
    with tempfile.TemporaryDirectory(prefix="sam2d-half-") as folder:
        root = pathlib.Path(folder)
        daemon = Daemon(args, root)
        before = [daemon.mask(*prompt) for prompt in asked]
        images = daemon.metric('sam2d_engine_calls_total{kind="encode"}')
        deadline = time.monotonic() + 60
        while daemon.metric('sam2d_cache_puts_total{kind="embedding"}') < images and time.monotonic() < deadline:
            time.sleep(0.2)
        daemon.stop()
        held = [path.stat().st_size for path in (root / "cache/v1/embedding").rglob("*") if path.is_file()]
        shutil.rmtree(root / "cache/v1/answer")
        daemon = Daemon(args, root)
        after = [daemon.mask(*prompt) for prompt in asked]
        encodes = daemon.metric('sam2d_engine_calls_total{kind="encode"}')
        daemon.stop()
    if encodes:
        raise SystemExit(f"the encoder ran {encodes:.0f} times in the second round: nothing is measured")
    pairs = [(a, b) for a, b in zip(before, after) if a is not None and b is not None]
    differing = np.array([np.mean(a != b) for a, b in pairs]) * 100
    ious = np.array([np.sum(a & b) / np.sum(a | b) for a, b in pairs if a.any() or b.any()])
    print(f"{images:.0f} images, {len(pairs)} masks of {len(asked)} prompts, {len(held)} embeddings of {np.mean(held):.0f} bytes")
    print(f"differ at all: {np.count_nonzero(differing)}; differing pixels: mean {differing.mean():.4f} %, "
          f"99th percentile {np.percentile(differing, 99):.4f} %, largest {differing.max():.4f} %")
    print(f"IoU of the two: mean {ious.mean():.5f}, 1st percentile {np.percentile(ious, 1):.5f}, least {ious.min():.5f}")


if __name__ == "__main__":
    main()
