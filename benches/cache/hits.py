#!/usr/bin/env python3
"""Hits over HTTP beside nginx, which serves the same bytes as a static file with its access log on.

    python benches/cache/hits.py --bin target/release/sam2d [--runs 5] [--seconds 5]

Needs nginx and wrk (Debian: nginx-light, wrk) and two cores: the server asked is held to the first,
wrk to the second, 16 connections kept alive. Each case of each run is a pair, nginx first, so that
what else the machine does meets both. Printed, medians with least and most of the runs: requests per
second, median latency, processor time of the server for each request (all of its threads, by
/proc/PID/task/*/schedstat, which another process on the core does not count into), and nginx's over
that: what a core of one does over what a core of the other does. That last one is the figure to look
at where the machine is shared.

Bodies: a reference (`image:` and a click, 150 bytes), the same without the audit trail, and the image
itself as base64 of 20, 100 and 500 kB. Every answer of a case is the same; nginx serves that of the
reference.
"""

import argparse
import base64
import http.client
import json
import os
import pathlib
import re
import socket
import statistics
import struct
import subprocess
import tempfile
import time
import zlib

ROUTE = "/api/segmentation/sam2"


def png(noise_bytes: int, width=512, height=512) -> bytes:
    """A grey disc; noise in a private chunk makes it as long as wanted, as a camera's would be."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    inside = lambda x, y: (x - 256) ** 2 + (y - 256) ** 2 < 128**2
    rows = b"".join(b"\0" + bytes(200 if inside(x, y) else 40 for x in range(width)) for y in range(height))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + parts + chunk(b"noIs", os.urandom(noise_bytes)) + chunk(b"IEND", b"")


def pinned(core: int):
    return lambda: os.sched_setaffinity(0, {core})


def ask(address: str, body: dict) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("POST", ROUTE, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != 200:
        raise SystemExit(f"{answer.status}: {text[:300]}")
    return text


def processor_ns(pid: int) -> int:
    return sum(int(task.read_text().split()[0]) for task in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"))


def wrk(url: str, seconds: int, script: pathlib.Path | None, pid: int) -> tuple[float, float, float]:
    """Requests per second, median latency in ms, processor time of the server for a request in µs."""
    before = processor_ns(pid)
    words = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency"] + (["-s", str(script)] if script else []) + [url]
    text = subprocess.run(words, capture_output=True, text=True, check=True, preexec_fn=pinned(1)).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(text)
    latency, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", text).groups()
    spent = (processor_ns(pid) - before) / 1e3 / int(re.search(r"(\d+) requests in", text)[1])
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return rate, float(latency) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit], spent


def start(args, root: pathlib.Path, name: str, **environment: str) -> tuple[subprocess.Popen, str]:
    """A daemon on the first core, once it is ready, and its address."""
    own = root / name
    own.mkdir()
    words = [args.bin, "--listen", "127.0.0.1:0", "--state-dir", own / "state", "--cache-dir", own / "cache"]
    daemon = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=open(own / "log", "w"), text=True,
                              env={**os.environ, **environment}, preexec_fn=pinned(0))
    address = next(line.split("//")[1].strip() for line in daemon.stdout if line.startswith("listening on"))
    deadline = time.monotonic() + 120
    while True:
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", "/readyz")
        if connection.getresponse().status == 200:
            return daemon, address
        if time.monotonic() > deadline:
            raise SystemExit("the daemon did not become ready")
        time.sleep(0.1)


def spread(values: list[float], form: str) -> str:
    least, middle, most = (form % f(values) for f in (min, statistics.median, max))
    return f"{middle} ({least}–{most})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sam2d-http-") as folder:
        root, processes = pathlib.Path(folder), []
        try:
            daemon, address = start(args, root, "whole")
            processes.append(daemon)
            plain, plain_address = start(args, root, "no-trail", SAM2D_AUDIT__ENABLED="false")
            processes.append(plain)
            click = {"image_type": "auto", "click_points": [{"x": 256, "y": 256, "label": 1}]}
            bodies = {}
            for name, length in [("20 kB", 20_000), ("100 kB", 100_000), ("500 kB", 500_000)]:
                image = base64.b64encode(png(length * 3 // 4 - 2_500)).decode()
                bodies[name] = {"image_data": image, **click}
                first = json.loads(ask(address, bodies[name]))
            ask(plain_address, bodies["500 kB"])
            bodies = {"reference": {"image_data": f"image:{first['image']['id']}", **click}, **bodies}
            for name, body in bodies.items():
                if not json.loads(ask(address, body))["cached"]:
                    raise SystemExit(f"{name} is no hit")
                (root / f"{name}.body").write_text(json.dumps(body))
                (root / f"{name}.lua").write_text(
                    f'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
                    f'local file = io.open("{root}/{name}.body", "rb")\nwrk.body = file:read("*a")\nfile:close()\n'
                )
            answer = ask(address, bodies["reference"])
            if not json.loads(ask(plain_address, bodies["reference"]))["cached"]:
                raise SystemExit("the reference is no hit without the audit trail")
            (root / "www").mkdir()
            (root / "www/answer.json").write_bytes(answer)
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            (root / "nginx.conf").write_text(f"""
                daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log; user root;
                events {{ worker_connections 256; }}
                http {{ access_log {root}/access.log; sendfile on; keepalive_requests 1000000000;
                        client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
                        uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; types {{ application/json json; }}
                        server {{ listen 127.0.0.1:{port}; root {root}/www; }} }}""")
            nginx = subprocess.Popen(["nginx", "-c", root / "nginx.conf", "-p", root], preexec_fn=pinned(0))
            processes.append(nginx)
            time.sleep(0.5)
            still = (f"http://127.0.0.1:{port}/answer.json", None, nginx.pid)
            reference = root / "reference.lua"
            cases = {"reference": (f"http://{address}{ROUTE}", reference, daemon.pid),
                     "reference, no audit trail": (f"http://{plain_address}{ROUTE}", reference, plain.pid)}
            for name in list(bodies)[1:]:
                cases[name] = (f"http://{address}{ROUTE}", root / f"{name}.lua", daemon.pid)
            measured = {name: [] for name in cases}
            for _ in range(args.runs):
                for name, (url, script, pid) in cases.items():
                    url_still, _, pid_still = still
                    measured[name].append((wrk(url_still, args.seconds, None, pid_still), wrk(url, args.seconds, script, pid)))
        finally:
            for process in processes:
                process.terminate()
                process.wait()
    print(f"the answer has {len(answer)} bytes; {args.runs} pairs of {args.seconds} s a case; load {os.getloadavg()[0]:.1f}")
    print("| case | requests/s | median latency, ms | processor, µs a request | rate over nginx's | a core over nginx's |")
    print("|---|---|---|---|---|---|")
    pairs = [pair for case in measured.values() for pair in case]
    rows = {"nginx, static": [(nginx, nginx) for nginx, _ in pairs], **measured}
    for name, case in rows.items():
        columns = [spread([own[0] for _, own in case], "%.0f"), spread([own[1] for _, own in case], "%.2f"),
                   spread([own[2] for _, own in case], "%.1f"), spread([own[0] / nginx[0] for nginx, own in case], "%.2f"),
                   spread([nginx[2] / own[2] for nginx, own in case], "%.2f")]
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main()
