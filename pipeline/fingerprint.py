"""The fingerprint of a dataset: what its scans are like, without any of them; plans and verdicts rest on it.

Everything is in the order R, A, S of the patient, as the network sees scans, whatever the order in the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

LEVELS = (0.0, 10.0, 50.0, 90.0, 100.0)
"""Percentiles over the cases: the least, the median, the most, and where the bulk lies."""

Vector = tuple[float, ...]


@dataclass(frozen=True)
class Spread:
    """The percentiles `LEVELS` over the cases of one number a case."""

    least: float
    p10: float
    median: float
    p90: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one number a case, of one case at least."""
        return cls(*(float(value) for value in np.percentile(values, LEVELS)))


Spreads = tuple[Spread, ...]
"""One a component of a fact, such as one an axis."""


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
    """How large a label is, and what else its voxels have in common.

    Attributes:
        name: of the label.
        cases: that hold it.
        volume_ml: over the cases that hold it; None where none does.
        facts: name of an attribute of `case_facts.LabelFacts` -> its spreads over these cases.
    """

    name: str
    cases: int
    volume_ml: Spread | None
    facts: Mapping[str, Spreads] = field(default_factory=dict)


@dataclass(frozen=True)
class HeldOut:
    """What the trained network makes of cases that it has not seen.

    Attributes:
        cases: how many it was given.
        labels: value -> name of a fact -> its spreads over the cases where it found the label: those of
            `case_facts.LabelFacts` whose network's and annotator's may differ, and `surface_confidence`.
    """

    cases: int
    labels: Mapping[int, Mapping[str, Spreads]]


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
        scan: name of an attribute of `case_facts.ScanFacts` -> its spreads over the cases.
        held_out: what the network that was trained makes of others; None where no case was held out.
        has_spacing: the files say how large voxels are; where not, lengths are in voxels.
    """

    cases: int
    modality: str | None
    spacing_mm: Spreads
    size_voxels: Spreads
    extent_mm: Spreads
    nonzero_share: Spread
    foreground: Intensities
    image_levels: Mapping[float, Spread]
    labels: Mapping[int, LabelSize]
    scan: Mapping[str, Spreads] = field(default_factory=dict)
    held_out: HeldOut | None = None
    has_spacing: bool = True

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
        """What `to_json` wrote; what an earlier version did not write is empty.

        Raises:
            ValueError: it is something else.
        """
        try:
            return cls(
                cases=int(values["cases"]),
                modality=values["modality"],
                spacing_mm=_spreads(values["spacing_mm"]),
                size_voxels=_spreads(values["size_voxels"]),
                extent_mm=_spreads(values["extent_mm"]),
                nonzero_share=Spread(**values["nonzero_share"]),
                foreground=Intensities(**values["foreground"]),
                image_levels={float(level): Spread(**each) for level, each in values["image_levels"].items()},
                labels={int(value): _label_size(each) for value, each in values["labels"].items()},
                scan=_facts(values.get("scan", {})),
                held_out=_held_out(values.get("held_out")),
                has_spacing=bool(values.get("has_spacing", True)),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                f"no fingerprint of a dataset: {error!r}. Make it anew with `scanloom bundle init` or `scanloom train`."
            ) from None


def spreads_of(rows: Sequence[Sequence[float]]) -> Spreads:
    """Over cases, of facts with the same number of components each."""
    return tuple(Spread.of(component) for component in np.transpose(np.asarray(rows, dtype=np.float64)))


def _spreads(values: Sequence[Mapping[str, float]]) -> Spreads:
    return tuple(Spread(**each) for each in values)


def _facts(values: Mapping[str, Any]) -> dict[str, Spreads]:
    return {name: _spreads(each) for name, each in values.items()}


def _label_size(values: Mapping[str, Any]) -> LabelSize:
    volume = values["volume_ml"]
    facts = _facts(values.get("facts", {}))
    return LabelSize(values["name"], int(values["cases"]), Spread(**volume) if volume else None, facts)


def _held_out(values: Mapping[str, Any] | None) -> HeldOut | None:
    if values is None:
        return None
    return HeldOut(int(values["cases"]), {int(value): _facts(each) for value, each in values["labels"].items()})


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
