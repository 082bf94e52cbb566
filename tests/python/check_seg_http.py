"""DICOM Segmentations from a running daemon, held against pydicom, highdicom and dciodvfy.

    check_seg_http.py SAM2D_BINARY

The sources are made of samples/phantom-axial.dcm: as it is, MONOCHROME1, three frames with a place each, and
nothing but air, whose mask is empty. For each the Segmentation (`Accept: application/dicom`) must hold the mask that
the same request gets as PNG, be right by check_seg.py's measures, and name no error to dciodvfy.

Two files with equal pixels and different people are sent together and one after the other, to a cache that
knows the pixels: each Segmentation is its own file's, and no file below the daemon's folders holds a name or UID of
either. Exit status 1 if anything differs; the last line counts.
"""

import copy
import io
import sys
import tempfile
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid

import check_seg
from daemon import Daemon

ROOT = Path(__file__).resolve().parents[2]

CLICK = b'[{"x":160,"y":167,"label":1}]'


def sources():
    """(name, data set, frame or None, prompted)."""
    plain = pydicom.dcmread(ROOT / "samples" / "phantom-axial.dcm")
    yield "plain", plain, None, True
    inverted = copy.deepcopy(plain)
    inverted.PhotometricInterpretation, inverted.SOPInstanceUID = "MONOCHROME1", generate_uid()
    yield "MONOCHROME1", inverted, None, True
    yield "three frames", enhanced(plain), 1, True
    air = copy.deepcopy(plain)
    air.PixelData, air.SOPInstanceUID = bytes(len(plain.PixelData)), generate_uid()
    yield "empty mask", air, None, False


def enhanced(plain):
    """Three frames, 5 mm apart, in functional groups."""
    d = copy.deepcopy(plain)
    d.SOPClassUID, d.SOPInstanceUID, d.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.2.1", generate_uid(), 3
    d.PixelData = plain.PixelData * 3

    def group(keyword, **values):
        item = Dataset()
        for name, value in values.items():
            setattr(item, name, value)
        return keyword, Sequence([item])

    shared, frames = Dataset(), []
    for keyword, items in [
        group("PixelMeasuresSequence", PixelSpacing=[0.8, 0.8], SliceThickness=5),
        group("PlaneOrientationSequence", ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    ]:
        setattr(shared, keyword, items)
    for z in (0, 5, 10):
        frame = Dataset()
        frame.PlanePositionSequence = group("", ImagePositionPatient=[-100, -80, z])[1]
        frames.append(frame)
    d.SharedFunctionalGroupsSequence, d.PerFrameFunctionalGroupsSequence = Sequence([shared]), Sequence(frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        if keyword in d:
            delattr(d, keyword)
    return d


def file_of(dataset):
    out = io.BytesIO()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def ask(address, accept, file, frame, prompted):
    """(media type, body) of one request as a form."""
    boundary = uuid.uuid4().hex
    parts = [("image_type", b"auto")] + [("click_points", CLICK)] * prompted
    parts += [("frame", str(frame).encode())] if frame is not None else []
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n" for name, value in parts
    )
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="x.dcm"\r\n\r\n'.encode()
    body += head + file + f"\r\n--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}", "Accept": accept}
    url = "http://{}:{}/api/segmentation/sam2".format(*address)
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as answer:
        return answer.headers.get_content_type(), answer.read()


def one_source(address, folder, name, source, frame, prompted):
    """What is wrong with the Segmentation of one source, in words."""
    file = file_of(source)
    written, mask = folder / "seg.dcm", folder / "mask.png"
    kind, body = ask(address, "application/dicom", file, frame, prompted)
    if kind != "application/dicom":
        yield f"it is {kind}"
        return
    written.write_bytes(body)
    mask.write_bytes(ask(address, "image/png", file, frame, prompted)[1])
    marked = int((np.asarray(Image.open(mask)) > 0).sum())
    if (marked > 0) != prompted:
        yield f"its mask has {marked} pixels"
    source = pydicom.dcmread(io.BytesIO(file))
    yield from check_seg.differences(source, frame, written, mask)
    own = [check_seg.raw(source, keyword).decode("latin-1") for keyword in check_seg.SAME]
    yield from check_seg.complaints(written, [value for value in own if len(value) > 3])
    if frame is not None:
        groups = pydicom.dcmread(written).PerFrameFunctionalGroupsSequence[0]
        if list(groups.PlanePositionSequence[0].ImagePositionPatient) != [-100, -80, 5 * frame]:
            yield "it lies where another frame lies"


def two_people():
    plain = pydicom.dcmread(ROOT / "samples" / "phantom-axial.dcm")
    for name in ("Kanarienvogel^Anna", "Wellensittich^Bea"):
        d = copy.deepcopy(plain)
        d.PatientName = d.PatientID = name
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
            setattr(d, keyword, generate_uid())
        yield d


def identity(dataset):
    return [str(dataset[keyword].value) for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID")]


def mixed_up(address, people):
    """Segmentations that are another person's, in words."""
    files = [file_of(person) for person in people]

    def whose(index):
        body = ask(address, "application/dicom", files[index], None, True)[1]
        answer = pydicom.dcmread(io.BytesIO(body))
        referenced = answer.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
        return identity(answer) + [str(referenced)]

    wanted = [identity(person) + [str(person.SOPInstanceUID)] for person in people]
    with ThreadPoolExecutor(2) as both:
        for turn in range(5):
            for index, found in enumerate(both.map(whose, (0, 1))):
                if found != wanted[index]:
                    yield f"sent together, turn {turn}: the Segmentation is not file {index}'s"
    for index in (0, 1, 0):
        if whose(index) != wanted[index]:
            yield f"sent one after the other: the Segmentation is not file {index}'s"


def holding(folder, words):
    """Files below a folder that hold one of the words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not any("cache" in path.parts for path in files):
        yield "there is no cache to search"
    for path in files:
        content = path.read_bytes()
        if any(word.encode() in content for word in words):
            yield f"{path.relative_to(folder)} holds a name or UID"


def main():
    daemon = Daemon(sys.argv[1])
    right = wrong = 0
    people = list(two_people())
    with tempfile.TemporaryDirectory() as folder:
        checks = [(name, list(one_source(daemon.address, Path(folder), name, source, frame, prompted))) for name, source, frame, prompted in sources()]
    checks.append(("two people", list(mixed_up(daemon.address, people))))
    # What waits for the disk is there once the daemon has ended.
    daemon.process.terminate()
    daemon.process.wait(timeout=30)
    words = [word for person in people for word in [*identity(person), str(person.SOPInstanceUID), str(person.SeriesInstanceUID)]]
    checks.append(("what is kept", list(holding(daemon.root, words))))
    for name, complaints in checks:
        right, wrong = right + (not complaints), wrong + bool(complaints)
        for line in complaints:
            print(f"WRONG     {name}: {line}")
    print(f"over HTTP: {right} right, {wrong} wrong ({', '.join(name for name, _ in checks)})")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
