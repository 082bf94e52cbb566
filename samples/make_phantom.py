"""Draws the sample pictures of this folder: no patient, no scanner, only ellipses with HU values.

    python samples/make_phantom.py            # writes beside itself

- phantom-axial.dcm   an axial CT slice of an abdomen, 16-bit, in Hounsfield units
- phantom-axial.png   the same through the window 40/400, 8-bit
- phantom-sagittal.png  a mid-sagittal lumbar spine as the L3 pictures come: window -100..200 HU,
  8-bit, and every 0 rewritten to 255, so that air is white

Everything is fixed: shapes, noise seed, identifiers. Two runs with the same numpy, scipy, Pillow and
pydicom write the same bytes. The anatomy is only as good as a click needs it to be.
"""

from __future__ import annotations

import argparse
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from scipy.ndimage import gaussian_filter

AIR, FAT, MUSCLE, MARROW, CORTEX, FLUID = -1000.0, -95.0, 55.0, 190.0, 480.0, 12.0
PIXEL_MM = 1.25
RESCALE_INTERCEPT = -1024
NOISE_SEED = 20240601


@dataclass(frozen=True)
class Shape:
    """A superellipse in pixels: centre, half axes, rotation in degrees, exponent (2 ellipse, 4 rounded box)."""

    hu: float
    cx: float
    cy: float
    rx: float
    ry: float
    turn: float = 0.0
    power: float = 2.0

    def mask(self, height: int, width: int) -> np.ndarray:
        """Where it lies, [height, width]."""
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        angle = np.deg2rad(self.turn)
        dx, dy = x - self.cx, y - self.cy
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / self.rx
        v = (dy * np.cos(angle) - dx * np.sin(angle)) / self.ry
        return np.abs(u) ** self.power + np.abs(v) ** self.power <= 1.0


AXIAL_SIZE = (320, 260)
AXIAL = (
    Shape(-300.0, 160, 236, 120, 4, 0, 4),  # table
    Shape(FAT, 160, 126, 140, 100, 0, 2.3),
    Shape(MUSCLE, 160, 126, 124, 84, 0, 2.3),  # muscle wall
    Shape(FAT, 160, 116, 112, 68, 0, 2.3),
    Shape(112.0, 100, 104, 50, 46, -25, 2.2),  # liver
    Shape(8.0, 131, 98, 11, 15, 15),  # gall bladder
    Shape(118.0, 244, 128, 19, 32, 20),  # spleen
    Shape(35.0, 205, 92, 33, 26, 25, 2.4),  # stomach
    Shape(-850.0, 205, 82, 17, 9, 8),
    Shape(175.0, 103, 156, 18, 24, -25),  # kidneys
    Shape(-40.0, 109, 156, 6, 9, -25),
    Shape(175.0, 219, 160, 18, 24, 25),
    Shape(-40.0, 213, 160, 6, 9, 25),
    Shape(62.0, 124, 179, 15, 19, 15),  # psoas
    Shape(62.0, 196, 179, 15, 19, -15),
    Shape(58.0, 132, 212, 25, 14, 12, 2.6),  # erector spinae
    Shape(58.0, 188, 212, 25, 14, -12, 2.6),
    Shape(170.0, 168, 140, 9.5, 9.5),  # aorta
    Shape(130.0, 143, 142, 11, 8),  # vena cava
    Shape(CORTEX, 160, 193, 34, 4, 0, 3),  # transverse processes
    Shape(CORTEX, 160, 212, 4, 14, 0, 3),  # spinous process
    Shape(CORTEX, 160, 167, 22.5, 17, 0, 2.3),  # vertebral body
    Shape(MARROW, 160, 167, 19.5, 14, 0, 2.3),
    Shape(25.0, 160, 190, 9, 7),  # canal
)

SAGITTAL_SIZE = (240, 300)


