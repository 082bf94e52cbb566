"""The measuring tool's own numbers, on masks whose answer is known without it."""

import base64
import http.server
import json
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches" / "quality"))

import cases  # noqa: E402
import metrics  # noqa: E402
import promptless  # noqa: E402
import quality  # noqa: E402
import report  # noqa: E402
import series  # noqa: E402
from engines import Answer, Daemon  # noqa: E402


def square(x: int, y: int, side: int, n: int = 40) -> np.ndarray:
    m = np.zeros((n, n), bool)
    m[y : y + side, x : x + side] = True
    return m


def test_iou_and_dice_of_half_overlapping_squares():
    a, b = square(0, 0, 10), square(5, 0, 10)
    assert metrics.iou(a, b) == pytest.approx(50 / 150)
    assert metrics.dice(a, b) == pytest.approx(100 / 200)


def test_empty_masks_agree_and_an_empty_one_misses_a_full_one():
    empty, full = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    assert (metrics.iou(empty, empty), metrics.dice(empty, empty), metrics.boundary_f(empty, empty)) == (1, 1, 1)
    assert (metrics.iou(empty, full), metrics.dice(empty, full), metrics.boundary_f(empty, full)) == (0, 0, 0)


def test_outlines_two_pixels_apart_still_agree_and_three_do_not():
    a = square(10, 10, 12)
    assert metrics.boundary_f(a, square(12, 10, 12)) == 1.0
    # 3 px aside, 26 of each outline's 44 pixels are within 2 px of the other: counted on paper.
    assert metrics.boundary_f(a, square(13, 10, 12)) == pytest.approx(26 / 44)


def test_the_innermost_pixel_of_a_ring_lies_in_the_ring():
    ring = square(5, 5, 21) & ~square(10, 10, 11)
    x, y = metrics.innermost(ring)
    assert ring[y, x]


def test_the_image_border_counts_as_outside():
    assert metrics.innermost(square(0, 0, 11)) == (5, 5)


def test_the_interval_is_over_people_not_over_objects():
    one_person_often = [0.2] + [0.9] * 99
    people = ["a"] + ["b"] * 99
    m = metrics.mean_by_person(one_person_often, people)
    assert (m.people, m.objects) == (2, 100)
    assert m.low == pytest.approx(0.2) and m.high == pytest.approx(0.9)
    assert not m.judged and metrics.mean_by_person([0.5] * 5, list("abcde")).judged


def test_calibration_error_is_the_weighted_distance_of_the_bins():
    error, bins = metrics.calibration_error([0.95] * 3 + [0.15], [0.75] * 3 + [0.15])
    assert error == pytest.approx(0.75 * 0.2)
    assert [n for _, _, n in bins] == [1, 3]


class Echo:
    """Answers with what it was told to, and remembers the questions."""

    name = "echo"

    def __init__(self, mask: np.ndarray) -> None:
        self.mask, self.asked = mask, []

    def open(self, picture: cases.Picture) -> float:
        return 0.0

    def ask(self, question) -> Answer:
        self.asked.append(question)
        return Answer(self.mask, 0.5, "state", 0.001, 0.5)


def picture(truth: np.ndarray) -> cases.Picture:
    return cases.Picture("p.dcm", "STS_014", "CT", None, np.zeros(truth.shape, np.uint8), (cases.Thing("vertebrae_L3", "human", truth),))


def test_three_clicks_put_the_second_where_the_first_answer_is_wrong():
    truth, answered = square(5, 5, 20), square(5, 5, 20) | square(30, 30, 9)
    engine = Echo(answered)
    rows, _, _ = quality.measure(engine, [picture(truth)], frozenset({"STS_014"}))
    first, box, second, third = engine.asked
    assert [r.form for r in rows] == ["click", "box", "three clicks"] and all(r.validation for r in rows)
    assert first.clicks == ((14, 14, 1),) or truth[first.clicks[0][1], first.clicks[0][0]]
    assert box.box == (5, 5, 20, 20) and not box.clicks
    assert second.clicks[1] == (34, 34, 0) and second.state == "state"
    assert len(third.clicks) == 3


def test_a_report_marks_rows_of_too_few_people_and_names_empty_targets():
    rows, _, _ = quality.measure(Echo(square(5, 5, 20)), [picture(square(5, 5, 20))], frozenset({"STS_014"}))
    document = {"engine": "echo", "encode_seconds_median": 0.0, "rows": [vars(r) for r in rows]}
    text = report.markdown(document, None)
    assert "| vertebrae | click | 0.75 | 1.000 | 1, 1 ° |" in text
    assert "| kidneys | click | 0.80 | – | nobody |" in text


