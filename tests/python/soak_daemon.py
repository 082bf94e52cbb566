"""Mutated and hostile files through a running daemon: `sam2d serve`, real sockets, both request forms.

    soak_daemon.py SAM2D_BINARY [--count N] [--seed N] [--clients N] [FOLDER…]

Every answer must be a 200 whose mask has the size that the answer names, or a refusal that is the file's
fault: 400, 408, 413, 415, with a code and a reason. Nothing may be a 5xx or take longer than the
deadline; every 50th request is the sample image, which must be answered as at the beginning; at the end
the daemon holds no more memory than it did after the first tenth (and 64 MB), has the children it
started with and no other, and stops with exit code 0. Exit status 1 otherwise.

Without folders: the files of tests/fixtures/decode and of the pydicom wheel.
"""

import argparse
import base64
import functools
import json
import random
import struct
import sys
import time
import uuid
from pathlib import Path

import pydicom
from daemon import Daemon
from mutate_zoo import mutated
from storm import Storm

ROOT = Path(__file__).resolve().parents[2]
ROUTE = "/api/segmentation/sam2"
REFUSALS = {400, 408, 413, 415}
#: http.request_timeout_s, and a moment.
DEADLINE_S = 31
SAMPLE = ROOT / "samples" / "phantom-axial.dcm"


#: Small caches are full after a few images: what grows after that is a leak.
SMALL = {
    "SEGMENT__EMBEDDINGS_BYTES": 8 << 20,
    "SEGMENT__RECENT_ANSWERS_BYTES": 4 << 20,
    "CACHE__OPEN_BYTES": 4 << 20,
    "CACHE__QUEUE_BYTES": 8 << 20,
    "CACHE__EMBEDDINGS_BYTES": 64 << 20,
    "CACHE__ANSWERS_BYTES": 64 << 20,
}


def request(data, frame, as_json):
    """(body, headers): one click in the upper left corner, which every image has."""
    clicks = [{"x": 0, "y": 0, "label": 1}]
    if as_json:
        body = {"image_data": base64.b64encode(data).decode(), "image_type": "auto", "click_points": clicks}
        return json.dumps(body | ({} if frame is None else {"frame": frame})), {"Content-Type": "application/json"}
    boundary = uuid.uuid4().hex
    fields = {"click_points": json.dumps(clicks)} | ({} if frame is None else {"frame": str(frame)})
    head = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    )
    head += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="slice"\r\n\r\n'
    body = head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def fault(status, body):
    """What is wrong with an answer to a damaged file; None when nothing is."""
    try:
        answer = json.loads(body)
    except ValueError:
        return f"{status}, not JSON: {body[:80]!r}"
    if status == 200:
        png = base64.b64decode(answer["mask_data"])
        size = struct.unpack(">II", png[16:24])
        named = (answer["image"]["width"], answer["image"]["height"])
        return None if size == named else f"a mask of {size} for an image of {named}"
    if status not in REFUSALS:
        return f"{status} {answer}"
    return None if answer.get("code") and answer.get("detail") else f"{status} without a reason: {answer}"


def sample(daemon):
    """What a valid request is answered, but for what is of the request alone."""
    status, body = daemon.ask("POST", ROUTE, *request(SAMPLE.read_bytes(), None, True))
    answer = json.loads(body)
    return status, answer.get("mask_data"), answer.get("bounding_box")


def soak(storm, files, seed, times):
    """What one thread does; `times` takes how long each request took."""
    for number in storm.numbers():
        # Of its own, so that a finding is made again from its number alone.
        random_ = random.Random(seed * 1_000_003 + number)
        source = random_.choice(files)
        data = mutated(source.read_bytes(), random_)
        frame = random_.choice((None, 0, 0, 1))
        start = time.monotonic()
        try:
            status, body = storm.daemon.ask("POST", ROUTE, *request(data, frame, number % 2 == 0))
            word, trouble = status, fault(status, body)
            if status != 200 and not trouble:
                word = f"{status} {json.loads(body)['code']}"
        except Exception as error:
            word, trouble = type(error).__name__, repr(error)
        times.append(time.monotonic() - start)
        if times[-1] > DEADLINE_S:
            trouble = f"{times[-1]:.0f} s"
        storm.note(number, word, trouble, f", {source.name}")


def left_behind(daemon, before):
    """Children of the daemon beyond those it keeps ready; new ones may be on their way."""
    until = time.monotonic() + 20
    while len(now := daemon.children()) > len(before) and time.monotonic() < until:
        time.sleep(0.2)
    return max(0, len(now) - len(before))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("folders", nargs="*")
    options = parser.parse_intermixed_args()
    folders = options.folders or [ROOT / "tests/fixtures/decode", Path(pydicom.__file__).parent / "data/test_files"]
    found = sorted(p for folder in folders for p in Path(folder).rglob("*") if p.is_file())
    files = [p for p in found if p.stat().st_size < 2 << 20 and p.suffix not in (".json", ".raw")]
    daemon = Daemon(options.binary, **SMALL)
    storm = Storm(daemon, options.count, lambda: sample(daemon), every=50)
    time.sleep(2)
    children = daemon.children()
    times = [[] for _ in range(options.clients)]
    storm.run([functools.partial(soak, storm, files, options.seed, own) for own in times])
    if left := left_behind(daemon, children):
        storm.wrong.append(f"{left} children left behind")
    return storm.end(64, "requests", f"; slowest {max(map(max, filter(None, times))):.1f} s; children left {left}")


if __name__ == "__main__":
    sys.exit(main())