def sagittal_shapes() -> tuple[Shape, ...]:
    """Body, bowel, then vertebrae T12 to L5 down a lordotic curve, sacrum, canal and spinous processes."""
    shapes = [
        Shape(-60.0, 122, 150, 106, 190, 0, 4),  # fat, kept off the black that becomes white
        Shape(MUSCLE, 126, 150, 92, 190, 0, 4),
        Shape(20.0, 84, 150, 42, 175, 0, 4),  # bowel
        Shape(-70.0, 96, 60, 20, 26, 20),
        Shape(-70.0, 76, 200, 22, 34, -10),
        Shape(165.0, 128, 120, 6, 150, 3, 4),  # aorta
        Shape(FLUID, 186, 140, 6, 165, 0, 4),  # canal
    ]
    for index in range(6):
        cy = 38.0 + 44.0 * index
        lean = (index - 2.5) * 4.0
        cx = 158.0 - 7.0 * np.cos((index - 3) * 0.7)
        shapes.append(Shape(85.0, cx, cy + 22.0, 18.0, 6.0, lean, 3))  # disc below
        shapes.append(Shape(CORTEX, cx, cy, 20.0, 16.5, lean, 5))
        shapes.append(Shape(MARROW, cx, cy, 18.0, 14.5, lean, 5))
        shapes.append(Shape(CORTEX, 207.0, cy + 12.0, 11.0, 6.0, 20, 3))
    return tuple(shapes)


def paint(shapes: tuple[Shape, ...], size: tuple[int, int], noise_hu: float) -> np.ndarray:
    """Shapes over air, later ones on top, blurred as a reconstruction is; HU, f64, [height, width]."""
    width, height = size
    hu = np.full((height, width), AIR)
    for shape in shapes:
        hu[shape.mask(height, width)] = shape.hu
    hu = gaussian_filter(hu, 0.8)
    noise = gaussian_filter(np.random.default_rng(NOISE_SEED).normal(size=hu.shape), 0.7)
    return hu + noise / noise.std() * noise_hu


def window(hu: np.ndarray, low: float, high: float) -> np.ndarray:
    """HU to 8 bits, linear between `low` and `high`."""
    return np.clip(np.round((hu - low) / (high - low) * 255), 0, 255).astype(np.uint8)


def uid(name: str) -> str:
    """A fixed UID under the root for UUIDs."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'sam2d/samples/' + name).int}"


def dicom(hu: np.ndarray) -> FileDataset:
    """An axial CT slice, Explicit VR Little Endian, 12 bits in 16."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid("instance")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("implementation")
    data = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["DERIVED", "PRIMARY", "AXIAL"]
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID = "PHANTOM^SAM2D", "PHANTOM"
    for empty in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"):
        setattr(data, empty, "")
    data.Modality, data.Manufacturer = "CT", "sam2d"
    data.SeriesDescription = "Drawn phantom, not a patient"
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = uid("study"), uid("series"), uid("frame")
    data.PositionReferenceIndicator, data.SeriesNumber, data.AcquisitionNumber, data.InstanceNumber = "", 1, 1, 1
    data.KVP, data.SliceThickness = 120, 3
    height, width = hu.shape
    data.PixelSpacing = [PIXEL_MM, PIXEL_MM]
    data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    data.ImagePositionPatient = [-PIXEL_MM * (width - 1) / 2, -PIXEL_MM * (height - 1) / 2, 0]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = height, width
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = RESCALE_INTERCEPT, 1, "HU"
    data.WindowCenter, data.WindowWidth = 40, 400
    data.BurnedInAnnotation = "NO"
    data.PixelData = np.clip(np.round(hu) - RESCALE_INTERCEPT, 0, 4095).astype("<u2").tobytes()
    return data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    out = parser.parse_args().out
    axial = paint(AXIAL, AXIAL_SIZE, noise_hu=9.0)
    dicom(axial).save_as(out / "phantom-axial.dcm", enforce_file_format=True)
    Image.fromarray(window(axial, -160, 240)).save(out / "phantom-axial.png", optimize=True)
    sagittal = window(paint(sagittal_shapes(), SAGITTAL_SIZE, noise_hu=7.0), -100, 200)
    sagittal[sagittal == 0] = 255
    Image.fromarray(sagittal).save(out / "phantom-sagittal.png", optimize=True)


if __name__ == "__main__":
    main()
