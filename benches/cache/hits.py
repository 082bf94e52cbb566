#!/usr/bin/env python3
"""Hits over HTTP beside nginx, which serves the same bytes as a static file with its access log on.

    python benches/cache/hits.py --bin target/release/sam2d [--runs 5] [--seconds 5]

Needs nginx and wrk (Debian: nginx-light, wrk) and two cores: the server asked is held to the first,
wrk to the second, 16 connections kept alive. In each run every case is asked once, one after the
other, so that what else the machine does meets all of them. Printed: requests per second (median,
least and most of the runs), median latency, and each run's rate over nginx's in the same run.

Bodies: a reference (`image:` and a click, 150 bytes), and the image itself as base64 of 20, 100 and
500 kB. Every answer of a case is the same; nginx serves that of the reference.
"""

import argparse
import base64
import http.client
import json
import os
import pathlib
import re
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


def wrk(url: str, seconds: int, script: pathlib.Path | None) -> tuple[float, float]:
    words = ["wrk", "-t1", "-c16", f"-d{seconds}s", "--latency"] + (["-s", str(script)] if script else []) + [url]
    text = subprocess.run(words, capture_output=True, text=True, check=True, preexec_fn=pinned(1)).stdout
    if "Non-2xx" in text or "Socket errors" in text:
        raise SystemExit(text)
    latency, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]), float(latency) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bin", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sam2d-http-") as folder:
        root = pathlib.Path(folder)
        words = [args.bin, "--listen", "127.0.0.1:0", "--state-dir", root / "state", "--cache-dir", root / "cache"]
        log = open(root / "log", "w")
        daemon = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True, preexec_fn=pinned(0))
        address = next(line.split("//")[1].strip() for line in daemon.stdout if line.startswith("listening on"))
        deadline = time.monotonic() + 60
        while True:
            connection = http.client.HTTPConnection(address, timeout=60)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                break
            if time.monotonic() > deadline:
                raise SystemExit("the daemon did not become ready")
            time.sleep(0.1)
        nginx = None
        try:
            click = {"image_type": "auto", "click_points": [{"x": 256, "y": 256, "label": 1}]}
            bodies = {}
            for name, length in [("20 kB", 20_000), ("100 kB", 100_000), ("500 kB", 500_000)]:
                image = base64.b64encode(png(length * 3 // 4 - 2_500)).decode()
                bodies[name] = {"image_data": image, **click}
                first = json.loads(ask(address, bodies[name]))
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
            (root / "www").mkdir()
            (root / "www/answer.json").write_bytes(answer)
            with __import__("socket").socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            (root / "nginx.conf").write_text(f"""
                daemon off; worker_processes 1; pid {root}/nginx.pid; error_log {root}/error.log; user root;
                events {{ worker_connections 256; }}
                http {{ access_log {root}/access.log; sendfile on; keepalive_requests 1000000000;
                        client_body_temp_path {root}/b; proxy_temp_path {root}/p; fastcgi_temp_path {root}/f;
                        uwsgi_temp_path {root}/u; scgi_temp_path {root}/s; types {{ application/json json; }}
                        server {{ listen 127.0.0.1:{port}; root {root}/www; }} }}""")
            nginx = subprocess.Popen(["nginx", "-c", root / "nginx.conf", "-p", root], preexec_fn=pinned(0))
            time.sleep(0.5)
            cases = {"nginx, static": (f"http://127.0.0.1:{port}/answer.json", None)}
            for name in bodies:
                cases[f"sam2d, {name}"] = (f"http://{address}{ROUTE}", root / f"{name}.lua")
            rates, latencies = {name: [] for name in cases}, {name: [] for name in cases}
            for _ in range(args.runs):
                for name, (url, script) in cases.items():
                    rate, latency = wrk(url, args.seconds, script)
                    rates[name].append(rate)
                    latencies[name].append(latency)
        finally:
            for process in filter(None, [nginx, daemon]):
                process.terminate()
                process.wait()
    print(f"the answer has {len(answer)} bytes; {args.runs} runs of {args.seconds} s; load {os.getloadavg()[0]:.1f}")
    print("| case | requests/s (least–most) | median latency | over nginx (least–most) |\n|---|---|---|---|")
    still = rates["nginx, static"]
    for name in cases:
        over = [a / b for a, b in zip(rates[name], still)]
        print(f"| {name} | {statistics.median(rates[name]):.0f} ({min(rates[name]):.0f}–{max(rates[name]):.0f}) "
              f"| {statistics.median(latencies[name]):.2f} ms "
              f"| {statistics.median(over):.2f} ({min(over):.2f}–{max(over):.2f}) |")


if __name__ == "__main__":
    main()
