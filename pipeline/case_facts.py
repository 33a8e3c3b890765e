"""What a scan and its labels are like, in small numbers: of training cases a fingerprint, of new ones a verdict.

Everything is in the order R, A, S of the patient, as the network sees scans, whatever the order in the file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import nibabel.orientations as orientations
import numpy as np

from .volume import Volume

Vector = tuple[float, ...]

LEVELS = (0.5, 25.0, 50.0, 75.0, 99.5)
"""Percentiles of a scan's values."""
SHAPE_LEVELS = (1.0, 10.0, 25.0, 50.0, 75.0, 90.0, 99.0)
"""Percentiles of its values as deviations from the mean: the histogram's shape, whatever the scanner's scale."""
SAMPLED = 2**20
"""Voxels that percentiles are taken of, about; more change nothing in the digits that count."""
ENDS, TAILS = (0.025, 0.975), (0.1, 0.9)
"""Quantiles along an axis: what a label's extent is measured between, and what its skew."""
PLANES = 48
"""Neighbours are compared in this many planes of a scan at most."""


@dataclass(frozen=True)
class ScanFacts:
    """One scan.

    Attributes:
        spacing_mm: of voxels, an axis.
        size_voxels: an axis.
        levels: the percentiles `LEVELS` of its values.
        shape: the percentiles `SHAPE_LEVELS` of (value - mean) / deviation.
        detail: mean step from voxel to voxel along each axis, in deviations; 0 along an axis of one voxel. Noise makes
            it larger, blur smaller.
        flat: share of neighbours of the very same value.
        mean, std: of all values.
    """

    spacing_mm: Vector
    size_voxels: Vector
    levels: Vector
    shape: Vector
    detail: Vector
    flat: float
    mean: float
    std: float

    @property
    def extent_mm(self) -> Vector:
        """Size times spacing."""
        return tuple(size * mm for size, mm in zip(self.size_voxels, self.spacing_mm, strict=True))


@dataclass(frozen=True)
class LabelFacts:
    """One label of a scan, which has a voxel at least.

    Attributes:
        volume_ml: of all its voxels.
        share: of the scan's voxels.
        components: connected parts, through faces, edges and corners.
        largest: share of its voxels in the largest part.
        centre: of its voxels, from 0 to 1 along each axis of the scan.
        extent_mm: along each axis, of the middle 95 % of its voxels: stray ones do not count.
        border: share of its voxels that lie at the scan's border; axes of one voxel have none.
        skew: along each axis how far the middle of its extent lies beyond its median voxel, from -1 to 1: positive
            where the lower end is the thicker one.
        offset_mm: its centre from that of all labels together.
        level: mean value of its voxels, in the scan's deviations from the scan's mean.
    """

    volume_ml: float
    share: float
    components: float
    largest: float
    centre: Vector
    extent_mm: Vector
    border: float
    skew: Vector
    offset_mm: Vector
    level: float


def look_at_scan(volume: Volume) -> ScanFacts:
    """The facts of a scan's first channel; a mapped file is read in samples."""
    array = in_patient_order(volume.array[0], volume.affine)
    values = sampled(array)
    mean, std = float(values.mean()), float(values.std()) or 1.0
    steps, flat = _steps(array)
    return ScanFacts(
        spacing_mm=patient_spacing(volume),
        size_voxels=tuple(map(float, array.shape)),
        levels=_vector(np.percentile(values, LEVELS)),
        shape=_vector((np.percentile(values, SHAPE_LEVELS) - mean) / std),
        detail=_vector(np.asarray(steps) / std),
        flat=flat,
        mean=mean,
        std=std,
    )


def look_at_labels(
    labels: np.ndarray, volume: Volume, scan: ScanFacts, values: Collection[int]
) -> dict[int, LabelFacts]:
    """Value -> facts, of those of the values that are there.

    Args:
        labels: (X, Y, Z) integers on the volume's grid.
        volume: the scan.
        scan: its facts.
        values: of labels to look at.
    """
    labels = in_patient_order(labels, volume.affine)
    image = in_patient_order(volume.array[0], volume.affine)
    boxes = _boxes(labels, values)
    found = {value: _Region(labels[box] == value, box) for value, box in boxes.items()}
    if not found:
        return {}
    middle = np.average([one.centre for one in found.values()], axis=0, weights=[one.voxels for one in found.values()])
    spacing, size = np.array(scan.spacing_mm), np.array(labels.shape)
    facts = {}
    for value, one in found.items():
        components, largest = one.parts()
        facts[value] = LabelFacts(
            volume_ml=one.voxels * volume.voxel_ml,
            share=one.voxels / labels.size,
            components=float(components),
            largest=largest,
            centre=_vector((one.centre + 0.5) / size),
            extent_mm=_vector(one.extent() * spacing),
            border=one.border(labels.shape),
            skew=_vector(one.skew()),
            offset_mm=_vector((one.centre - middle) * spacing),
            level=(float(image[one.box][one.mask].mean(dtype=np.float64)) - scan.mean) / scan.std,
        )
    return facts


