"""What an input holds: its series, the verdict on each, and which of them a bundle takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import SeriesRule
from ..errors import StudyError
from ..volume import Notice
from .volume_file import safe_name, short_digest

if TYPE_CHECKING:
    from .dicom_header import Header


@dataclass(frozen=True)
class Series:
    """One scan that an input holds, known by its headers; no pixel is read yet.

    Neither `repr` nor `summary` tells anything of the patient, a path or a UID.

    Attributes:
        case: name for folders and logs.
        kind: what reads it: "dicom", "nifti", "raster" (NRRD, MetaImage) or "picture" (PNG, TIFF).
        files: the source files, for DICOM in slice order where the geometry is known.
        planes: for DICOM that `refused` is None of, the image planes in slice order.
        z: of each plane the place along the third axis, in voxels; see `SourceSlice`.
        shifts: of each plane the columns and rows that it lies sideways of the grid; empty where none does.
        modality: DICOM Modality; None for volume files.
        number: SeriesNumber (0020,0011).
        uid: SeriesInstanceUID (0020,000E).
        description: the words of imaging in SeriesDescription (0008,103E), no others.
        part: which volume of its DICOM series it is, such as "echo 1 of 2"; empty where it is the only one.
        labels_of: for a volume file that is named a label map and lies beside a scan of its grid, that scan's case.
        shape: voxels (columns, rows, slices).
        spacing: voxel edges in mm, in the same order; None where it is unknown.
        plane: "axial", "oblique coronal", …; None where it is unknown.
        affine: (4, 4), voxel index -> RAS mm, for DICOM that `refused` is None of; else None.
        notices: what the reader corrects or can not verify.
        refused: why it can not be read; None for a readable series.
    """

    case: str
    kind: str
    files: tuple[Path, ...] = field(repr=False)
    planes: tuple[Header, ...] = field(default=(), repr=False, compare=False)
    z: tuple[float, ...] = field(default=(), repr=False)
    shifts: tuple[tuple[float, float], ...] = field(default=(), repr=False)
    modality: str | None = None
    number: int | None = None
    uid: str | None = field(default=None, repr=False)
    description: str = ""
    part: str = ""
    labels_of: str | None = None
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    plane: str | None = None
    affine: np.ndarray | None = field(default=None, repr=False, compare=False)
    notices: tuple[Notice, ...] = ()
    refused: StudyError | None = field(default=None, compare=False)

    @property
    def slices(self) -> int:
        """Voxels along the third axis; for a series whose geometry is refused, its images."""
        return self.shape[2] if self.shape else len(self.files)

    @property
    def is_resampled(self) -> bool:
        """Whether some slices are interpolated, because they or others are missing, unevenly spaced or moved."""
        return bool(self.shifts) or (bool(self.z) and self.z != tuple(range(self.slices)))

    @property
    def verdict(self) -> str:
        """ "ok", or in a line why it is refused or what to know about it."""
        if self.refused:
            return f"refused: {self.refused}"
        if self.labels_of:
            return f"label map of {self.labels_of}"
        return "; ".join(notice.message for notice in self.notices) or "ok"

    def summary(self) -> dict[str, Any]:
        """The series for a table or JSON: plain values, nothing of the patient."""
        return {
            "case": self.case,
            "kind": self.kind,
            "number": self.number,
            "modality": self.modality,
            "description": ", ".join(text for text in (self.description, self.part) if text),
            "plane": self.plane,
            "slices": self.slices,
            "size": list(self.shape) if self.shape else None,
            "spacing": [round(length, 6) for length in self.spacing] if self.spacing else None,
            "readable": self.refused is None,
            "verdict": self.verdict,
            "warnings": [{"code": notice.code, "message": notice.message} for notice in self.notices],
            "refused": {"code": self.refused.code, "message": str(self.refused)} if self.refused else None,
        }

    def fits(self, rule: SeriesRule) -> bool:
        """Whether a bundle with this rule takes it; a volume file has no modality and fits any."""
        same = rule.modality is None or self.modality is None or self.modality == rule.modality
        return same and self.slices >= rule.min_slices and self._has_spacing(rule)

    def _has_spacing(self, rule: SeriesRule) -> bool:
        if rule.spacing_mm is None or self.spacing is None:
            return True
        low, high = rule.spacing_mm
        return low <= min(self.spacing) and max(self.spacing) <= high

    def has_keyword(self, rule: SeriesRule) -> bool:
        """Whether its description holds one of the rule's words."""
        words = self.description.lower().split()
        return any(keyword in words for keyword in rule.keywords)


class AmbiguousSeriesError(StudyError):
    """Several series could be meant.

    Attributes:
        candidates: those series.
    """

    def __init__(self, message: str, candidates: Sequence[Series] = ()) -> None:
        super().__init__(message, "several-series")
        self.candidates = tuple(candidates)

    def __reduce__(self) -> tuple[object, ...]:
        """What pickle rebuilds it from."""
        return type(self), (str(self), self.candidates)


