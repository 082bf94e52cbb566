#!/usr/bin/env python3
"""Brings published SAM2.1-tiny ONNX exports from a mirror, and takes only what has the pinned sums.

    engines/fetch.py --from https://mirror.example/sam2.1-tiny FOLDER

A transfer that broke off goes on where it stopped; a file with another sum is deleted and named. The sums are
second-hand: they guard the transfer and say which export is meant, not who made it. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import urllib.error
import urllib.request
from pathlib import Path

# SAM2.1 tiny, S = 1024, encoder and decoder with samexporter's names.
FILES = {
    "encoder.onnx": "4cc015ee18520e93f8c7ddfeaca7436039daaaaf19721b4b96a8810a805e82f7",
    "decoder.onnx": "f5a4bd656c143899fb7f52d64ed81e6f6aeb37d477a0b6da50146ac7cf2187bf",
}
CHUNK = 1 << 20
TIMEOUT_S = 60


class Refused(Exception):
    """What was fetched is not what was meant."""


def sum_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def transfer(url: str, part: Path) -> None:
    """Appends to `part` what is still missing of it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return
        raise
    with answer:
        resumed = answer.status == 206
        expected = answer.headers.get("Content-Length")
        got = 0
        with part.open("ab" if resumed else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                got += len(chunk)
    if expected is not None and got < int(expected):
        raise Refused(f"{url}: broke off after {got} of {expected} bytes; run again to go on")


def fetch(base: str, name: str, expected: str, folder: Path) -> str:
    """One file, complete and of the right sum, or `Refused`."""
    target = folder / name
    if target.exists() and sum_of(target) == expected:
        return f"{name}: there already"
    part = folder / f".{name}.part"
    transfer(f"{base.rstrip('/')}/{name}", part)
    found = sum_of(part)
    if found != expected:
        part.unlink()
        raise Refused(f"{name}: sha256 is {found}, expected {expected}: another file, deleted")
    part.rename(target)
    return f"{name}: fetched, sum right"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", dest="base", required=True, metavar="URL", help="folder of a mirror")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, expected in FILES.items():
        try:
            print(fetch(arguments.base, name, expected, arguments.folder))
        except (Refused, OSError) as error:
            print(f"fetch: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
