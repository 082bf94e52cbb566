"""engines/build_plan.py where no builder is needed: the half-precision rewrite under onnxruntime, the manifest."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "engines"))
import build_plan  # noqa: E402

SEEDED = ROOT / "tests" / "fixtures" / "engines" / "seeded-m4"
BATCH, POINTS = 2, 3


def inputs(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    sizes = {0: BATCH, 1: POINTS}
    made = {}
    for one in session.get_inputs():
        shape = [size if isinstance(size, int) else sizes[place] for place, size in enumerate(one.shape)]
        made[one.name] = random.standard_normal(shape).astype(np.float32)
    if "point_labels" in made:
        made["point_labels"] = random.integers(0, 2, made["point_labels"].shape).astype(np.float32)
        made["point_coords"] = random.uniform(0, 128, made["point_coords"].shape).astype(np.float32)
        made["has_mask_input"] = np.zeros(made["has_mask_input"].shape, np.float32)
    return made


@pytest.mark.parametrize("role", build_plan.ROLES)
def test_half_precision_keeps_inputs_outputs_and_nearly_all_numbers(role):
    full = (SEEDED / f"{role}.onnx").read_bytes()
    half = build_plan.halved(full)
    model = onnx.load_from_string(half)
    kinds = {tensor.type.tensor_type.elem_type for tensor in [*model.graph.input, *model.graph.output]}
    assert kinds == {onnx.TensorProto.FLOAT}
    weights = [tensor.data_type for tensor in model.graph.initializer]
    assert onnx.TensorProto.FLOAT16 in weights
    a, b = (onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]) for data in (full, half))
    fed = inputs(a)
    for before, after in zip(a.run(None, fed), b.run(None, fed)):
        scale = np.abs(before).max()
        assert np.isfinite(after).all() and np.abs(before - after).max() < 0.02 * max(scale, 1.0)


def test_the_manifest_keeps_what_is_claimed_and_changes_what_is_built():
    text = (SEEDED / "engine.toml").read_text()
    before = tomllib.loads(text)
    entry = {"path": "x.plan", "format": "plan", "sha256": "0" * 64}
    files = {f"{kind}.{role}": entry for kind in ("files", "fallback") for role in build_plan.ROLES}
    plan = {"tensorrt": "10.3.0.30", "compute_capability": "8.7", "device": "Orin"}
    after = tomllib.loads(build_plan.plan_manifest(text, files, plan, "fp16"))
    assert after["plan"] == plan and after["precision"] == "fp16"
    assert after["version"] == before["version"] + "+trt10.3.0.30"
    assert after["files"] == after["fallback"] == {role: entry for role in build_plan.ROLES}
    for key in before.keys() - {"files", "precision", "version"}:
        assert after[key] == before[key], key


def test_profiles_bound_prompts_times_points():
    assert build_plan.shapes_of("mask_input", (-1, 1, 32, 32), 4, 9) == (4, 1, 32, 32)
    assert build_plan.shapes_of("point_coords", (-1, -1, 2), 4, 9) == (4, 9, 2)
    with pytest.raises(SystemExit):
        build_plan.shapes_of("image", (-1, 3, 128, 128), 1, 1)
