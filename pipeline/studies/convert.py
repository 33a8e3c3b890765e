"""Any input to NIfTI with exact geometry: the public face of the reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..bundle import SeriesRule
from ..errors import SOME_FAILED, PipelineError, StudyError
from ..lock import locked
from ..nifti_writer import write_nifti_volume
from ..progress import Report, silent
from ..volume import Volume
from .study import Series, select_series

ANY_SERIES = SeriesRule()


class Studies(Protocol):
    """What finds and reads series: `StudyProcess`."""

    def find(self, path: Path) -> list[Series]: ...

    def read(self, series: Series) -> Volume: ...


@dataclass(frozen=True)
class ConvertOptions:
    """What the command line says of a conversion.

    Attributes:
        input: a file or folder.
        output: the folder OUT; each volume becomes OUT/<case>.nii.gz.
        series: the one that is meant, as `select_series` takes it; None where there may only be one.
        every: convert every volume that can be read.
        strict: refuse a volume that the reader has something to say of.
    """

    input: Path
    output: Path
    series: str | None = None
    every: bool = False
    strict: bool = False


@dataclass
class Conversion:
    """How a conversion ended.

    Attributes:
        written: each volume and its file.
        candidates: the series to choose from, where it was not clear which is meant.
        refused: what was not converted, by the case where it has a name, and why.
    """

    written: list[tuple[Path, Volume]] = field(default_factory=list)
    candidates: list[Series] = field(default_factory=list)
    refused: list[tuple[str | None, PipelineError]] = field(default_factory=list)

    @property
    def exit_status(self) -> int:
        """0 done; 4 some refused; else what the first error says."""
        if not self.refused:
            return 0
        return SOME_FAILED if self.written else self.refused[0][1].exit_status

    def summary(self) -> dict[str, Any]:
        """The result for JSON: plain values, nothing of the patient."""
        return {
            "volumes": [
                {
                    "output": str(path),
                    "case": volume.case,
                    "series": volume.series_sha256,
                    "warnings": [{"code": notice.code, "message": notice.message} for notice in volume.notices],
                }
                for path, volume in self.written
            ],
            "candidates": [one.summary() for one in self.candidates],
            "refused": [
                {"case": case, "code": getattr(error, "code", "failed"), "message": str(error)}
                for case, error in self.refused
            ],
        }


def convert(options: ConvertOptions, studies: Studies, report: Report = silent) -> Conversion:
    """Convert one input; one bad volume does not stop the others.

    Args:
        options: of what, and where to.
        studies: finds and reads.
        report: told of each volume.
    Raises:
        UsageError: the input or the output folder can not be.
    """
    result = Conversion()
    try:
        chosen = _chosen(studies.find(options.input), options, result)
    except StudyError as reason:
        result.refused.append((None, reason))
        result.candidates += getattr(reason, "candidates", ())
        return result
    with locked(options.output):
        for number, series in enumerate(chosen):
            report(f"{series.case}: {series.slices} slices", number / len(chosen))
            try:
                result.written.append(_convert(series, options, studies))
            except PipelineError as reason:
                result.refused.append((series.case, reason))
    return result


def _chosen(found: Sequence[Series], options: ConvertOptions, result: Conversion) -> list[Series]:
    """The series to convert; with `every`, those that can not be read are noted as refused."""
    if not options.every:
        return [select_series(found, ANY_SERIES, options.series)]
    result.refused += [(one.case, one.refused) for one in found if one.refused]
    return [one for one in found if not one.refused]


def _convert(series: Series, options: ConvertOptions, studies: Studies) -> tuple[Path, Volume]:
    volume = studies.read(series)
    if options.strict and volume.notices:
        first = volume.notices[0]
        raise StudyError(f"{first.message} Refused by --strict.", first.code)
    path = options.output / f"{series.case}.nii.gz"
    write_nifti_volume(path, volume.array[0], volume.affine)
    return path, volume
