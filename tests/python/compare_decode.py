"""Holds `slices` (cargo example) against pydicom and Pillow on real files.

    compare_decode.py SLICES_BINARY [--counts SECTION] [FOLDER_OR_FILE…]

Without folders: the DICOM files inside the pydicom wheel. Stored values must be identical for
lossless files and within 2 levels for lossy ones; rendering within 1 level of what pydicom makes of
the same values. A file that pydicom can't decode is only listed. Exit status 1 if anything differs.

With `--counts`, the DICOM files are counted by class and syntax, and the counts must be those that stand
under that heading in docs/dicom-files.md; with SAM2D_BLESS set they are written there.
"""

import collections
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image, ImageOps
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.pixels.processing import convert_color_space

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
Image.MAX_IMAGE_PIXELS = None

LOSSY = {
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.53",
    "1.2.840.10008.1.2.4.55",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.203",
}


def files_of(arguments):
    if not arguments:
        arguments = [Path(pydicom.__file__).parent / "data" / "test_files"]
    for argument in map(Path, arguments):
        if argument.is_file():
            yield argument
        else:
            yield from sorted(p for p in argument.rglob("*") if p.is_file())


def is_dicom(path):
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def frames_of(path):
    """Frames to ask for: first, middle and last."""
    if not is_dicom(path):
        return [None]
    try:
        count = int(pydicom.dcmread(path, stop_before_pixels=True).get("NumberOfFrames") or 1)
    except Exception:
        return [None]
    return [None] if count <= 1 else sorted({0, count // 2, count - 1})


def window_levels(values, center, width, function):
    """PS3.3 C.11.2.1.2, as published."""
    if function == "SIGMOID":
        return 255 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR_EXACT":
        return np.clip(((values - center) / width + 0.5) * 255, 0, 255)
    low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    ramp = ((values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5) * 255
    return np.where(values <= low, 0, np.where(values > high, 255, np.clip(ramp, 0, 255)))


def first(value):
    value = value[0] if isinstance(value, pydicom.multival.MultiValue) else value
    return None if value in (None, "") else float(value)


def group(dataset, frame, name):
    """The item of a functional group for a frame, or the data set itself."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        sequence = dataset.get(groups) or []
        if index < len(sequence) and sequence[index].get(name):
            return sequence[index][name][0]
    return dataset


def reference(path, frame):
    """(kind, values, levels of values) as pydicom makes them."""
    dataset = pydicom.dcmread(path)
    index = frame or 0
    photometric = dataset.PhotometricInterpretation
    stored = pixel_array(dataset, index=index, raw=True)
    if dataset.get("SamplesPerPixel", 1) == 3:
        stored = pixel_array(dataset, index=index)
        bits = dataset.BitsStored
        return "rgb8", stored, stored.astype(np.float64) * 255 / (2.0**bits - 1)
    if photometric == "PALETTE COLOR":
        rgb = apply_color_lut(stored, dataset)
        return "rgb8", rgb, rgb.astype(np.float64) / (257 if rgb.dtype == np.uint16 else 1)
    transformation = group(dataset, index, "PixelValueTransformationSequence")
    if dataset.get("ModalityLUTSequence"):
        values = apply_modality_lut(stored, dataset).astype(np.float64)
    else:
        slope = first(transformation.get("RescaleSlope")) or 1.0
        values = stored.astype(np.float64) * slope + (first(transformation.get("RescaleIntercept")) or 0.0)
    voi = group(dataset, index, "FrameVOILUTSequence")
    center, width = first(voi.get("WindowCenter")), first(voi.get("WindowWidth"))
    kept = np.ones(stored.shape, bool)
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        limit = dataset.get("PixelPaddingRangeLimit", padding)
        kept = (stored < min(padding, limit)) | (stored > max(padding, limit))

    def render(values):
        if center is not None and width is not None and width >= 1:
            levels = window_levels(values, center, width, voi.get("VOILUTFunction", "LINEAR"))
        elif dataset.get("VOILUTSequence"):
            table = dataset.VOILUTSequence[0]
            levels = apply_voi_lut(np.round(values).astype(np.int64), dataset).astype(np.float64)
            levels *= 255 / (2.0 ** int(table.LUTDescriptor[2]) - 1)
        else:
            # Nothing but padding, or one value: black whatever the polarity.
            low, high = (values[kept].min(), values[kept].max()) if kept.any() else (0, 0)
            if high <= low:
                return values * 0
            levels = np.clip((values - low) / (high - low) * 255, 0, 255)
        return 255 - levels if photometric == "MONOCHROME1" else levels

    return "modality", values, render


def picture(path):
    """(kind, values, levels) as Pillow makes them, alpha flattened on black."""
    image = ImageOps.exif_transpose(Image.open(path))
    header = path.read_bytes()[:26]
    depth, colour = (header[24], header[25]) if image.format == "PNG" or header[1:4] == b"PNG" else (8, None)
    grey = image.mode in ("1", "L", "LA")
    if image.mode in ("I;16", "I;16B", "I") or (grey and colour == 0):
        # One grey value means transparent; Pillow compares it before it scales 1, 2 and 4 bits to 8.
        values = np.asarray(image.convert("L") if grey else image).astype(np.float64)
        scale = 255 // (2**depth - 1) if depth < 8 else 1
        if isinstance(image.info.get("transparency"), int):
            values[values == image.info["transparency"] * scale] = 0
        if grey:
            return "grey8", values, values
        return "modality", values, lambda v: (v - v.min()) / max(v.max() - v.min(), 1e-9) * 255
    if colour == 4 and depth == 16:
        # Pillow keeps the high bytes only.
        rgba = np.asarray(image.convert("RGBA")).astype(np.float64)
        return "high bytes", rgba[..., 0] * rgba[..., 3] / 255, None
    if image.mode in ("LA", "RGBA", "PA", "P") or "transparency" in image.info:
        alpha = image.convert("RGBA")
        image = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image.alpha_composite(alpha)
    values = np.asarray(image.convert("L" if grey else "RGB"))
    return ("grey8" if grey else "rgb8"), values, values.astype(np.float64)


def compare(path, frame, answer, base):
    """(verdict, text)"""
    try:
        kind, values, levels = reference(path, frame) if is_dicom(path) else picture(path)
    except Exception as error:
        return ("extra" if answer["code"] == "ok" else "both"), f"{answer['code']}: reference: {str(error)[:60]!r}"
    if answer["code"] != "ok":
        return "refused", f"{answer['code']}: {answer['error']}"
    size = (answer["height"], answer["width"])
    if kind == "high bytes":
        got = np.frombuffer(base.with_suffix(".raw").read_bytes(), np.float32)
        worst = np.abs(np.floor(got / 256) - values.ravel()).max()
        return ("right" if worst <= 2 else "WRONG"), f"high bytes ±{worst:.2f}"
    if answer["kind"] != kind and not (kind == "rgb8" and answer["kind"] == "grey8"):
        return "WRONG", f"kind {answer['kind']}, expected {kind}"
    if values.shape[:2] != size:
        return "WRONG", f"size {size}, expected {values.shape[:2]}"
    got_levels = np.frombuffer((base.with_suffix(".levels")).read_bytes(), np.uint8).astype(np.float64)
    if kind == "rgb8" and answer["kind"] == "grey8":
        got_levels = np.repeat(got_levels, 3)
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    if is_dicom(path):
        lossy = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID in LOSSY
    worst_value = 0.0
    if kind == "modality":
        got = np.frombuffer((base.with_suffix(".raw")).read_bytes(), np.float32).astype(np.float64)
        # Of lossy files the rendering is judged on our own values: a narrow window magnifies.
        # Of the others, on the values as f32, which modality values are.
        levels = levels(got.reshape(values.shape) if lossy else values.astype(np.float32).astype(np.float64))
        worst_value = np.abs(got - values.astype(np.float32).astype(np.float64).ravel()).max()
    worst_level = np.abs(got_levels - levels.ravel()).max()
    slope = 1.0
    if is_dicom(path) and kind == "modality":
        slope = abs(first(pydicom.dcmread(path, stop_before_pixels=True).get("RescaleSlope")) or 1.0)
    good = worst_value <= (2 * slope * 1.0001 if lossy else 0) and worst_level <= (2.01 if lossy else 1.01)
    text = f"values ±{worst_value:g} levels ±{worst_level:.2f} {'lossy' if lossy else ''}"
    return ("right" if good else "WRONG"), text


DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dicom-files.md"
#: Of a file's frames the worst counts.
WORDS = {"WRONG": "WRONG", "extra": "decoded, pydicom can't", "refused": "refused", "both": "refused, pydicom too", "right": "right"}


def class_of(path):
    """(syntax, kind of pixels), as the header says."""
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True)
        named = "TransferSyntaxUID" in data.file_meta
        syntax = data.file_meta.TransferSyntaxUID.name if named else "none named"
        if syntax.startswith("1."):
            # Younger than pydicom's dictionary.
            syntax = {"1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression"}.get(syntax, syntax)
        if "PhotometricInterpretation" not in data:
            return syntax, "no pixels"
        sign = ", signed" if data.get("PixelRepresentation") and data.get("SamplesPerPixel", 1) == 1 else ""
        return syntax, f"{data.PhotometricInterpretation}, {data.BitsStored} of {data.BitsAllocated} bits{sign}"
    except Exception:
        return "unreadable", "no header that pydicom reads"


def counted(verdicts):
    """The table of one collection: verdicts is a list of (path, verdict, our words where refused)."""
    worst = {}
    for path, verdict, refusal in verdicts:
        if is_dicom(path):
            order = list(WORDS).index(verdict)
            worst[path] = min(worst.get(path, (len(WORDS), "")), (order, refusal))
    rows = collections.defaultdict(collections.Counter)
    for path, (order, refusal) in worst.items():
        word = WORDS[list(WORDS)[order]]
        rows[class_of(path)][f"{word}: “{refusal}”" if refusal else word] += 1
    lines = ["| transfer syntax | pixels | files |", "|---|---|---|"]
    for (syntax, kind), words in sorted(rows.items()):
        lines.append(f"| {syntax} | {kind} | {'; '.join(f'{n} {word}' for word, n in sorted(words.items()))} |")
    total = collections.Counter(list(WORDS)[order] for order, _ in worst.values())
    sums = ", ".join(f"{total[verdict]} {word}" for verdict, word in reversed(WORDS.items()) if total[verdict])
    return "\n".join(lines) + f"\n\n{len(worst)} files: {sums}.\n"


def held(section, table):
    """Is the document's section this table? Written there when SAM2D_BLESS is set."""
    head, *sections = re.split(r"^## ", DOCUMENT.read_text(), flags=re.M)
    found = {s.splitlines()[0]: s for s in sections}
    new = f"{section}\n\n{table}"
    if "SAM2D_BLESS" in os.environ:
        found[section] = new
        text = head + "\n".join("## " + found[name].rstrip() + "\n" for name in sorted(found))
        DOCUMENT.write_text(text)
        return True
    same = found.get(section, "").rstrip() == new.rstrip()
    print(f"docs/dicom-files.md, {section}: {'as counted' if same else 'NOT as counted; SAM2D_BLESS=1 writes it'}")
    if not same:
        print(new)
    return same


def main():
    binary, *arguments = sys.argv[1:]
    section = None
    if arguments[:1] == ["--counts"]:
        section, arguments = arguments[1], arguments[2:]
    jobs = [(p, f) for p in files_of(arguments) for f in frames_of(p)]
    counts, verdicts = {}, []
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, folder] + [str(p) if f is None else f"{p}#{f}" for p, f in jobs]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        assert len(lines) == len(jobs), (len(lines), len(jobs))
        for index, ((path, frame), line) in enumerate(zip(jobs, lines)):
            verdict, text = compare(path, frame, json.loads(line), Path(folder) / str(index))
            counts[verdict] = counts.get(verdict, 0) + 1
            verdicts.append((path, verdict, json.loads(line).get("error", "")))
            print(f"{verdict}\t{path.name}{'' if frame is None else f'#{frame}'}\t{text}")
    print("total", counts)
    as_written = section is None or held(section, counted(verdicts))
    return 0 if as_written and not counts.get("WRONG") else 1


if __name__ == "__main__":
    sys.exit(main())
