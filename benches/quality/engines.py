"""Who is asked: a running daemon over HTTP, or an engine package under onnxruntime.

Both answer a `Question` about an opened picture with a mask, a confidence and what to give back
with a correction. The daemon is the real thing (its decoding, window, clean-up and calibration are
measured too); the package mode needs nothing but the two graphs and tells whether a difference is
the model's or the daemon's.

Invariant: a daemon that answers anything but 200 ends the run; a wrong number is worse than none.
"""

from __future__ import annotations

import base64
import json
import sys
import time
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from cases import Picture
from metrics import Mask

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "engines" / "export"))


@dataclass(frozen=True)
class Question:
    """Clicks (x, y, label), a box (x, y, width, height), and an earlier answer's `state` to refine."""

    clicks: tuple[tuple[int, int, int], ...] = ()
    box: tuple[int, int, int, int] | None = None
    state: Any = field(default=None, compare=False)
    fields: dict[str, str] = field(default_factory=dict, compare=False)
    """Further fields of a daemon's request: `target`, `prompt_from`."""


@dataclass(frozen=True)
class Answer:
    """What came back, and how long it took with the picture already encoded."""

    mask: Mask
    confidence: float
    state: Any
    seconds: float
    raw: float
    """Predicted IoU × stability before calibration; NaN where the engine does not tell."""
    predicted: float = float("nan")
    """Predicted IoU alone."""


class Engine(Protocol):
    """An engine under test."""

    name: str

    def open(self, picture: Picture) -> float:
        """Encodes; seconds."""

    def ask(self, question: Question) -> Answer:
        """One prompt on the opened picture."""


class Package:
    """An engine package folder under onnxruntime, one thread, by the repository's own reference code."""

    def __init__(self, folder: Path) -> None:
        from network import OnnxNetwork

        manifest = tomllib.loads((folder / "engine.toml").read_text())
        self.name = f"{manifest['name']} {manifest['version']}"
        self._rule = manifest["selection"]
        self._calibration = manifest["calibration"]
        self._network = OnnxNetwork(folder)

    def open(self, picture: Picture) -> float:
        began = time.perf_counter()
        self._features = self._network.encode(picture.pixels)
        self._size = picture.pixels.shape[1], picture.pixels.shape[0]
        return time.perf_counter() - began

    def ask(self, question: Question) -> Answer:
        from picture import Prompt, to_image
        from selection import confidence

        prompt = Prompt("", tuple((float(x), float(y), label) for x, y, label in question.clicks), question.box, question.state)
        began = time.perf_counter()
        a = self._network.decode(self._features, prompt, self._size, self._rule)
        logits = a.logits[a.chosen]
        mask = to_image(logits, *self._size) > 0
        seconds = time.perf_counter() - began
        sure, raw = confidence(self._calibration, logits, float(a.iou[a.chosen]), single_click=prompt.single_click)
        return Answer(mask, sure, np.clip(logits, -32, 32), seconds, raw, float(np.clip(a.iou[a.chosen], 0, 1)))


class Daemon:
    """A running daemon; answers come with its own window, clean-up and calibration."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        health = self._call("/health", None)
        if not health["available"]:
            raise SystemExit(f"{url}: {health['mode']}: {health.get('reason')}")
        model = health.get("model") or {}
        self.name = f"{model.get('name', 'daemon')} over HTTP"

    def open(self, picture: Picture) -> float:
        data = picture.path.read_bytes() if picture.path else _png(picture.pixels)
        self._fields: dict[str, Any] = {"image_type": picture.image_type}
        if picture.window and picture.path:
            self._fields["window"] = {"center": picture.window[0], "width": picture.window[1]}
        began = time.perf_counter()
        answer = self._post("/embed", {**self._fields, "image_data": base64.b64encode(data).decode()})
        self._fields = {"image_type": picture.image_type, "image_data": f"image:{answer['image']['id']}"}
        return time.perf_counter() - began

    def ask(self, question: Question) -> Answer:
        body = self._fields | question.fields
        if question.clicks:
            body["click_points"] = [{"x": x, "y": y, "label": label} for x, y, label in question.clicks]
        if question.box:
            body["box"] = dict(zip(("x", "y", "width", "height"), question.box))
        if question.state:
            body["mask_input"] = question.state
        began = time.perf_counter()
        a = self._post("", body)
        seconds = time.perf_counter() - began
        mask = cv2.imdecode(np.frombuffer(base64.b64decode(a["mask_data"]), np.uint8), cv2.IMREAD_GRAYSCALE) > 127
        return Answer(mask, float(a["confidence_score"]), a["mask_id"], seconds, float("nan"))

    def _post(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._call(route, json.dumps(body).encode())

    def _call(self, route: str, data: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}/api/segmentation/sam2{route}", data, self._headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as e:
            text = e.read(300).decode(errors="replace")
            raise SystemExit(f"{e.code} from {route or 'the segmentation route'}: {text}") from e


def _png(pixels: NDArray[np.uint8]) -> bytes:
    ok, data = cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[..., ::-1])
    if not ok:
        raise ValueError("a picture that cannot be written as PNG")
    return data.tobytes()
