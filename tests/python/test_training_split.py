"""The training code reads nobody it must not read, and its drawings are what their seeds say."""

import csv
import os
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "engines" / "train"))

import sources  # noqa: E402
from phantom import axial  # noqa: E402
from phantom_sagittal import sagittal  # noqa: E402

PACK = Path(os.environ.get("SAM2D_SHARED", ROOT.parent / "shared")) / "data"


@pytest.mark.parametrize(
    ("person", "file", "licence", "permitted"),
    [
        ("STS_001", "ct-slices/a.dcm", "CC-BY-3.0 (some collection)", True),
        ("TS-EXAMPLE-CT", "ct-3mm/a.dcm", "Apache-2.0", True),
        ("STS_014", "ct-slices/a.dcm", "CC-BY-3.0 (some collection)", False),
        ("amos_0004", "ct-png/a.png", "Apache-2.0 repo; images AMOS22 / TotalSegmentator data set (CC-BY-4.0)", False),
        ("STS_001", "ct-slices/a.dcm", "MIT repo; images LiTS (CC-BY-NC-ND-4.0)", False),
        ("STS_001", "ct-slices/a.dcm", "Apache-2.0 repo; images of a CC-BY-NC collection", False),
        ("STS_001", "ct-slices/a.dcm", "", False),
        ("somebody", "ct-slices/a.dcm", "Apache-2.0", False),
        ("", "natural/sam2-truck.jpg", "Apache-2.0", True),
        ("", "natural/another.jpg", "Apache-2.0", False),
    ],
)
def test_only_permitted_people_under_a_permitted_licence_are_read(person, file, licence, permitted):
    row = {"patient": person, "file": file, "licence": licence}
    assert sources.Split.read().permits(row) is permitted


def test_a_person_in_training_and_validation_at_once_is_refused(tmp_path):
    text = (ROOT / "engines/train/split.toml").read_text().replace('"STS_014", ', '"STS_014", "STS_001", ')
    (tmp_path / "split.toml").write_text(text)
    with pytest.raises(ValueError, match="STS_001"):
        sources.Split.read(tmp_path / "split.toml")


def test_training_and_validation_phantoms_share_no_seed():
    split = sources.Split.read()
    for plane, (first, last) in split.phantom_train.items():
        low, high = split.phantom_validation[plane]
        assert last < low or high < first


def test_everybody_in_the_pack_with_a_truth_is_on_one_side_of_the_split():
    if not (PACK / "manifest.csv").exists():
        pytest.skip(f"no data pack at {PACK}: the manifest was not compared with the split")
    split = sources.Split.read()
    with (PACK / "manifest.csv").open() as f:
        people = {r["patient"] for r in csv.DictReader(f) if r["truth_mask"]}
    assert people <= split.train | split.validation


@pytest.mark.parametrize("draw", [axial, sagittal])
def test_a_phantom_is_the_same_for_the_same_seed_and_has_bones(draw):
    hu, ids, kinds = draw(7, 128)
    again, _, _ = draw(7, 128)
    assert np.array_equal(hu, again)
    assert not np.array_equal(hu, draw(8, 128)[0])
    assert ids.max() <= len(kinds)
    bones = [i for i, k in kinds.items() if k in ("vertebra", "cortex", "rib")]
    assert np.median(hu[np.isin(ids, bones)]) > 80 > np.median(hu[ids == 0])
