"""The scripts of engines/export, and that the committed packages and references are theirs."""

import hashlib
import json
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "engines" / "export"))

import check_parity  # noqa: E402
import export_onnx  # noqa: E402
import make_fixtures  # noqa: E402
import picture  # noqa: E402
import reference  # noqa: E402
import selection  # noqa: E402
from network import Answer  # noqa: E402

FIXTURES = ROOT / "tests" / "fixtures"
PACKAGES = [ROOT / "engines" / "sam2-nano", *sorted((FIXTURES / "engines").iterdir())]
PARITY = sorted(p.parent for p in (FIXTURES / "parity").glob("*/reference.json"))


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda p: p.name)
def test_a_manifest_names_the_files_beside_it(folder: Path) -> None:
    manifest = tomllib.loads((folder / "engine.toml").read_text())
    golden = manifest["golden"]
    sums = {entry["path"]: entry["sha256"] for entry in manifest["files"].values()}
    sums |= {golden["image"]: golden["sha256"], golden["mask"]: golden["mask_sha256"]}
    for name, expected in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected, name
    mask = np.asarray(Image.open(folder / golden["mask"])) > 0
    assert int(mask.sum()) == golden["area_px"]
    assert list(picture.bounding_box(mask)) == golden["bounding_box"]
    assert 0 < golden["area_px"] < mask.size


@pytest.mark.parametrize("folder", PARITY, ids=lambda p: p.name)
def test_onnxruntime_reaches_the_references(folder: Path) -> None:
    assert check_parity.check(folder) == []


def test_every_mask_count_and_prompt_has_a_reference() -> None:
    documents = {p.name: json.loads((p / "reference.json").read_text()) for p in PARITY}
    assert {d["cases"][0]["logits"]["shape"][0] for d in documents.values()} == {1, 3, 4}
    assert documents["sam2-nano"]["selection"] == "mask0-first"
    prompts = {"point", "two_points", "box", "box_and_points", "no_prompt", "mask_input"}
    for name, document in documents.items():
        assert {case["name"] for case in document["cases"]} == prompts, name
        assert document["image"]["width"] != document["image"]["height"], name
        pixels = document["image"]["width"] * document["image"]["height"]
        assert all(0 < case["mask"]["area_px"] < pixels for case in document["cases"]), name
    definite = [c["chosen"] for c in documents["seeded-m4"]["cases"] if c["name"] not in ("point", "no_prompt")]
    assert 0 in definite and any(definite), "both branches of the stability rule"