def select_series(series: Sequence[Series], rule: SeriesRule, wanted: str | None = None) -> Series:
    """The one series to read.

    Without `wanted`, label maps are passed over, and refused series where exactly one readable series fits the rule;
    the result then carries a notice that says so.

    Args:
        series: what `find_series` found.
        rule: what the bundle takes.
        wanted: a SeriesInstanceUID, a case name or a series number; None where the rule must decide.
    Raises:
        AmbiguousSeriesError: several series fit.
        StudyError: none fits, or the one that does can not be read.
    """
    if wanted is not None:
        return _named(series, rule, wanted)
    fitting = [one for one in series if one.fits(rule) and not one.labels_of]
    readable = [one for one in fitting if one.refused is None]
    if len(readable) > 1:
        readable = [one for one in readable if one.has_keyword(rule)] or readable
    if len(readable) > 1:
        raise AmbiguousSeriesError(
            f"{len(series)} series found, {len(readable)} fit{_wish(rule)}: {_cases(readable)}. "
            "Choose one with --series CASE.",
            readable,
        )
    if not fitting:
        found = ", ".join(f"{one.case} ({one.modality or one.kind}, {one.slices} slices)" for one in series)
        raise StudyError(f"no series fits{_wish(rule)}; found: {found or 'none'}. Pass another study.", "no-series")
    if not readable:
        if len(fitting) == 1 and fitting[0].refused:
            raise fitting[0].refused.with_traceback(None)
        raise AmbiguousSeriesError(
            f"{len(fitting)} series fit{_wish(rule)}, none can be read: {_cases(fitting)}. "
            "See `scanloom inspect` for the reasons.",
            fitting,
        )
    return _with_passed_over(
        readable[0], [one for one in fitting if one.refused], [one for one in series if one.labels_of]
    )


def _with_passed_over(chosen: Series, refused: Sequence[Series], label_maps: Sequence[Series]) -> Series:
    """The series with a notice of what else the input holds that might have been meant."""
    kinds = [(refused, "that can not be read"), (label_maps, "that are label maps")]
    texts = [f"{what}: {_cases(series)}" for series, what in kinds if series]
    if not texts:
        return chosen
    notice = Notice("series-passed-over", f"the input also holds series {', and some '.join(texts)}")
    return replace(chosen, notices=(*chosen.notices, notice))


def dicom_case(modality: str, uid: str) -> str:
    """The name of a DICOM case: modality, and 8 hex digits of the SHA-256 of its SeriesInstanceUID."""
    prefix = re.sub(r"[^a-z0-9]", "", modality.lower())[:16] or "ot"
    return f"{prefix}-{short_digest(uid.encode())}"


def source_case(folder: Path, uid: str) -> str:
    """The name of a DICOM case after the folder of its files; it may hold what a person wrote there.

    With 8 hex digits of the SHA-256 of its SeriesInstanceUID, because a folder may hold several series.
    """
    return f"{safe_name(folder.name) or 'study'}-{short_digest(uid.encode())}"


def _named(series: Sequence[Series], rule: SeriesRule, wanted: str) -> Series:
    matches = [one for one in series if wanted in _names(one)]
    if not matches:
        raise StudyError(f"no series of that UID, case name or number; found: {_cases(series)}.", "no-series")
    if len(matches) > 1:
        raise AmbiguousSeriesError(
            f"{len(matches)} series have that number or name: {_cases(matches)}. Choose one with --series CASE or UID.",
            matches,
        )
    chosen = matches[0]
    if chosen.refused:
        raise chosen.refused.with_traceback(None)
    if not chosen.fits(rule):
        raise StudyError(
            f"series {chosen.case} ({chosen.modality or chosen.kind}, {chosen.slices} slices) does not fit"
            f"{_wish(rule)}. Choose another series or bundle.",
            "no-series",
        )
    return chosen


def _names(one: Series) -> tuple[str, ...]:
    names = (one.uid, one.case, None if one.number is None else str(one.number))
    return tuple(name for name in names if name)


def _wish(rule: SeriesRule) -> str:
    """What the rule asks for, as the end of a phrase: " (MR, at least 8 slices)"."""
    parts = [rule.modality] if rule.modality else []
    if rule.min_slices > 1:
        parts.append(f"at least {rule.min_slices} slices")
    if rule.spacing_mm:
        parts.append(f"voxel edges of {rule.spacing_mm[0]:g} to {rule.spacing_mm[1]:g} mm")
    return f" what the bundle takes ({', '.join(parts)})" if parts else ""


def _cases(series: Sequence[Series]) -> str:
    names = [one.case for one in series]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
