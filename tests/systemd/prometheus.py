"""What a real Prometheus makes of a page of metrics, of the alerts and of the board.

`promtool check metrics` reads Prometheus's older text form only, where a counter's name in HELP and TYPE
ends with `_total`; so it is given the page rewritten that one way. The server itself is given the page as
it is.
"""

import http.server
import json
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request


class Wrong(AssertionError):
    """Prometheus does not take it; the text says what."""


def checked(page):
    """promtool's word on a page of OpenMetrics; empty when it has none to say."""
    counters = set(re.findall(r"^# TYPE (\S+) counter$", page, re.M))
    lines = []
    for line in page.splitlines():
        found = re.match(r"# (HELP|TYPE) (\S+) (.*)", line)
        if found and found.group(2) in counters:
            line = f"# {found.group(1)} {found.group(2)}_total {found.group(3)}"
        if not line.startswith(("# UNIT", "# EOF")):
            lines.append(line)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    return (done.stdout + done.stderr).strip()


def expressions(alerts, board):
    """All that the alerts and the board ask."""
    found = re.findall(r"^\s+expr: (.+)$", pathlib.Path(alerts).read_text(), re.M)
    board = json.loads(pathlib.Path(board).read_text())
    found += [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return [expression.replace("$instance", ".*") for expression in found]


class Server:
    """A Prometheus that scrapes one page, every second."""

    def __init__(self, page, media_type, alerts):
        self.work = tempfile.TemporaryDirectory(prefix="sam2d-prometheus.")
        folder = pathlib.Path(self.work.name)

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = page.encode()
                self.send_response(200)
                self.send_header("Content-Type", media_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
        threading.Thread(target=self.pages.serve_forever, daemon=True).start()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        target = f"127.0.0.1:{self.pages.server_port}"
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            f"rule_files: [{pathlib.Path(alerts).resolve()}]\n"
            f"scrape_configs: [{{job_name: sam2d, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=error"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if self.ask("min(scrape_samples_scraped)") and len(self.ask("count_over_time(up[1m]) >= 3")):
                    return self
            except (OSError, Wrong):
                pass
            time.sleep(0.3)
        raise Wrong("Prometheus did not scrape the page")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.pages.shutdown()
        self.work.cleanup()

    def ask(self, expression):
        """The series that an expression gives."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/query?{query}", timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise Wrong(f"{expression}: {error.read().decode()}") from error

    def health(self):
        """`up`, or why a page could not be read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/targets", timeout=10) as answer:
            target = json.load(answer)["data"]["activeTargets"][0]
        return target["health"], target["lastError"]
