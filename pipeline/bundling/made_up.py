"""A scan that nobody has: an image file, and its labels, of the modality and spacing that a bundle is for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import zoom

from ..bundle import SeriesRule

SHAPE = (44, 40, 28)
"""Voxels; even, and no multiples of one another, so that exchanged axes show."""
PICTURE = (448, 416)
"""Pixels; more than crops of slices are wont to have."""
SPACING_MM = (1.0, 1.0, 1.5)
HILL = 6
"""Voxels."""
RANGES = {"CT": (-1000, 1000), "PT": (0, 20)}
"""Least and largest value of a modality; others are 0 to 1000."""


@dataclass(frozen=True)
class MadeUpScan:
    """Files on disk.

    Attributes:
        images: a file a channel.
        label: whole numbers, on the same grid.
        size: voxels along the axes of the files.
    """

    images: tuple[Path, ...]
    label: Path
    size: tuple[int, ...]


def make_up_scan(
    folder: Path, rule: SeriesRule, *, channels: int, labels: int, planes: bool, seed: int = 0
) -> MadeUpScan:
    """Write hills and a little noise, with a bright box for each label: no part of it is like another.

    Args:
        folder: where the files go.
        rule: of the bundle.
        channels: of the image; each is a file.
        labels: 1 to so many are in the label file.
        planes: whether the bundle's network is 2D: then the files are pictures (PNG).
        seed: of the hills.
    """
    rng = np.random.default_rng(seed)
    size = PICTURE if planes else (*SHAPE[:2], max(SHAPE[2], rule.min_slices))
    label = np.zeros(size, np.uint8)
    for value in range(1, labels + 1):  # side by side along the first axis
        begin, end = (size[0] * (value - 1) // labels + 1, size[0] * value // labels)
        label[begin:end, size[1] // 4 : 3 * size[1] // 4, *[slice(5, -5)] * (len(size) - 2)] = value
    least, largest = (0, 255) if planes else RANGES.get(rule.modality or "", (0, 1000))
    images = []
    for channel in range(channels):
        hills = zoom(rng.random([length // HILL + 2 for length in size]), HILL, order=1)[tuple(map(slice, size))]
        noise = rng.normal(0, 0.02, size) + 0.2 + 0.4 * hills + 0.3 * label / labels
        image = np.clip(least + (largest - least) * noise, least, largest).astype(np.uint8 if planes else np.int16)
        images.append(_write(folder / f"image{channel}", image, rule, planes=planes))
    return MadeUpScan(tuple(images), _write(folder / "label", label, rule, planes=planes), size)


def read_voxels(path: Path) -> np.ndarray:
    """The array of such a file, its axes as they were given."""
    if path.suffix == ".png":
        from PIL import Image

        return np.asarray(Image.open(path)).T.astype(float)
    import nibabel

    return np.asanyarray(nibabel.load(path).dataobj, dtype=float)


def _write(stem: Path, array: np.ndarray, rule: SeriesRule, *, planes: bool) -> Path:
    if planes:
        from PIL import Image

        path = stem.with_suffix(".png")
        Image.fromarray(array.T).save(path)  # a picture's rows are its second axis
        return path
    import nibabel

    path = stem.with_suffix(".nii.gz")
    spacing = SPACING_MM if rule.spacing_mm is None else (float(np.mean(rule.spacing_mm)),) * 3
    image = nibabel.Nifti1Image(array, np.diag([-spacing[0], spacing[1], spacing[2], 1.0]))  # to the left: not RAS
    image.set_data_dtype(array.dtype)
    nibabel.save(image, path)
    return path