def test_the_context_of_an_object_name_is_its_group():
    assert cases.Thing("vertebrae_L3", "", square(0, 0, 2)).group == "vertebrae"
    assert cases.Thing("kidney_left", "", square(0, 0, 2)).group == "kidney"
    assert cases.Thing("aorta_000", "", square(0, 0, 2)).group == "aorta"


class FakeDaemon(http.server.BaseHTTPRequestHandler):
    """Answers as the contract says and remembers what it was sent."""

    seen: list = []

    def do_GET(self):
        self._answer({"enabled": True, "available": True, "mode": "sam2", "model": {"name": "fake"}})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        if self.path.endswith("/embed"):
            return self._answer({"image": {"id": "i1"}})
        ok, png = cv2.imencode(".png", square(5, 5, 10).astype(np.uint8) * 255)
        assert ok
        self._answer({"mask_data": base64.b64encode(png.tobytes()).decode(), "confidence_score": 0.7, "mask_id": "m1"})

    def _answer(self, document):
        text = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.fixture
def daemon():
    FakeDaemon.seen = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeDaemon)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_over_http_the_slice_is_sent_once_and_a_correction_gives_back_the_mask_id(daemon):
    engine = Daemon(daemon, token="secret")
    truth = square(5, 5, 20)
    quality.measure(engine, [picture(truth)], frozenset())
    routes = [path.removeprefix("/api/segmentation/sam2") for path, _, _ in FakeDaemon.seen]
    bodies = [body for _, _, body in FakeDaemon.seen]
    assert routes == ["/embed", "", "", "", ""]
    assert {token for _, token, _ in FakeDaemon.seen} == {"Bearer secret"}
    assert base64.b64decode(bodies[0]["image_data"]).startswith(b"\x89PNG")
    assert all(b["image_data"] == "image:i1" for b in bodies[1:])
    assert bodies[1]["click_points"] == [{"x": 14, "y": 14, "label": 1}] and "mask_input" not in bodies[1]
    assert bodies[2]["box"] == {"x": 5, "y": 5, "width": 20, "height": 20}
    assert bodies[3]["mask_input"] == "m1" and len(bodies[3]["click_points"]) == 2


def test_a_daemon_that_refuses_ends_the_run(daemon, monkeypatch):
    engine = Daemon(daemon)
    monkeypatch.setattr(FakeDaemon, "_answer", lambda self, _: self.send_error(503))
    with pytest.raises(SystemExit, match="503"):
        engine.open(picture(square(5, 5, 20)))


@pytest.mark.parametrize(
    ("iou", "empty", "wanted", "said"),
    [(0.5, False, True, "right"), (0.49, False, True, "wrong"), (None, True, True, "empty"), (None, True, False, "right"), (None, False, False, "wrong")],
)
def test_an_honest_nothing_is_no_error_and_right_where_there_is_nothing(iou, empty, wanted, said):
    assert promptless.verdict(iou, empty, wanted) == said


class Follower:
    """Answers with the truth of the slice asked; follows nothing after an answer named `lost`."""

    def __init__(self, lost: int) -> None:
        self.lost, self.asked = lost, []

    def click(self, slice_number, truth):
        self.asked.append(("click", slice_number))
        return truth, slice_number

    def follow(self, slice_number, before):
        self.asked.append((before, slice_number))
        return (square(0, 0, 0) if slice_number == self.lost else square(5, 5, 20)), slice_number


def test_a_walk_starts_in_the_middle_goes_both_ways_and_counts_what_it_lost():
    walker, truths = Follower(lost=4), [square(5, 5, 20)] * 6
    dice = series.walk(walker, list(range(6)), truths)
    assert walker.asked == [("click", 3), (3, 4), (3, 2), (2, 1), (1, 0)]
    assert dice == [1, 1, 1, 1, 0, 0]


class OfDrawings:
    """Knows the drawings: a click gives the object under it, a box is filled to its edges."""

    name = "of drawings"

    def __init__(self, *_) -> None:
        pass

    def open(self, picture: cases.Picture) -> float:
        self.picture = picture
        return 0.25

    def ask(self, question) -> Answer:
        mask = np.zeros(self.picture.pixels.shape[:2], bool)
        if question.box:
            x, y, width, height = question.box
            mask[y : y + height, x : x + width] = True
        else:
            x, y, _ = question.clicks[0]
            mask = next(t.mask for t in self.picture.things if t.mask[y, x])
        return Answer(mask, 0.9, "state", 0.002, 0.9)


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    """A pack of drawn slices of six seeds, as the manifest tells of one; no person's pixels."""
    sys.path.insert(0, str(ROOT / "engines" / "train"))
    from phantom import axial

    folder = tmp_path_factory.mktemp("drawings")
    rows = ["file,kind,patient,modality,bits_stored,truth_mask,object,truth_origin"]
    for seed in range(6):
        hu, ids, kinds = axial(seed)
        cv2.imwrite(str(folder / f"{seed}.png"), (np.clip((hu + 160) / 400, 0, 1) * 255).astype(np.uint8))
        wanted = [n for n, kind in kinds.items() if kind in ("kidney", "liver", "vertebra") and (ids == n).sum() >= 100]
        for number in wanted:
            name = f"{seed}-{number}.png"
            cv2.imwrite(str(folder / name), (ids == number).astype(np.uint8) * 255)
            origin = "human" if seed % 2 else "thresholded (at 200 HU)"
            rows.append(f"{seed}.png,ct-slice-png,P{seed},CT,8,{name},{kinds[number]},{origin}")
    assert len(rows) > 8
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    (folder / "split.toml").write_text("[validation]\npeople = [" + ", ".join(f'"P{s}"' for s in range(5)) + "]\n")
    return folder


