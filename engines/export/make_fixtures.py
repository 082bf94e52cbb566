"""Makes tests/fixtures/engines, tests/fixtures/parity and tests/fixtures/preprocess anew.

    python engines/export/make_fixtures.py                              # seeded packages, preprocess
    python engines/export/make_fixtures.py --nano-weights FILE.pt

With the versions of tests/python/requirements.txt pictures, packages and prompts come out byte for
byte; logits agree to rounding, which differs between processors. sam2-nano's references need its
PyTorch weights (engines/train/weights); without them that folder is left as it is.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from PIL import Image

from export_onnx import export
from nano import NanoNetwork
from network import OnnxNetwork
from package import Claims, write_manifest
from picture import Prompt
from pictures import noise_picture, shapes_picture
from reference import standard_prompts, write_preprocess, write_reference
from sam2_model import SIZES, HfNetwork, seeded
from selection import MASK0_FIRST, SAM2

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 704
"""Found by search: with it no mask is empty or full, no pixel sits on the threshold, and SAM2's rule keeps mask 0 for some
prompts and falls back to masks 1..3 for others."""
PICTURE = (104, 70)
NANO_PICTURE = (298, 200)


def make_seeded(fixtures: Path) -> None:
    """Three packages of one seeded network, with 1, 3 and 4 masks, and their references."""
    model = seeded(SIZES["test"], SEED)
    pixels = shapes_picture(*PICTURE, colour=True)
    prompts = standard_prompts(*PICTURE)
    for masks in (1, 3, 4):
        name = f"seeded-m{masks}"
        folder = fixtures / "engines" / name
        shutil.rmtree(folder, ignore_errors=True)
        export(model, masks, folder)
        Image.fromarray(pixels).save(folder / "golden.png", optimize=True)
        claims = Claims(
            name=name,
            version="1.0.0",
            architecture="sam2",
            precision="fp32",
            selection=SAM2,
            intended_use="test",
            notice="Random weights, for tests. Not for diagnostic use.",
            licence="Apache-2.0",
            checkpoint=f"none: seed {SEED}, see engines/export/make_fixtures.py",
        )
        network = HfNetwork(model, masks)
        write_manifest(folder, claims, Prompt("golden", prompts[0].points), network=network)
        write_reference(
            fixtures / "parity" / name, f"../../engines/{name}", network, SAM2, pixels, prompts, OnnxNetwork(folder)
        )


def make_nano(fixtures: Path, weights: Path) -> None:
    """References of the embedded package."""
    write_reference(
        fixtures / "parity" / "sam2-nano",
        "../../../../engines/sam2-nano",
        NanoNetwork(weights),
        MASK0_FIRST,
        shapes_picture(*NANO_PICTURE),
        standard_prompts(*NANO_PICTURE),
        OnnxNetwork(REPOSITORY / "engines" / "sam2-nano"),
    )


def make_preprocess(fixtures: Path) -> None:
    """Both axes shrunk, one shrunk and one stretched, both stretched, extreme ratio, unchanged."""
    write_preprocess(
        fixtures / "preprocess",
        [
            ("shrunk_grey", noise_picture(97, 61), 32),
            ("shrunk_and_stretched_colour", noise_picture(40, 90, colour=True), 48),
            ("stretched_grey", noise_picture(20, 14), 48),
            ("sliver_colour", noise_picture(7, 300, colour=True), 32),
            ("unchanged_grey", noise_picture(32, 32), 32),
        ],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fixtures", type=Path, default=REPOSITORY / "tests" / "fixtures")
    parser.add_argument("--nano-weights", type=Path, help="the weights that engines/sam2-nano was exported from")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order
    make_preprocess(args.fixtures)
    make_seeded(args.fixtures)
    if args.nano_weights is not None:
        make_nano(args.fixtures, args.nano_weights)


if __name__ == "__main__":
    main()
