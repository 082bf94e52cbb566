#!/usr/bin/env python3
"""The Python stage of ./test: everything that is held to PyTorch, pydicom, Pillow and highdicom.

Each step is a command of its own and can be run alone. SAM2D_SHARED names the data pack; steps that
want it say so by name in the file SAM2D_SKIPS names when it is away.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACK = Path(os.environ.get("SAM2D_SHARED", ROOT.parent / "shared")) / "data"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
CARGO_TEST = ["cargo", "test", "--release", "--locked", "--test", "it", "--"]


def skip(name: str, reason: str) -> None:
    """Says what was not run, where ./test collects it."""
    line = f"{name}: {reason}\n"
    sys.stdout.write(f"SKIPPED {line}")
    if "SAM2D_SKIPS" in os.environ:
        with open(os.environ["SAM2D_SKIPS"], "a") as skips:
            skips.write(line)


def run(name: str, *command: str | Path, **environment: str) -> bool:
    """One step; true when its exit status is 0."""
    start = time.monotonic()
    print(f"--- {name}", flush=True)
    done = subprocess.run([str(word) for word in command], cwd=ROOT, env=os.environ | environment)
    print(f"--- {name}: {'right' if done.returncode == 0 else 'WRONG'}, {time.monotonic() - start:.0f} s", flush=True)
    return done.returncode == 0


def main() -> int:
    here, python = Path(__file__).parent, sys.executable
    right = [run("scripts and fixtures", python, "-m", "pytest", "-q", here)]
    with tempfile.TemporaryDirectory(prefix="sam2d-parity-") as folder:
        right.append(
            run("seeded SAM2.1-tiny, references", python, here / "parity_sam2_tiny.py", folder)
            and run("seeded SAM2.1-tiny, the CPU engine", *CARGO_TEST, "parity", SAM2D_PARITY_DIR=folder)
        )
    right.append(run("decoding, tool", "cargo", "build", "--release", "--locked", "--example", "slices"))
    slices = TARGET / "release" / "examples" / "slices"
    compare = (python, here / "compare_decode.py", slices)
    right.append(run("decoding, the files of the pydicom wheel", *compare, "--counts", "Files inside the pydicom wheel"))
    soak = [PACK / "zoo"] if PACK.is_dir() else [ROOT / "tests" / "fixtures" / "decode"]
    count, seed = ("20000", "20261121") if os.environ.get("SAM2D_SOAK") else ("300", "1")
    right.append(run(f"{count} mutated files against pydicom", python, here / "mutate_zoo.py", slices, soak[0], count, seed))
    binary = os.environ.get("SAM2D_BIN", TARGET / "release" / "sam2d")
    command = (python, here / "soak_daemon.py", binary, "--count", count, "--seed", seed, *soak)
    right.append(run(f"{count} mutated files through the daemon", *command))
    right.append(run("10000 random forms", python, here / "flood_forms.py", binary))
    examples = "400" if os.environ.get("SAM2D_SOAK") else "40"
    right.append(run("requests made from /openapi.json", python, here / "check_contract.py", binary, "--examples", examples))
    right.append(run("masks, tool", "cargo", "build", "--release", "--locked", "--example", "masks"))
    masks = TARGET / "release" / "examples" / "masks"
    right.append(run("tensors, masks and outlines", python, here / "compare_masks.py", masks))
    right.append(run("DICOM Segmentations, the files of the pydicom wheel", python, here / "check_seg.py", masks))
    binary = os.environ.get("SAM2D_BIN", TARGET / "release" / "sam2d")
    right.append(run("DICOM Segmentations, over HTTP", python, here / "check_seg_http.py", binary))
    if PACK.is_dir():
        zoo = ("--counts", "The transfer-syntax zoo of the data pack", PACK / "zoo")
        right.append(run("decoding, the zoo of the pack", *compare, *zoo))
        folders = [PACK / name for name in ("ct-slices", "png-valid", "jpg-valid")]
        right.append(run("decoding, the pack", *compare, *folders))
        folders = [PACK / name for name in ("ct-slices", "mr-slices", "zoo")]
        right.append(run("DICOM Segmentations, the pack", python, here / "check_seg.py", masks, *folders))
    else:
        skip("pack", "no data pack at SAM2D_SHARED")
    print(f"{sum(right)} passed, {len(right) - sum(right)} failed")
    return 0 if all(right) else 1


if __name__ == "__main__":
    sys.exit(main())