def run_quality(monkeypatch, pack: Path, out: Path, *more: str) -> dict:
    monkeypatch.setattr(quality, "Daemon", OfDrawings)
    words = ["quality.py", str(pack), "--url", "http://nowhere", "--out", str(out), "--split", str(pack / "split.toml"), *more]
    monkeypatch.setattr(sys, "argv", words)
    quality.main()
    return json.loads((out / "quality.json").read_text())


def test_a_run_over_drawings_measures_every_object_in_every_form(drawings, tmp_path, monkeypatch):
    document = run_quality(monkeypatch, drawings, tmp_path)
    rows = document["rows"]
    truths = [r for r in (drawings / "manifest.csv").read_text().splitlines()[1:]]
    assert len(rows) == 3 * len(truths) and {r["form"] for r in rows} == {"click", "box", "three clicks"}
    assert {r["person"] for r in rows if r["validation"]} == {r["person"] for r in rows} - {"P5"}
    for r in rows:
        if r["form"] != "box":
            assert (r["iou"], r["dice"], r["boundary_f"]) == (1, 1, 1)
    for line in truths:
        file, _, _, _, _, mask, thing, _ = line.split(",")
        truth = cv2.imread(str(drawings / mask), cv2.IMREAD_GRAYSCALE) > 127
        ys, xs = np.nonzero(truth)
        share = truth.sum() / (np.ptp(xs) + 1) / (np.ptp(ys) + 1)
        found = [r for r in rows if (r["picture"], r["thing"], r["area_px"], r["form"]) == (file, thing, truth.sum(), "box")]
        assert found and all(r["iou"] == pytest.approx(share) for r in found)
        assert all(0 < r["boundary_f"] <= 1 and r["seconds"] == 0.002 and r["confidence"] == 0.9 for r in found)


def test_a_run_leaves_a_table_per_origin_and_object_and_pictures(drawings, tmp_path, monkeypatch):
    before = run_quality(monkeypatch, drawings, tmp_path / "before")
    for r in before["rows"]:
        r["iou"] = 0.125
    (tmp_path / "before.json").write_text(json.dumps(before | {"engine": "an earlier one"}))
    run_quality(monkeypatch, drawings, tmp_path / "now", "--compare", str(tmp_path / "before.json"))
    text = (tmp_path / "now" / "quality.md").read_text()
    assert "Not for diagnostic use" in text and "Before: an earlier one" in text and "Encoding: 250 ms" in text
    validation = text.split("## Validation people")[1].split("## People of the training set")[0]
    for cell in ("| truth origin |", "| object |", "| human | auto | click |", "| thresholded | auto | box |", "| kidney | auto | three clicks |"):
        assert cell in validation, cell
    row = next(line for line in validation.splitlines() if line.startswith("| thresholded | auto | click |"))
    assert "| 2 ° |" in row and "| 1.000" in row and "| 0.125" in row and row.endswith("| 1.000 | 1.000 | 2 |")
    assert "[" in next(line for line in text.splitlines() if line.startswith("| all | box | 0.80 |")), "a bootstrap interval"
    worst = cv2.imread(str(tmp_path / "now" / "worst.png"))
    assert worst is not None and worst.shape == (2 * 320, 5 * 320, 3)
    assert cv2.imread(str(tmp_path / "now" / "twelve.png")).shape[1] == 4 * 320


def test_the_ten_worst_are_the_worst(monkeypatch):
    sheets = []
    monkeypatch.setattr(report, "_sheet", lambda shown, path, columns: sheets.append([s.iou for s in shown]))
    p = picture(square(5, 5, 20))
    report.worst([report.Shown(p, p.things[0], square(5, 5, 20), (9, 9), (7 * i % 20) / 20, 0.5) for i in range(20)], Path("nowhere"))
    assert sheets == [[i / 20 for i in range(10)]]
