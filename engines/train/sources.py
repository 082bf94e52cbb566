"""What may be trained on: reads the data pack through the split, and keeps it in one cache file.

    python sources.py PACK CACHE [--split split.toml]

Invariants
1. A manifest row is read only if its person is under `[train]` and its licence begins like one of
   `[licences]` and contains none of `[refused]` (`Split.permits`). Everything else raises.
2. Hounsfield units are stored; windows are applied later, so that each view chooses its own.
3. The cache is ours alone (a pickle): never load one that came from elsewhere.

What it does not do: no augmentation (`views.py`), no prompts.
"""
from __future__ import annotations

import argparse
import csv
import pickle
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from phantom import axial
from phantom_sagittal import sagittal

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Split:
    """`split.toml`, read once."""

    train: frozenset[str]
    validation: frozenset[str]
    photographs: tuple[str, ...]
    licences: tuple[str, ...]
    refused: tuple[str, ...]
    phantom_train: dict[str, tuple[int, int]]
    phantom_validation: dict[str, tuple[int, int]]

    @staticmethod
    def read(path: Path = HERE / "split.toml") -> Split:
        t = tomllib.loads(path.read_text())
        train, validation = frozenset(t["train"]["people"]), frozenset(t["validation"]["people"])
        if both := train & validation:
            raise ValueError(f"{path}: in training and validation at once: {sorted(both)}")
        seeds = [{k: (v[0], v[1]) for k, v in t[part]["phantom_seeds"].items()} for part in ("train", "validation")]
        return Split(train, validation, tuple(t["train"]["photographs"]), tuple(t["licences"]), tuple(t["refused"]["containing"]), *seeds)

    def permits(self, row: dict[str, str]) -> bool:
        """Whether this manifest row may be trained on."""
        licence = row["licence"]
        allowed = any(licence.startswith(p) for p in self.licences) and not any(r in licence for r in self.refused)
        return allowed and (row["patient"] in self.train or row["file"] in self.photographs)


@dataclass
class Labelled:
    """One slice of a permitted person. `image` is HU for CT, raw intensities for MR."""

    modality: str
    image: NDArray[np.float32]
    ids: NDArray[np.uint8]
    names: dict[int, str]
    person: str


@dataclass
class Cache:
    """Everything training reads."""

    hu: NDArray[np.float32]  # [z,y,x], feet to head, front to back, right to left of the patient
    ids: NDArray[np.uint8]
    names: dict[int, str]
    slices: list[Labelled]
    phantoms: list[tuple[str, NDArray[np.float16], NDArray[np.uint8], dict[int, str]]]  # (plane, HU, objects, kinds)
    photographs: list[NDArray[np.uint8]] = field(default_factory=list)

    @staticmethod
    def load(path: Path) -> Cache:
        with path.open("rb") as f:
            data = pickle.load(f)  # noqa: S301 (written by `main` below)
        return Cache(**{**data, "slices": [Labelled(**s) for s in data["slices"]]})


def dicom_hu(path: Path) -> NDArray[np.float32]:
    """Modality values of a DICOM slice, after rescale."""
    import pydicom

    d = pydicom.dcmread(path)
    return d.pixel_array.astype(np.float32) * float(d.get("RescaleSlope", 1)) + float(d.get("RescaleIntercept", 0))


def _nifti(path: Path) -> NDArray[np.float64]:
    """[z,y,x], reoriented to left-posterior-superior."""
    import nibabel as nib
    from nibabel import orientations as o

    img = nib.load(path)
    turn = o.ornt_transform(o.io_orientation(img.affine), o.axcodes2ornt(("L", "P", "S")))
    return np.ascontiguousarray(o.apply_orientation(np.asanyarray(img.dataobj), turn).transpose(2, 1, 0))


def abdomen(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8], dict[int, str]]:
    """The labelled CT and its organ masks as one label map; organs of 20 voxels or fewer are left out."""
    hu = _nifti(folder / "example_ct.nii.gz").astype(np.float32)
    ids, names = np.zeros(hu.shape, np.uint8), {}
    for f in sorted((folder / "example_seg").glob("*.nii.gz")):
        m = _nifti(f) > 0
        if m.sum() > 20 and m.shape == hu.shape:
            names[len(names) + 1] = f.name.removesuffix(".nii.gz")
            ids[m & (ids == 0)] = len(names)
    return hu, ids, names


