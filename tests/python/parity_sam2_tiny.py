"""A seeded SAM2.1-tiny (S = 1024, C = 256) and PyTorch's answers, for the daemon's parity test.

    python tests/python/parity_sam2_tiny.py OUT
    SAM2D_PARITY_DIR=OUT cargo test --release parity

Exports transformers' Sam2Model by engines/export into OUT/seeded-tiny/package and writes the parity
folder OUT/seeded-tiny (tests/fixtures/README.md) with the answers of Sam2Model.forward, after
onnxruntime agreed with them on the exported files. Random weights: it shows that the daemon's engine
computes SAM2.1's full-size graphs as PyTorch does, and nothing about how well SAM2 segments.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engines" / "export"))

from export_onnx import export  # noqa: E402
from network import OnnxNetwork  # noqa: E402
from package import Claims, write_manifest  # noqa: E402
from picture import Prompt  # noqa: E402
from pictures import shapes_picture  # noqa: E402
from reference import standard_prompts, write_reference  # noqa: E402
from sam2_model import SIZES, HfNetwork, seeded  # noqa: E402
from selection import SAM2  # noqa: E402

NAME = "seeded-tiny"
SEED = 3
"""Found by search: no mask empty or full, no pixel on the threshold."""
PICTURE = (64, 48)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args()
    started = time.monotonic()
    folder = args.out / NAME
    shutil.rmtree(folder, ignore_errors=True)
    model = seeded(SIZES["tiny"], args.seed)
    export(model, 4, folder / "package")
    pixels, prompts = shapes_picture(*PICTURE, colour=True), standard_prompts(*PICTURE)
    Image.fromarray(pixels).save(folder / "package" / "golden.png", optimize=True)
    claims = Claims(
        name=NAME,
        version="1.0.0",
        architecture="sam2",
        precision="fp32",
        selection=SAM2,
        intended_use="test",
        notice="Random weights, for tests. Not for diagnostic use.",
        licence="Apache-2.0",
        checkpoint=f"none: seed {args.seed}, see tests/python/parity_sam2_tiny.py",
    )
    network = HfNetwork(model, 4)
    write_manifest(folder / "package", claims, Prompt("golden", prompts[0].points), network=network)
    print(f"exported after {time.monotonic() - started:.0f} s")
    write_reference(folder, "package", network, SAM2, pixels, prompts, OnnxNetwork(folder / "package"))
    print(f"{folder} written after {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
