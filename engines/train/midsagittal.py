"""Mid-sagittal pictures of CT volumes, as existing L3 editors keep them.

    python midsagittal.py OUT VOLUME… [--x COLUMN]

A VOLUME is a folder of axial DICOM slices, or a NIfTI file (or the folder it lies in); for each there is OUT/NAME.png, and, where
a folder `example_seg` with vertebrae_L3.nii.gz lies beside a NIfTI file, OUT/NAME.L3.png with its mask.

Invariants
1. Head on top, front of the body on the left, pixels as high as they are wide: the height is resampled
   by slice distance over pixel spacing, in Hounsfield units, before the window.
2. `l3_export` is exactly what existing editors write: −100..200 HU to 8 bits, then every 0 rewritten to
   255, so that air and dark fat are white and no pixel is black.

What it does not do: follow a bent column. One plane is cut: of those within a tenth of the body's width
from its middle, the one with most bone.
"""
from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

AIR_HU, BODY_HU, BONE_HU = -1024, -200, 200


@dataclass
class Volume:
    """HU [z,y,x]: z from the head down, y from the front back, x from the patient's right to left."""

    hu: NDArray[np.float32]
    slice_mm: float
    row_mm: float


def l3_export(hu: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An L3 picture as existing editors keep it: −100..200 HU to 0..255, then 0 becomes 255."""
    g = (np.clip((hu + 100) / 300, 0, 1) * 255).astype(np.uint8)
    return np.where(g == 0, np.uint8(255), g)


def dicom_volume(folder: Path) -> Volume:
    """The axial slices of one folder, sorted by their place in the patient, not by name."""
    import pydicom

    slices = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    slices = [s for s in slices if "PixelData" in s and "ImagePositionPatient" in s]
    if len(slices) < 2:
        raise ValueError(f"{folder}: fewer than two slices with a place in the patient")
    if any(np.abs(np.array(s.ImageOrientationPatient, float) - [1, 0, 0, 0, 1, 0]).max() > 0.1 for s in slices):
        raise ValueError(f"{folder}: not axial slices of a patient who lies straight")
    slices.sort(key=lambda s: -float(s.ImagePositionPatient[2]))
    z = np.array([float(s.ImagePositionPatient[2]) for s in slices])
    gaps = -np.diff(z)
    if gaps.min() <= 0 or gaps.max() > 1.5 * np.median(gaps):
        raise ValueError(f"{folder}: slices are missing, or there twice")
    hu = [s.pixel_array.astype(np.float32) * float(s.get("RescaleSlope", 1)) + float(s.get("RescaleIntercept", 0)) for s in slices]
    return Volume(np.stack(hu), float(np.median(gaps)), float(slices[0].PixelSpacing[0]))


def nifti_volume(path: Path, kind: type = np.float32) -> Volume:
    """A NIfTI file, turned to the same axes."""
    import nibabel as nib
    from nibabel import orientations as o

    image = nib.load(path)
    turn = o.ornt_transform(o.io_orientation(image.affine), o.axcodes2ornt(("L", "P", "I")))
    turned = image.as_reoriented(turn)
    x_mm, y_mm, z_mm = turned.header.get_zooms()[:3]
    hu = np.ascontiguousarray(np.asanyarray(turned.dataobj).transpose(2, 1, 0)).astype(kind)
    return Volume(hu, float(z_mm), float(y_mm))


def middle(hu: NDArray[np.float32]) -> int:
    """The column of the plane to cut."""
    columns = np.nonzero((hu > BODY_HU).sum((0, 1)) > 0)[0]
    if not len(columns):
        return hu.shape[2] // 2
    low, high = int(columns[0]), int(columns[-1])
    centre, reach = (low + high) // 2, max(1, (high - low) // 10)
    near = range(max(0, centre - reach), min(hu.shape[2], centre + reach + 1))
    # Of equals the one nearest to the middle: where there is no bone, the middle itself.
    return max(near, key=lambda x: (int((hu[:, :, x] > BONE_HU).sum()), -abs(x - centre)))


def stretched(plane: NDArray, slice_mm: float, row_mm: float, how: Image.Resampling) -> NDArray:
    """A plane [z,y] with pixels as high as they are wide."""
    height = max(1, round(plane.shape[0] * slice_mm / row_mm))
    return np.asarray(Image.fromarray(plane).resize((plane.shape[1], height), how))


def picture(volume: Volume, x: int | None = None) -> tuple[NDArray[np.uint8], int]:
    """The mid-sagittal picture and the column it was cut at."""
    x = middle(volume.hu) if x is None else x
    plane = np.ascontiguousarray(volume.hu[:, :, x], dtype=np.float32)
    return l3_export(stretched(plane, volume.slice_mm, volume.row_mm, Image.Resampling.BILINEAR)), x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("volumes", type=Path, nargs="+")
    parser.add_argument("--x", type=int, help="cut this column of pixels")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.volumes:
        name = path.name.removesuffix(".gz").removesuffix(".nii")
        if path.is_dir() and not any(path.glob("*.dcm")):
            path = next(iter(sorted(path.glob("*.nii.gz"))), path)
        volume = dicom_volume(path) if path.is_dir() else nifti_volume(path)
        grey, x = picture(volume, arguments.x)
        Image.fromarray(grey).save(arguments.out / f"{name}.png")
        truth = path.parent / "example_seg" / "vertebrae_L3.nii.gz"
        if not path.is_dir() and truth.exists():
            label = nifti_volume(truth, np.uint8).hu[:, :, x]
            mask = stretched(np.ascontiguousarray((label > 0).astype(np.uint8) * 255), volume.slice_mm, volume.row_mm, Image.Resampling.NEAREST)
            Image.fromarray(mask).save(arguments.out / f"{name}.L3.png")
        print(f"{name}: {grey.shape[1]}×{grey.shape[0]} pixels of {volume.row_mm:g} mm, column {x}")


if __name__ == "__main__":
    main()
