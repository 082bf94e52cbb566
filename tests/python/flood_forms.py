"""Random multipart bodies over raw sockets: right ones, wrong ones, cut ones, and what is no form at all.

    flood_forms.py SAM2D_BINARY [--count N] [--seed N] [--clients N]

Half go over connections that are kept as long as the daemon keeps them, half over one each. Every request must be answered
(never by a 5xx), or, where its body was cut, at least end in an orderly close; a reset without an answer is wrong.
Every 100th is the sample image, which must be answered as at the beginning; at the end the daemon holds no more memory than
it did after the first tenth (and 32 MB), and stops with exit code 0. Exit status 1 otherwise.
"""

import argparse
import functools
import os
import random
import socket
import sys
from pathlib import Path

from daemon import Daemon
from storm import Storm

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 120
PICTURE = (ROOT / "samples" / "phantom-axial.png").read_bytes()
NAMES = ["file", "image", "image_data", "image_type", "patient_id", "slice_index", "frame", "window", "click_points", "box"]
NAMES += ["target", "mask_input", "prompt_from", "mask_format", "return_format", "", "__proto__", "file[]", "\xff", "a" * 300]
VALUES = [b"", b"auto", b"L3", b"0", b"-1", b"99999999999999999999", b"null", b"[]", b"{}", b'[{"x":160,"y":167,"label":1}]']
VALUES += [b'[{"x":1e999,"y":0,"label":1}]', b"[" * 5000, b"NaN", b"image:" + b"0" * 64, b"file:../../etc/passwd", b"file:a"]
VALUES += [b"http://127.0.0.1/", b"\0", b"\r\n", b"--", b"\xff\xfe", b'{"center":40,"width":400}', b"x" * 70_000]
FILES = [PICTURE, PICTURE[:1000], b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"DICM" * 40, bytes(132) + b"DICM" + bytes(300)]
ROUTES = ["/api/segmentation/sam2"] * 6 + ["/api/segmentation/sam2/embed", "/api/segmentation/preview", "/segment", "/livez", "/no"]
WHOLE = [("image_type", b"auto", None), ("click_points", b'[{"x":160,"y":167,"label":1}]', None), ("file", PICTURE, "x.png")]


def form(parts, boundary):
    """A right form of (name, value, file name or None)."""
    out = b""
    for name, value, file in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'
        head += f'; filename="{file}"\r\nContent-Type: application/octet-stream' * (file is not None)
        out += head.encode("latin-1") + b"\r\n\r\n" + value + b"\r\n"
    return out + f"--{boundary}--\r\n".encode("latin-1")


def spoiled(body, boundary, random_):
    """The same, wrong in one of many ways."""
    at = random_.randrange(len(body) + 1)
    edge = b"--" + boundary.encode("latin-1")
    return random_.choice(
        [
            lambda: body[:at],
            lambda: body[at:],
            lambda: body[:at] + random_.randbytes(random_.randrange(64)) + body[at:],
            lambda: body.replace(b"\r\n", b"\n"),
            lambda: body.replace(b"\r\n\r\n", b"\r\n", 1),
            lambda: body.replace(b"--\r\n", b"", 1),
            lambda: body.replace(edge, edge + b" \t", 1),
            lambda: body.replace(edge, edge[:-1], 1),
            lambda: body.replace(b"form-data", random_.choice([b"attachment", b"", b"form-data; form-data"]), 1),
            lambda: body.replace(b'name="', random_.choice([b"name=", b'name*=utf-8\'\'', b'name="\\"']), 1),
            lambda: body.replace(b"Content-Disposition", b"X: " + b"y" * random_.choice([10, 9000]) + b"\r\nContent-Disposition", 1),
            lambda: edge + b"\r\n" + b"A: b\r\n" * random_.choice([1, 40, 4000]) + b"\r\n" + body,
            lambda: edge * random_.choice([2, 3000]),
            lambda: body * random_.choice([2, 20]),
            lambda: body + body,
            lambda: random_.randbytes(random_.randrange(3000)),
            lambda: b"",
        ]
    )()