@pytest.mark.parametrize("change", ["logits", "mask", "iou", "rows", "chosen", "confidence"])
def test_a_disturbed_reference_is_found(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "parity" / "seeded-m4"
    shutil.copytree(FIXTURES / "parity" / "seeded-m4", folder)
    shutil.copytree(FIXTURES / "engines" / "seeded-m4", tmp_path / "engines" / "seeded-m4")
    document = json.loads((folder / "reference.json").read_text())
    case = document["cases"][0]
    if change == "logits":
        path = folder / case["logits"]["path"]
        values = np.fromfile(path, "<f4")
        values[17] += 2e-3 * np.abs(values).max()
        values.tofile(path)
    elif change == "mask":
        path = folder / case["mask"]["path"]
        mask = np.asarray(Image.open(path)).copy()
        mask[0, 0] ^= 255
        Image.fromarray(mask).save(path)
    elif change == "iou":
        case["iou_predictions"][2] += 2e-3
    elif change == "rows":
        case["rows"][0][0] += 0.5
    elif change == "confidence":
        case["confidence"] += 0.01
    else:
        case["chosen"] = 0
    (folder / "reference.json").write_text(json.dumps(document))
    wrong = check_parity.check(folder)
    assert len(wrong) == 1 and wrong[0].startswith("point: "), wrong


def test_the_seeded_packages_are_what_the_scripts_make(tmp_path: Path) -> None:
    make_fixtures.make_preprocess(tmp_path)
    make_fixtures.make_seeded(tmp_path)
    made = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    ours = ("engines", "parity", "preprocess")
    there = [p.relative_to(FIXTURES) for room in ours for p in (FIXTURES / room).rglob("*") if p.is_file()]
    assert made == sorted(p for p in there if "sam2-nano" not in p.parts)
    for path in made:
        new, old = (root / path for root in (tmp_path, FIXTURES))
        if path.suffix == ".f32":
            a, b = (np.fromfile(p, "<f4") for p in (new, old))
            assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max(), path
        elif path.suffix == ".onnx":
            a, b = (onnx.load(p).graph for p in (new, old))
            assert [(n.op_type, n.input, n.output) for n in a.node] == [(n.op_type, n.input, n.output) for n in b.node]
            weights = [{t.name: onnx.numpy_helper.to_array(t) for t in g.initializer} for g in (a, b)]
            assert weights[0].keys() == weights[1].keys()
            assert all(np.allclose(weights[0][k], weights[1][k], rtol=0, atol=1e-5) for k in weights[0]), path
        elif path.suffix == ".png":
            assert (np.asarray(Image.open(new)) == np.asarray(Image.open(old))).all(), path


def planes(*stable: bool) -> np.ndarray:
    """2 x 2 masks; an unstable one has one undecided pixel of three."""
    return np.asarray([[[5.0, 5.0], [5.0 if s else 0.01, -5.0]] for s in stable], np.float32)


@pytest.mark.parametrize(
    ("rule", "iou", "first_stable", "single_click", "chosen"),
    [
        ("sam2", [0.3], True, True, 0),
        ("sam2", [0.3, 0.9, 0.5], True, False, 1),
        ("mask0-first", [0.3, 0.9, 0.5], True, True, 1),
        ("sam2", [0.99, 0.2, 0.7, 0.3], True, True, 2),
        ("sam2", [0.1, 0.2, 0.7, 0.3], True, False, 0),
        ("sam2", [0.99, 0.2, 0.7, 0.8], False, False, 3),
        ("mask0-first", [0.1, 0.2, 0.7, 0.3], False, False, 0),
    ],
)
def test_the_rule_picks_the_mask(rule: str, iou: list[float], first_stable: bool, single_click: bool, chosen: int) -> None:
    logits = planes(first_stable, *[True] * (len(iou) - 1))
    assert selection.choose(rule, logits, np.asarray(iou), single_click=single_click) == chosen


def test_box_corners_come_before_clicks_and_no_prompt_is_one_padding_row() -> None:
    prompt = picture.Prompt("p", ((50.0, 20.0, 0),), (10.0, 5.0, 40.0, 30.0))
    assert prompt.rows(128, 100, 50).tolist() == [[pytest.approx(12.8), pytest.approx(12.8), 2.0], [pytest.approx(62.72), pytest.approx(87.04), 3.0], [64.0, pytest.approx(51.2), 0.0]]
    assert picture.Prompt("none").rows(128, 100, 50).tolist() == [[0.0, 0.0, -1.0]]


def test_a_cubic_resize_stops_the_export() -> None:
    model = onnx.load(FIXTURES / "engines" / "seeded-m1" / "encoder.onnx")
    export_onnx.refuse_unportable(model, "encoder.onnx")
    resize = next(node for node in model.graph.node if node.op_type == "Resize")
    next(a for a in resize.attribute if a.name == "mode").s = b"cubic"
    with pytest.raises(SystemExit, match="cubic"):
        export_onnx.refuse_unportable(model, "encoder.onnx")


def test_an_answer_that_proves_nothing_is_no_reference(tmp_path: Path) -> None:
    prompt, size = picture.Prompt("point", ((3.0, 3.0, 1),)), (8, 6)
    slope = np.linspace(-5.0, 5.0, 16, dtype=np.float32).reshape(1, 4, 4)
    reference._case(tmp_path, prompt, Answer(slope, np.asarray([0.5]), None, 0), 16, size)
    for logits in (slope - 100.0, slope + 100.0, np.where(slope > 0, slope, -1e-9)):
        with pytest.raises(reference.UnfitReference):
            reference._case(tmp_path, prompt, Answer(logits, np.asarray([0.5]), None, 0), 16, size)
