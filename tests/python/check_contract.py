"""Requests made from /openapi.json by schemathesis, right ones and wrong ones, against a running daemon.

    check_contract.py SAM2D_BINARY [--examples N] [--seed N]

No answer may be a 5xx, and each must be as the document says: its status, media type, headers and body; wrong data must
be refused. In three of four right requests the picture, the mask and the ids are ones that exist, or no answer but a
refusal would ever be seen. One of schemathesis' checks is left out: that whatever fits the schema is accepted.
A schema can't say that bytes are a picture, or that a click is inside it. Exit status 1 for any finding, or if too few
requests got as far as a mask.
"""

import argparse
import base64
import collections
import json
import os
import random
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = (ROOT / "samples" / "phantom-axial.png").read_bytes()
ROUTE = "/api/segmentation/sam2"


def hooks():
    """What schemathesis loads of this file in its own process: real data in, and a count of the answers."""
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.transport.serialization import Binary

    known = json.loads(os.environ["CONTRACT_KNOWN"])
    picture = base64.b64encode(SAMPLE).decode()

    @schemathesis.hook
    def before_call(context, case, kwargs):
        meta = case.meta
        # In reproducible order, and not so that one and the same field is always real.
        chance = random.Random(repr(case.body) + repr(case.path_parameters))
        modes = {meta.generation.mode, *(part.mode for part in meta.components.values())} if meta else set()
        if modes != {GenerationMode.POSITIVE} or chance.random() < 0.25:
            return
        if "mask_id" in (case.path_parameters or {}):
            case.path_parameters["mask_id"] = known["mask_id"]
        if "file" in (case.path_parameters or {}):
            case.path_parameters["file"] = chance.choice(["app.js", "editor.css", "icon.svg"])
        if isinstance(case.body, dict):
            real(case, chance)
            # What it was made as, it still is: it would be taken for wrong, as a picture can't be held to a schema.
            case._record_starting_state()

    def real(case, chance):
        files = {"file", "image"} & set(case.body)
        for name in files | {"image_data"}:
            case.body.pop(name, None)
        if case.media_type == "application/json":
            case.body["image_data"] = chance.choice([picture, "image:" + known["image_id"]])
        else:
            case.body["file"] = Binary(SAMPLE)
        for name in ("mask_input", "prompt_from", "window", "frame"):
            if chance.random() < 0.7:
                case.body.pop(name, None)
        if "click_points" in case.body and chance.random() < 0.7:
            clicks = [{"x": chance.uniform(0, 256), "y": chance.uniform(0, 256), "label": chance.choice([0, 1])} for _ in range(2)]
            case.body["click_points"] = clicks if case.media_type == "application/json" else json.dumps(clicks)

    @schemathesis.hook
    def after_call(context, case, response):
        with open(os.environ["CONTRACT_COUNTS"], "a") as counts:
            counts.write(f"{case.method} {case.path} {response.status_code}\n")


def main():
    from daemon import Daemon

    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    # As in flood_forms.py: a busy machine may take its time.
    daemon = Daemon(options.binary, HTTP__REQUEST_TIMEOUT_S=120)
    sample = {"image_data": base64.b64encode(SAMPLE).decode(), "image_type": "middle"}
    body = json.dumps(sample | {"click_points": [{"x": 160, "y": 167, "label": 1}]})
    status, answer = daemon.ask("POST", ROUTE, body, {"Content-Type": "application/json"})
    if status != 200:
        sys.exit(f"the sample image was answered {status} {answer!r}")
    answer = json.loads(answer)
    known = {"mask_id": answer["mask_id"], "image_id": answer["image"]["id"]}
    counts = daemon.root / "counts"
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "check_contract",
        "PYTHONPATH": str(Path(__file__).parent),
        "CONTRACT_KNOWN": json.dumps(known),
        "CONTRACT_COUNTS": str(counts),
    }
    words = [Path(sys.executable).parent / "schemathesis", "run", f"{daemon.url}/openapi.json", "--seed", options.seed]
    words += ["--max-examples", options.examples, "--exclude-checks", "positive_data_acceptance", "--continue-on-failure"]
    words += ["--suppress-health-check", "all", "--warnings", "off", "--generation-database", "none", "--request-timeout", "130"]
    done = subprocess.run([str(word) for word in words], env=environment, cwd=daemon.root)
    seen = collections.Counter(tuple(line.split()) for line in counts.read_text().splitlines())
    for (method, path, status), count in sorted(seen.items()):
        print(f"{count:6} {status} {method} {path}")
    wrong = [f"schemathesis ended with {done.returncode}"] * (done.returncode != 0)
    wrong += [f"{count} answers {s} to {m} {p}" for (m, p, s), count in seen.items() if s.startswith("5")]
    for path in (ROUTE, f"{ROUTE}/embed", "/api/segmentation/preview", "/segment"):
        if seen["POST", path, "200"] < options.examples // 10:
            wrong.append(f"only {seen['POST', path, '200']} answers 200 of {path}")
    if (code := daemon.stop()) != 0:
        wrong.append(f"the daemon stopped with exit code {code}")
    for line in wrong:
        print("WRONG", line)
    print(f"{sum(seen.values())} requests by schemathesis, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
if "CONTRACT_KNOWN" in os.environ:
    hooks()
