"""engines/train/midsagittal.py: pictures as existing L3 editors keep them."""

import os
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "engines" / "train"))

import midsagittal  # noqa: E402

VOLUMES = Path(os.environ.get("SAM2D_SHARED", ROOT.parent / "shared")) / "data" / "volumes"


def write_slice(path, hu, z, spacing=0.8):
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    d = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    d.Rows, d.Columns = hu.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit, d.PixelRepresentation = 16, 16, 15, 1
    d.RescaleSlope, d.RescaleIntercept = 1, -1024
    d.PixelSpacing = [spacing, spacing]
    d.ImageOrientationPatient, d.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, z]
    d.PixelData = (hu + 1024).astype("<i2").tobytes()
    d.save_as(path, enforce_file_format=True)


def volume(folder, slices=5, gap=4.0):
    """A body of 50 HU in air with one column of bone at x = 11; the bone of the topmost slice is 150 HU."""
    for i in range(slices):
        hu = np.full((16, 20), -1000, np.int32)
        hu[2:14, 3:18] = 50
        hu[8:12, 11] = 150 if i == slices - 1 else 900
        # Names run against the places: the highest slice is the last by place, the first by name.
        write_slice(folder / f"{slices - i:03}.dcm", hu, gap * i)
    return midsagittal.dicom_volume(folder)


def test_the_height_is_resampled_by_spacing_and_air_is_white(tmp_path):
    grey, x = midsagittal.picture(volume(tmp_path))
    assert x == 11
    assert grey.shape == (5 * 5, 16)  # 4 mm over 0.8 mm
    assert grey.dtype == np.uint8 and grey.min() > 0
    assert (grey[:, :2] == 255).all() and (grey[:, 14:] == 255).all()
    assert set(np.unique(grey[:, 3:7])) == {127}  # 50 HU: half of the window
    # The head is on top: there the bone is 150 HU, below it is above the window.
    assert grey[0, 9] == int((150 + 100) / 300 * 255) and grey[-1, 9] == 255


def test_the_window_s_ends_are_white_and_what_is_just_inside_is_not():
    hu = np.array([-2000, -100, -99.5, -98, 50, 199, 200, 3000], np.float32)
    assert midsagittal.l3_export(hu).tolist() == [255, 255, 255, 1, 127, 254, 255, 255]


def test_a_volume_with_a_slice_missing_is_refused(tmp_path):
    volume(tmp_path)
    (tmp_path / "003.dcm").unlink()
    with pytest.raises(ValueError, match="missing"):
        midsagittal.dicom_volume(tmp_path)


def test_training_uses_the_same_export():
    text = (ROOT / "engines" / "train" / "views.py").read_text()
    assert "from midsagittal import l3_export" in text and "def l3_export" not in text


@pytest.mark.skipif(not VOLUMES.is_dir(), reason="no data pack at SAM2D_SHARED")
def test_the_pack_s_volumes_become_pictures(tmp_path):
    folders = [path for path in sorted(VOLUMES.iterdir()) if any(path.glob("*.dcm"))]
    assert folders
    for folder in folders:
        real = midsagittal.dicom_volume(folder)
        grey, _ = midsagittal.picture(real)
        first = pydicom.dcmread(next(iter(sorted(folder.glob("*.dcm")))))
        assert grey.shape[1] == first.Rows
        assert abs(grey.shape[0] - len(real.hu) * real.slice_mm / real.row_mm) <= 0.5
        assert grey.min() > 0 and (grey == 255).mean() > 0.05
        Image.fromarray(grey).save(tmp_path / f"{folder.name}.png")