def labelled_slices(pack: Path, rows: list[dict[str, str]], split: Split) -> list[Labelled]:
    """Every permitted sarcoma slice with a mask, and the permitted whole series of that collection."""
    by_file: dict[str, list[dict[str, str]]] = {}
    for r in rows:
        if r["file"].startswith(("ct-slices/STS", "mr-slices/STS")) and split.permits(r):
            by_file.setdefault(r["file"], []).append(r)
    out = []
    for name, group in sorted(by_file.items()):
        image = dicom_hu(pack / name)
        ids, names = np.zeros(image.shape, np.uint8), {}
        for r in group:
            if r["truth_mask"]:
                names[len(names) + 1] = r["object"]
                ids[cv2.imread(str(pack / r["truth_mask"]), cv2.IMREAD_GRAYSCALE) > 127] = len(names)
        out.append(Labelled("mr" if name.startswith("mr") else "ct", image, ids, names, group[0]["patient"]))
    for r in rows:
        if r["kind"] == "volume-slice" and r["patient"].startswith("STS") and split.permits(r):
            f = pack / r["file"]
            label = f.parent / "labels" / f"{f.stem}.png"
            ids = cv2.imread(str(label), cv2.IMREAD_GRAYSCALE) if label.exists() else None
            image = dicom_hu(f)
            found = ids is not None and bool(ids.any())
            out.append(Labelled("ct", image, (ids > 0).astype(np.uint8) if found else np.zeros(image.shape, np.uint8), {1: "tumour_GTV"} if found else {}, r["patient"]))
    return out


def photographs(pack: Path, split: Split) -> list[NDArray[np.uint8]]:
    """Permitted photographs and scikit-image's packaged samples, short side 420."""
    import skimage.data as samples

    images = []
    for name in ("astronaut", "coffee", "chelsea", "rocket", "camera", "coins"):
        try:
            a = getattr(samples, name)()
        except Exception as e:  # a sample that this version would have to download
            print(f"left out {name}: {type(e).__name__}")
            continue
        images.append(np.repeat(a[..., None], 3, -1) if a.ndim == 2 else a[..., :3])
    images += [cv2.imread(str(pack / f))[..., ::-1] for f in split.photographs]
    return [cv2.resize(np.ascontiguousarray(a, np.uint8), None, fx=420 / min(a.shape[:2]), fy=420 / min(a.shape[:2]), interpolation=cv2.INTER_AREA) for a in images]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ap.add_argument("pack", type=Path, help="the data pack, with manifest.csv")
    ap.add_argument("cache", type=Path)
    ap.add_argument("--split", type=Path, default=HERE / "split.toml")
    a = ap.parse_args()
    split = Split.read(a.split)
    rows = list(csv.DictReader((a.pack / "manifest.csv").open()))
    volume_rows = [r for r in rows if r["patient"] == "TS-EXAMPLE-CT"]
    if not volume_rows or not all(split.permits(r) for r in volume_rows):
        raise SystemExit("TS-EXAMPLE-CT: missing from the manifest, or not permitted by the split")
    hu, ids, names = abdomen(a.pack / "volumes" / "ts-example-nifti")
    slices = labelled_slices(a.pack, rows, split)
    phantoms = []
    for plane, draw in (("axial", axial), ("sagittal", sagittal)):
        first, last = split.phantom_train[plane]
        for seed in range(first, last + 1):
            h, d, k = draw(seed)
            phantoms.append((plane, np.clip(h, -1100, 3000).astype(np.float16), d, k))
    if refused := [f for f in split.photographs if not any(r["file"] == f and split.permits(r) for r in rows)]:
        raise SystemExit(f"not permitted by the split, or not in the manifest: {refused}")
    photos = photographs(a.pack, split)
    with a.cache.open("wb") as f:
        pickle.dump(dict(hu=hu, ids=ids, names=names, slices=[vars(s) for s in slices], phantoms=phantoms, photographs=photos), f, protocol=5)
    people = sorted({s.person for s in slices})
    print(f"{a.cache}: volume {hu.shape} with {len(names)} organs, {len(slices)} slices of {len(people)} people, {len(phantoms)} phantoms, {len(photos)} photographs")


if __name__ == "__main__":
    main()
