"""Holds DICOM Segmentations (`segmentation` of the cargo example `masks`) against pydicom, highdicom and dciodvfy.

    check_seg.py MASKS_BINARY [FOLDER_OR_FILE…]

Without folders: the DICOM files inside the pydicom wheel. For every image of at least 8×8 pixels
whose frame has what a Segmentation must refer to, one with a mask and one with an empty mask:

- highdicom reads it and finds the mask again by the source's instance and frame;
- pydicom finds patient, study and frame of reference as they are in the source, byte for byte, new
  UIDs for series and instance, and the notice;
- dciodvfy (Debian package dicom3tools) names no error, except for a value that is the source's own,
  and for the frame number where the source has several frames although its SOP class has but one.

Exit status 1 if anything differs; the last line counts.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from PIL import Image

warnings.simplefilter("ignore")

SAME = """PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime StudyID
AccessionNumber ReferringPhysicianName FrameOfReferenceUID SpecificCharacterSet""".split()
NOTICE = "Not for diagnostic use"


def files_of(arguments):
    if not arguments:
        arguments = [Path(pydicom.__file__).parent / "data" / "test_files"]
    for argument in map(Path, arguments):
        yield from [argument] if argument.is_file() else sorted(p for p in argument.rglob("*") if p.is_file())


def sources(arguments):
    """(path, frame or None, data set) of every image file."""
    for path in files_of(arguments):
        try:
            dataset = pydicom.dcmread(path)
        except Exception:
            continue
        if min(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0)) < 8:
            continue
        try:
            frames = int(dataset.get("NumberOfFrames") or 1)
        except ValueError:
            continue
        yield path, None if frames == 1 else frames // 2, dataset


def raw(dataset, keyword):
    """A value's bytes as they stand in the file, without padding."""
    element = dataset.get_item(keyword)
    if element is None:
        return b""
    value = element.value
    if not isinstance(value, bytes):
        value = getattr(value, "original_string", None) or str(value)
        value = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
    return value.rstrip(b" \0")


def differences(source, frame, written, mask):
    """What is wrong with one Segmentation, in words."""
    segmentation = highdicom.seg.segread(written)
    wanted = np.asarray(Image.open(mask)) > 0
    if frame is None:
        pixels = segmentation.get_pixels_by_source_instance(
            [source.SOPInstanceUID], ignore_spatial_locations=True, assert_missing_frames_are_empty=True
        )
    else:
        pixels = segmentation.get_pixels_by_source_frame(
            source.SOPInstanceUID,
            [frame + 1],
            ignore_spatial_locations=True,
            assert_missing_frames_are_empty=True,
        )
    if not np.array_equal(np.asarray(pixels)[0, :, :, 0] > 0, wanted):
        yield "highdicom finds another mask"
    dataset = pydicom.dcmread(written)
    if not np.array_equal(dataset.pixel_array > 0, wanted):
        yield "pydicom finds another mask"
    kept = pydicom.dcmread(written)
    for keyword in SAME:
        mine, theirs = raw(kept, keyword), raw(source, keyword)
        if mine != theirs and not (keyword == "SpecificCharacterSet" and not theirs):
            valid = keyword not in ("StudyDate", "StudyTime", "PatientBirthDate", "PatientSex") or re.fullmatch(
                rb"[0-9]{8}|[0-9]{2,6}(\.[0-9]{1,6})?|[A-Z]", theirs
            )
            if valid:
                yield f"{keyword} is not the source's"
    for keyword in ("SeriesInstanceUID", "SOPInstanceUID"):
        if dataset[keyword].value == source[keyword].value:
            yield f"{keyword} is not new"
    for keyword in ("SeriesDescription", "ContentDescription"):
        if NOTICE not in dataset[keyword].value:
            yield f"{keyword} lacks the notice"


def complaints(written, source_values):
    """dciodvfy's errors, but for those about a value that is the source's own."""
    result = subprocess.run(["dciodvfy", "-new", str(written)], capture_output=True, text=True, errors="replace")
    for line in (result.stdout + result.stderr).splitlines():
        own = any(value in line for value in source_values)
        several = "ReferencedFrameNumber" in line and "Shall not be present for Referenced SOP Class" in line
        if line.startswith("Error") and not own and not several:
            yield line


def main():
    binary, *arguments = sys.argv[1:]
    if shutil.which("dciodvfy") is None:
        sys.exit("dciodvfy is not installed: apt-get install dicom3tools")
    good = refused = bad = 0
    with tempfile.TemporaryDirectory() as folder:
        written, mask = Path(folder) / "seg.dcm", Path(folder) / "mask.png"
        for path, frame, source in sources(arguments):
            own = [raw(source, keyword).decode("latin-1") for keyword in SAME]
            own = [value for value in own if len(value) > 3]
            for kind in ([], ["empty"]):
                command = [binary, "segmentation", str(path), "-" if frame is None else str(frame), str(written), str(mask), *kind]
                result = subprocess.run(command, capture_output=True, text=True)
                if result.returncode != 0:
                    refused += 1
                    print(f"refused   {path.name} {result.stderr.strip().splitlines()[0]}")
                    break
                wrong = [*differences(source, frame, written, mask), *complaints(written, own)]
                good, bad = good + (not wrong), bad + bool(wrong)
                for line in wrong:
                    print(f"WRONG     {path.name} frame {frame} {' '.join(kind)}: {line}")
    print(f"{good} Segmentations right, {bad} wrong; {refused} files refused by name")
    sys.exit(1 if bad or not good else 0)


if __name__ == "__main__":
    main()