def made(number, seed, kept):
    """(bytes to send, is its end cut off): of the number alone (and whether the connection is kept), so that a finding is made again."""
    random_ = random.Random(seed * 1_000_003 + number)
    boundary = random_.choice(["b" * random_.randint(1, 70), f"----form{random_.random()}", "a'()+_,-./:=?"])
    parts = [WHOLE[i] for i in range(3) if random_.random() < 0.4]
    for _ in range(random_.choice([0, 1, 2, 3, 5, 8, 80])):
        named = random_.choice(NAMES)
        is_file = named in ("file", "image") or random_.random() < 0.1
        value = random_.choice(FILES if is_file else VALUES)
        parts.append((named, value, random_.choice(["x.png", "../../x", "", "\xe9"]) if is_file else None))
    random_.shuffle(parts)
    body = form(parts, boundary)
    if random_.random() < 0.7:
        body = spoiled(body, boundary, random_)
    kind = random_.choice([f'multipart/form-data; boundary="{boundary}"'] * 8 + ["multipart/form-data", "multipart/mixed; boundary=b"])
    head = f"POST {random_.choice(ROUTES)} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    head += "" if kept else "Connection: close\r\n"
    if cut := random_.random() < 0.1:
        return (head + f"Content-Length: {len(body) + random_.randint(1, 9999)}\r\n\r\n").encode("latin-1") + body, cut
    if random_.random() < 0.25:
        size = random_.choice([1, 7, 1000, 100_000]) if len(body) < 5000 else 20_000
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (body[i : i + size] for i in range(0, len(body), size)))
        return (head + "Transfer-Encoding: chunked\r\n\r\n").encode("latin-1") + chunks + b"0\r\n\r\n", cut
    return (head + f"Content-Length: {len(body)}\r\n\r\n").encode("latin-1") + body, cut


class Line:
    """A connection, and what was read of it beyond the last answer."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=PATIENCE_S + 10)
        self.read = b""

    def close(self):
        self.socket.close()

    def answer(self):
        """(status, body, is the connection kept); None where it closed in order without one."""
        while b"\r\n\r\n" not in self.read:
            more = self.socket.recv(65536)
            if not more:
                if self.read:
                    raise ValueError(f"half an answer: {self.read[:80]!r}")
                return None
            self.read += more
        head, self.read = self.read.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").lower().split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:])
        while len(self.read) < int(fields["content-length"]):
            more = self.socket.recv(65536)
            if not more:
                raise ValueError(f"half a body after {lines[0]}")
            self.read += more
        length = int(fields["content-length"])
        body, self.read = self.read[:length], self.read[length:]
        return int(lines[0].split()[1]), body, fields.get("connection") != "close"


def sent(line, data, cut):
    """Sends a request and reads its answer: (a word for it, what is wrong, may the next one come over this line)."""
    try:
        line.socket.sendall(data)
        if cut:
            line.socket.shutdown(socket.SHUT_WR)
    except (BrokenPipeError, ConnectionResetError):
        pass  # Refused before all was sent: the answer must be there all the same.
    try:
        answer = line.answer()
    except (OSError, ValueError) as error:
        return type(error).__name__, repr(error), False
    if answer is None:
        return "closed", None if cut else "closed without an answer", False
    status, body, stays = answer
    return str(status), f"{status} {body}" if status >= 500 else None, stays and not cut


def flood(storm, seed, kept):
    """What one thread does."""
    line = None
    for number in storm.numbers():
        data, cut = made(number, seed, kept)
        try:
            line = line or Line(storm.daemon.address)
            word, trouble, stays = sent(line, data, cut)
        except OSError as error:
            word, trouble, stays = type(error).__name__, repr(error), False
        if line and not (stays and kept):
            line.close()
            line = None
        storm.note(number, word, trouble, ", kept" * kept)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--clients", type=int, default=4)
    options = parser.parse_args()
    # With glibc's eight arenas a core, its own waste grows for minutes and would hide a leak.
    os.environ["MALLOC_ARENA_MAX"] = "2"
    # Where the machine is busy with other things, waiting is right and "overloaded" would be, too.
    daemon = Daemon(options.binary, HTTP__REQUEST_TIMEOUT_S=PATIENCE_S)
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Accept": "image/png"}
    storm = Storm(daemon, options.count, lambda: daemon.ask("POST", ROUTES[0], form(WHOLE, "b"), headers), every=100)
    storm.run([functools.partial(flood, storm, options.seed, i % 2 == 0) for i in range(options.clients)])
    return storm.end(32, "random forms")


if __name__ == "__main__":
    sys.exit(main())
