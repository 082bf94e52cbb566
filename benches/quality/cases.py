"""What is measured: pictures with a truth and who they are of, from a data pack's manifest.

Each file becomes one `Picture` with its objects. `pixels` is the 8-bit picture an engine package
sees; `path` is the file a daemon is sent. Both see the same window: CT at `CT_WINDOW` unless the
picture comes in a context of its own (`image_type`).

`sagittal` makes L3 editor pictures (white air, height resampled) from a labelled volume: the
manifest has none with a truth.

Invariant: prompts come from the truth alone (inner-most pixel, tight box), never from the manifest,
so that every engine and every pack is asked the same way.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from metrics import Mask

CT_WINDOW = (40.0, 400.0)
"""Centre and width in HU: the usual abdomen."""

_KINDS = {"ct-slice", "ct-slice-png", "mr-slice", "mr-slice-png16", "natural"}
_GROUPS = ("vertebrae", "iliopsoas", "autochthon", "kidney", "hip", "gluteus", "tumour", "bone", "liver", "person")


@dataclass(frozen=True)
class Thing:
    """One object of a picture."""

    name: str
    origin: str
    mask: Mask = field(repr=False)

    @property
    def group(self) -> str:
        """The object's name without side, level or number."""
        return next((g for g in _GROUPS if self.name.startswith(g)), self.name.split("_0")[0])


@dataclass(frozen=True)
class Picture:
    """One picture and what is known to be on it."""

    name: str
    person: str
    modality: str
    path: Path | None
    """The file as sent to a daemon; None: `pixels` is sent as a PNG."""
    pixels: NDArray[np.uint8] = field(repr=False)
    things: tuple[Thing, ...] = field(repr=False)
    image_type: str = "auto"
    window: tuple[float, float] | None = None


def from_manifest(pack: Path, least_px: int = 16) -> Iterator[Picture]:
    """Every slice and photograph with a truth mask. Objects below `least_px` pixels are left out."""
    with (pack / "manifest.csv").open() as f:
        rows = [r for r in csv.DictReader(f) if r["truth_mask"] and r["kind"] in _KINDS]
    by_file: dict[str, list[dict[str, str]]] = {}
    for r in rows:
        by_file.setdefault(r["file"], []).append(r)
    for name, group in by_file.items():
        things = []
        for r in group:
            mask = cv2.imread(str(pack / r["truth_mask"]), cv2.IMREAD_GRAYSCALE) > 127
            if mask.sum() >= least_px:
                things.append(Thing(r["object"], r["truth_origin"].split(" (")[0], mask))
        ct = group[0]["modality"] == "CT" and name.endswith(".dcm")
        pixels = _read(pack / name, ct)
        sent = pack / name if pixels.dtype == np.uint8 and (ct or name.endswith((".png", ".jpg")) and group[0]["bits_stored"] != "16") else None
        yield Picture(name, group[0]["patient"], group[0]["modality"] or "?", sent, pixels, tuple(things), window=CT_WINDOW if ct else None)


def _read(path: Path, ct: bool) -> NDArray[np.uint8]:
    """The picture in 8 bits: CT by the window, other DICOM and 16-bit PNG from the 1st to the 99.5th percentile."""
    if path.suffix == ".dcm":
        import pydicom

        d = pydicom.dcmread(path)
        a = d.pixel_array.astype(np.float32) * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0))
        lo, hi = (CT_WINDOW[0] - CT_WINDOW[1] / 2, CT_WINDOW[0] + CT_WINDOW[1] / 2) if ct else np.percentile(a, [1, 99.5])
        return (np.clip((a - lo) / (hi - lo), 0, 1) * 255).astype(np.uint8)
    a = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if a.dtype == np.uint16:
        lo, hi = np.percentile(a, [1, 99.5])
        a = (np.clip((a.astype(np.float32) - lo) / (hi - lo), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(a[..., 2::-1]) if a.ndim == 3 else a


def sagittal(volume: Path, person: str, origin: str, offsets_mm: tuple[float, ...] = (-6, 0, 6), scale: int = 4) -> Iterator[Picture]:
    """L3 editor pictures of the lumbar column: sagittal, −100..200 HU, 0 rewritten to 255.

    `volume` holds `example_ct.nii.gz` and `example_seg/`. `scale` enlarges the grid (cubic for the
    picture, linear for the masks), as an editor's resampled export does.
    """
    import nibabel as nib
    from nibabel import orientations as o

    def load(path: Path) -> tuple[NDArray[np.float32], float]:
        img = nib.load(path)
        turn = o.ornt_transform(o.io_orientation(img.affine), o.axcodes2ornt(("L", "P", "S")))
        return o.apply_orientation(np.asanyarray(img.dataobj), turn).transpose(2, 1, 0).astype(np.float32), float(img.header.get_zooms()[0])

    hu, mm = load(volume / "example_ct.nii.gz")
    names = [f"vertebrae_{level}" for level in ("T12", "L1", "L2", "L3", "L4", "L5")]
    labels = {n: load(volume / "example_seg" / f"{n}.nii.gz")[0] for n in names}
    middle = np.argwhere(labels["vertebrae_L3"] > 0)[:, 2].mean()
    for offset in offsets_mm:
        x = int(round(middle + offset / mm))
        size = (hu.shape[1] * scale, hu.shape[0] * scale)
        big = cv2.resize(np.ascontiguousarray(hu[::-1, :, x]), size, interpolation=cv2.INTER_CUBIC)
        grey = (np.clip((big + 100) / 300, 0, 1) * 255).astype(np.uint8)
        things = []
        for n, a in labels.items():
            m = cv2.resize(np.ascontiguousarray(a[::-1, :, x]), size, interpolation=cv2.INTER_LINEAR) > 0.5
            count, parts, stats, _ = cv2.connectedComponentsWithStats(m.astype(np.uint8), connectivity=8)
            if count > 1 and stats[1:, 4].max() >= 400:
                things.append(Thing(n, origin, parts == 1 + int(stats[1:, 4].argmax())))
        yield Picture(f"sagittal {offset:+.0f} mm", person, "CT", None, np.where(grey == 0, np.uint8(255), grey), tuple(things), image_type="L3")
