"""A real daemon on a port of its own, with folders of its own, for tests and measurements over HTTP."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


class Daemon:
    """Started and ready; `keys` are configuration keys as in SAM2D_SECTION__KEY, without the prefix."""

    def __init__(self, binary: str | Path, **keys: object) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="sam2d-daemon-")
        self.root = Path(self.folder.name)
        self.log = open(self.root / "log", "w+")
        words = ["--listen", "127.0.0.1:0", "--state-dir", self.root / "state", "--cache-dir", self.root / "cache"]
        environment = os.environ | {f"SAM2D_{key}": str(value) for key, value in keys.items()}
        self.process = subprocess.Popen(
            [binary, *words], stdout=subprocess.PIPE, stderr=self.log, text=True, cwd=self.root, env=environment
        )
        for line in self.process.stdout:
            if line.startswith("listening on http://"):
                host, port = line.split("//")[1].strip().rsplit(":", 1)
                self.address = (host, int(port))
                break
        else:
            sys.exit(f"the daemon did not start: {(self.root / 'log').read_text()}")
        until = time.monotonic() + 120
        while self.ask("GET", "/readyz")[0] != 200:
            if time.monotonic() > until:
                sys.exit("the daemon did not become ready")
            time.sleep(0.2)

    @property
    def url(self) -> str:
        return "http://{}:{}".format(*self.address)

    def ask(self, method, path, body=None, headers=None):
        """(status, body) over a connection of its own."""
        connection = http.client.HTTPConnection(*self.address, timeout=90)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def memory_kb(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1])

    def children(self) -> set[int]:
        """Process ids of all children, zombies included."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}

    def stop(self) -> int:
        """Its exit code."""
        self.process.terminate()
        code = self.process.wait(60)
        self.log.close()
        self.folder.cleanup()
        return code
