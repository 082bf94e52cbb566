"""engines/fetch.py against a server of our own: the right file, a wrong one, and one that breaks off."""

from __future__ import annotations

import hashlib
import http.server
import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engines"))
import fetch  # noqa: E402

CONTENT = bytes(range(256)) * 5000
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT with ranges; `break_after` ends the first transfer early."""

    break_after: int | None = None
    asked: list[str | None] = []

    def do_GET(self):
        span = self.headers.get("Range")
        type(self).asked.append(span)
        start = int(span.removeprefix("bytes=").removesuffix("-")) if span else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        end = len(CONTENT)
        if type(self).break_after is not None:
            end, type(self).break_after = type(self).break_after, None
        self.wfile.write(CONTENT[start:end])
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def base():
    Server.break_after, Server.asked = None, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/exports/"
    server.shutdown()


def test_the_right_file_is_taken_once(base, tmp_path):
    assert "fetched" in fetch.fetch(base, "encoder.onnx", SUM, tmp_path)
    assert (tmp_path / "encoder.onnx").read_bytes() == CONTENT
    assert "there already" in fetch.fetch(base, "encoder.onnx", SUM, tmp_path)
    assert Server.asked == [None]


def test_a_file_of_another_sum_is_deleted_and_named(base, tmp_path):
    with pytest.raises(fetch.Refused, match="another file, deleted"):
        fetch.fetch(base, "decoder.onnx", "0" * 64, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_transfer_that_breaks_off_goes_on_where_it_stopped(base, tmp_path):
    Server.break_after = 100_000
    with pytest.raises((fetch.Refused, OSError)):
        fetch.fetch(base, "encoder.onnx", SUM, tmp_path)
    assert not (tmp_path / "encoder.onnx").exists()
    fetch.fetch(base, "encoder.onnx", SUM, tmp_path)
    assert (tmp_path / "encoder.onnx").read_bytes() == CONTENT
    assert Server.asked == [None, "bytes=100000-"]


def test_the_pinned_names_and_sums_are_sums():
    assert set(fetch.FILES) == {"encoder.onnx", "decoder.onnx"}
    assert all(len(value) == 64 and int(value, 16) for value in fetch.FILES.values())