def in_patient_order(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """(X, Y, Z) seen with its axes nearest to R, A and S: the same memory."""
    return orientations.apply_orientation(array, orientations.io_orientation(affine))


def patient_spacing(volume: Volume) -> Vector:
    """Edge lengths of a voxel in mm along the axes nearest to R, A and S."""
    return _vector(np.asarray(volume.spacing)[np.argsort(orientations.io_orientation(volume.affine)[:, 0])])


def sampled(array: np.ndarray, count: int = SAMPLED) -> np.ndarray:
    """(n,) float64: all finite values, or of a large array every n-th along each axis."""
    step = max(int(np.ceil((array.size / count) ** (1 / array.ndim))), 1)
    values = np.asarray(array[(slice(None, None, step),) * array.ndim], dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    return values if values.size else np.zeros(1)


class _Region:
    """One label's voxels in the box around them."""

    def __init__(self, mask: np.ndarray, box: tuple[slice, ...]) -> None:
        self.mask, self.box = mask, box
        self.voxels = int(np.count_nonzero(mask))
        self._profiles = [mask.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64) for axis in range(3)]
        inside = [float(profile @ np.arange(len(profile))) / self.voxels for profile in self._profiles]
        self.centre = np.array([part.start + mean for part, mean in zip(box, inside, strict=True)])

    def parts(self) -> tuple[int, float]:
        """How many connected parts there are, and the share of the largest."""
        from scipy.ndimage import label  # slow to import, and not needed before a network has run

        marked, count = label(self.mask, np.ones((3, 3, 3)))
        return count, float(np.bincount(marked.ravel())[1:].max()) / self.voxels

    def border(self, shape: tuple[int, ...]) -> float:
        """Share of the voxels at the border of a scan of that shape."""
        inner = []
        for part, size in zip(self.box, shape, strict=True):
            low, high = (1, size - 1) if size > 1 else (0, 1)
            inner.append(slice(max(low - part.start, 0), max(min(high, part.stop) - part.start, 0)))
        return 1 - np.count_nonzero(self.mask[tuple(inner)]) / self.voxels

    def extent(self) -> np.ndarray:
        """Voxels along each axis between the quantiles `ENDS`."""
        return np.array([high - low for low, high in (_quantiles(profile, ENDS) for profile in self._profiles)])

    def skew(self) -> list[float]:
        """(high + low - 2 median) / (high - low) of the quantiles `TAILS` along each axis.

        Source: Kelley's coefficient; a few stray voxels do not move it, as they do a third moment.
        """
        found = []
        for profile in self._profiles:
            low, median, high = _quantiles(profile, (TAILS[0], 0.5, TAILS[1]))
            found.append((high + low - 2 * median) / (high - low))
        return found


def _quantiles(profile: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Where along an axis these shares of the voxels are behind, in voxels; each voxel is spread over its length."""
    behind = np.concatenate([[0.0], np.cumsum(profile)]) / profile.sum()
    return np.interp(shares, behind, np.arange(len(behind)))


def _boxes(labels: np.ndarray, values: Collection[int]) -> Mapping[int, tuple[slice, ...]]:
    from scipy.ndimage import find_objects

    boxes = find_objects(labels.astype(np.int32, copy=False) if labels.dtype.kind != "u" else labels)
    return {
        value: boxes[value - 1] for value in sorted(values) if 0 < value <= len(boxes) and boxes[value - 1] is not None
    }


def _steps(array: np.ndarray) -> tuple[list[float], float]:
    """Mean absolute step along each axis, and the share of steps of nothing, in planes across the scan."""
    means, still, count = [], 0, 0
    for axis in range(3):
        if array.shape[axis] < 2:
            means.append(0.0)
            continue
        across = (axis + 1) % 3
        every = max(array.shape[across] // PLANES, 1)
        thin = [slice(None)] * 3
        thin[across] = slice(None, None, every)
        steps = np.abs(np.diff(np.asarray(array[tuple(thin)], dtype=np.float32), axis=axis))
        steps = steps[np.isfinite(steps)]
        means.append(float(steps.mean(dtype=np.float64)) if steps.size else 0.0)
        still, count = still + int(np.count_nonzero(steps == 0)), count + steps.size
    return means, still / count if count else 0.0


def _vector(values: np.ndarray | list[float]) -> Vector:
    return tuple(float(value) for value in values)
