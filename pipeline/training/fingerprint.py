"""The fingerprint of a dataset: what its scans are like, without any of them; plans and later judgements rest on it.

Everything is in the order R, A, S of the patient, as the network sees scans, whatever the order in the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import nibabel.orientations as orientations
import numpy as np

from .dataset_check import LabelledImage

LEVELS = (0.0, 10.0, 50.0, 90.0, 100.0)
"""Percentiles over the cases: the least, the median, the most, and where the bulk lies."""
FOREGROUND_LEVELS = (0.5, 50.0, 99.5)
"""Source: Isensee 2021, Nature Methods 18:203: clipping of CT."""
IMAGE_LEVELS = (0.5, 25.0, 50.0, 75.0, 99.5)
SAMPLED = 10_000
"""Foreground voxels that a case gives at most, so that large cases do not outvote small ones. Source: nnU-Net."""
IMAGE_SAMPLED = 50_000

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """The percentiles `LEVELS` over the cases of one number a case."""

    least: float
    p10: float
    median: float
    p90: float
    most: float


@dataclass(frozen=True)
class Intensities:
    """Values of the labelled voxels of all cases, as the scans have them.

    Attributes:
        mean, std, p00_5, median, p99_5: of samples of each case.
        least, most: of all voxels.
    """

    mean: float
    std: float
    least: float
    p00_5: float
    median: float
    p99_5: float
    most: float


@dataclass(frozen=True)
class LabelSize:
    """How large a label is.

    Attributes:
        name: of the label.
        cases: that hold it.
        volume_ml: over the cases that hold it; None where none does.
    """

    name: str
    cases: int
    volume_ml: Spread | None


@dataclass(frozen=True)
class Fingerprint:
    """What the scans of a dataset are like.

    Attributes:
        cases: how many.
        modality: DICOM Modality; None where nothing says it.
        spacing_mm: of voxels, an axis.
        size_voxels: of scans, an axis.
        extent_mm: of scans, an axis: size times spacing.
        nonzero_share: of a scan's volume that the box around its voxels other than 0 takes.
        foreground: intensities of labelled voxels.
        image_levels: percentile -> its spread over the cases, of all voxels of a scan.
        labels: value -> its size.
    """

    cases: int
    modality: str | None
    spacing_mm: tuple[Spread, ...]
    size_voxels: tuple[Spread, ...]
    extent_mm: tuple[Spread, ...]
    nonzero_share: Spread
    foreground: Intensities
    image_levels: Mapping[float, Spread]
    labels: Mapping[int, LabelSize]

    @property
    def median_spacing_mm(self) -> Vector:
        """Of a voxel, an axis."""
        return tuple(spread.median for spread in self.spacing_mm)

    def median_size(self, spacing_mm: Sequence[float]) -> Vector:
        """Voxels of the median scan, an axis, after resampling to this spacing."""
        return self._size(spacing_mm, "median")

    def largest_size(self, spacing_mm: Sequence[float]) -> Vector:
        """Voxels of the largest extent along each axis, after resampling to this spacing."""
        return self._size(spacing_mm, "most")

    def _size(self, spacing_mm: Sequence[float], which: str) -> Vector:
        return tuple(getattr(spread, which) / mm for spread, mm in zip(self.extent_mm, spacing_mm, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Plain values for a bundle's metadata, as `fingerprint`; six digits each."""
        return _rounded(asdict(self))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fingerprint:
        """What `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            axes = {
                name: tuple(Spread(**each) for each in values[name])
                for name in ("spacing_mm", "size_voxels", "extent_mm")
            }
            return cls(
                cases=int(values["cases"]),
                modality=values["modality"],
                **axes,
                nonzero_share=Spread(**values["nonzero_share"]),
                foreground=Intensities(**values["foreground"]),
                image_levels={float(level): Spread(**each) for level, each in values["image_levels"].items()},
                labels={int(value): _label_size(each) for value, each in values["labels"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"no fingerprint of a dataset: {error!r}. Make it anew with `scanloom bundle init`."
            ) from None


class FingerprintBuilder:
    """Takes cases one at a time; what it keeps of each is small.

    Args:
        ignore: the label of voxels that were not annotated.
    """

    def __init__(self, ignore: int | None = None) -> None:
        self.ignore = ignore
        self._modalities: set[str | None] = set()
        self._rows: list[dict[str, Any]] = []

    def add(self, case: LabelledImage) -> None:
        """One case more."""
        image = case.image
        order = orientations.io_orientation(image.affine)[:, 0].astype(int)  # file axis -> R, A, S
        spacing, size = np.empty(3), np.empty(3)
        spacing[order], size[order] = image.spacing, image.spatial_shape
        array = image.array[0]
        random = np.random.default_rng(len(self._rows))
        foreground = array[self._is_foreground(case.labels)]
        self._modalities.add(image.modality)
        self._rows.append(
            {
                "spacing": spacing,
                "size": size,
                "nonzero": _nonzero_share(array),
                "foreground": _sampled(foreground, SAMPLED, random),
                "ends": (foreground.min(), foreground.max()) if foreground.size else (np.inf, -np.inf),
                "levels": np.percentile(_sampled(array.ravel("K"), IMAGE_SAMPLED, random), IMAGE_LEVELS),
                "ml": {value: count * image.voxel_ml for value, count in case.voxels.items()},
            }
        )

    def build(self, labels: Mapping[int, str], modality: str | None = None) -> Fingerprint:
        """The fingerprint of the cases so far.

        Args:
            labels: value -> name, without the background.
            modality: as the dataset's description has it; None takes the scans' own, where they are of one.
        Raises:
            ValueError: there was none, or none with a label.
        """
        pooled = np.concatenate([row["foreground"] for row in self._rows]) if self._rows else np.empty(0)
        if not pooled.size:
            raise ValueError("no voxel of any case is labelled. Label some, or pass another dataset.")
        return Fingerprint(
            cases=len(self._rows),
            modality=modality or (next(iter(self._modalities)) if len(self._modalities) == 1 else None),
            spacing_mm=_axes([row["spacing"] for row in self._rows]),
            size_voxels=_axes([row["size"] for row in self._rows]),
            extent_mm=_axes([row["spacing"] * row["size"] for row in self._rows]),
            nonzero_share=_spread([row["nonzero"] for row in self._rows]),
            foreground=self._intensities(pooled),
            image_levels={
                level: _spread([row["levels"][index] for row in self._rows]) for index, level in enumerate(IMAGE_LEVELS)
            },
            labels={value: self._label_size(value, name) for value, name in sorted(labels.items())},
        )

    def _is_foreground(self, labels: np.ndarray) -> np.ndarray:
        return labels > 0 if self.ignore is None else (labels > 0) & (labels != self.ignore)

    def _intensities(self, pooled: np.ndarray) -> Intensities:
        p00_5, median, p99_5 = (float(value) for value in np.percentile(pooled, FOREGROUND_LEVELS))
        return Intensities(
            mean=float(pooled.mean(dtype=np.float64)),
            std=float(pooled.std(dtype=np.float64)),
            least=float(min(row["ends"][0] for row in self._rows)),
            p00_5=p00_5,
            median=median,
            p99_5=p99_5,
            most=float(max(row["ends"][1] for row in self._rows)),
        )

    def _label_size(self, value: int, name: str) -> LabelSize:
        volumes = [row["ml"][value] for row in self._rows if value in row["ml"]]
        return LabelSize(name, len(volumes), _spread(volumes) if volumes else None)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(*(float(value) for value in np.percentile(values, LEVELS)))


def _axes(vectors: Sequence[np.ndarray]) -> tuple[Spread, ...]:
    return tuple(_spread(axis) for axis in np.transpose(vectors))


def _sampled(values: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """All values (n,), or `count` of them, drawn with replacement as nnU-Net does; float64."""
    if len(values) > count:
        values = values[random.integers(len(values), size=count)]
    return values.astype(np.float64)


def _nonzero_share(array: np.ndarray) -> float:
    """Share of the array that the box around its values other than 0 takes; 1 for an empty one."""
    taken = [np.flatnonzero(array.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    share = 1.0
    for axis, places in enumerate(taken):
        if not places.size:
            return 1.0
        share *= (places[-1] - places[0] + 1) / array.shape[axis]
    return float(share)


def _label_size(values: Mapping[str, Any]) -> LabelSize:
    volume = values["volume_ml"]
    return LabelSize(values["name"], int(values["cases"]), Spread(**volume) if volume else None)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
