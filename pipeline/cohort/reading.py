"""The first stage of a case: read it.

An error ends the case that it happened to and no other: a stage returns it in the case's result.
"""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import PipelineError, StudyError
from ..outputs import NOT_DICOM, choose_formats
from ..prediction import CaseResult, log
from ..progress import Report, silent
from ..studies import Series, select_series
from ..studies.isolation import StudyProcess
from ..volume import Volume
from .job import Input, Job
from .storing import store_case

if TYPE_CHECKING:
    from ..dicomweb import StudyAddress
    from ..outputs import DicomSource


@dataclass(frozen=True)
class Scan:
    """What was read of a case.

    Attributes:
        volume: its voxels and their place.
        source: of a DICOM series what its headers say, or why no DICOM object can be written on them; None where none
            is to be written.
        formats: that were asked for.
        address: of the server that the results go back to; None where they do not.
        seconds: of the stages so far.
    """

    volume: Volume
    source: DicomSource | StudyError | None
    formats: Sequence[str]
    address: StudyAddress | None
    seconds: dict[str, float]


def no_wait(size: int) -> None:
    """There is always room."""


class CaseReader:
    """The first stage: inputs to scans, in a process of its own that strangers' files may crash.

    Args:
        job: what is asked for.
        keeps: how many inputs' archives stay unpacked, because their volumes may still be in their files.
    """

    def __init__(self, job: Job, keeps: int = 1) -> None:
        self.job = job
        options = job.options
        self.studies = StudyProcess(
            options.max_voxels,
            names_of_source=options.names_of_source,
            shows_errors=log.isEnabledFor(logging.DEBUG),
            keeps=keeps,
        )
        self._stopped = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.studies.close()

    def stop(self) -> None:
        """End what is being read or fetched now."""
        self._stopped.set()
        self.studies.stop()

    def __call__(
        self,
        number: int,
        given: Input,
        report: Report = silent,
        wait_for_room: Callable[[int], None] = no_wait,
    ) -> tuple[CaseResult, Scan | None]:
        """The result as far as it is known, and the scan; none where the case has ended here.

        Args:
            number: of the input, from 0.
            given: the input.
            report: told what is read.
            wait_for_room: called with the bytes of the voxels before they are read.
        """
        result = CaseResult(None)
        started = perf_counter()
        scan = None
        with result.ended_by_errors(given.name or f"input {number + 1}"), self._on_disk(given, report) as path:
            scan = self._read(path, given, result, report, wait_for_room)
        result.case = result.case or given.name
        result.seconds = perf_counter() - started
        return result, scan

    @contextmanager
    def _on_disk(self, given: Input, report: Report) -> Iterator[Path]:
        """The input as files; one on a server is fetched, and its files are removed at the end."""
        if isinstance(given.given, Path):
            yield given.given
            return
        from ..dicomweb import fetch_study

        with tempfile.TemporaryDirectory(prefix="scanloom-") as folder:
            modality = None if self.job.options.series else self.job.bundle.series_rule.modality
            yield fetch_study(
                given.given,
                Path(folder, "study"),  # within, so that what a kill -9 leaves is in a folder that names us
                modality=modality,
                report=_lines_of(report),
                go_on=self._go_on,
            )

    def _go_on(self) -> None:
        if self._stopped.is_set():
            raise PipelineError("stopped")

    def _read(
        self, path: Path, given: Input, result: CaseResult, report: Report, wait_for_room: Callable[[int], None]
    ) -> Scan | None:
        started = perf_counter()
        found = self.studies.find(path)
        result.found = tuple(one.summary() for one in found)  # a series itself holds the header of each slice
        series = select_series(found, self.job.bundle.series_rule, self.job.options.series)
        if given.tag and series.kind != "dicom":
            series = replace(series, case=f"{series.case}-{given.tag}")
        result.case, result.description = series.case, series.description
        result.folder = self.job.destination.shown(series.case)
        formats, address = self.job.formats_of(given), given.address if self.job.options.store else None
        if self._is_done(result, formats, address):
            return None
        wait_for_room(_bytes_of(series))
        report(f"{series.case}: reading {series.slices} slices", None)
        volume = self.studies.read(series)
        source = _source_of(volume, choose_formats(formats, volume))
        return Scan(volume, source, formats, address, {"read": perf_counter() - started})

    def _is_done(self, result: CaseResult, formats: Sequence[str], address: StudyAddress | None) -> bool:
        """Whether the case is to be skipped; what an earlier run has written and not stored is stored now."""
        job = self.job
        if not job.options.skip_existing:
            return False
        case = str(result.case)
        report = job.destination.whole_report(case, job.bundle.weights_sha256, formats, job.options.extra_files)
        if report is None:
            return False
        result.status = "skipped"
        result.take_findings(report)
        if address is not None:
            with job.destination.case_folder(case) as folder:
                result.warnings = [*result.warnings, *store_case(folder, result.files, address, job.run)]
        return True


def _lines_of(report: Report) -> Report:
    """Only the lines: how far reading is says little of how far the run is."""
    return lambda line, done=None: report(line, None)


def _bytes_of(series: Series) -> int:
    """About as many as its voxels take in memory."""
    return 4 * prod(series.shape or (0,))


def _source_of(volume: Volume, formats: Sequence[str]) -> DicomSource | StudyError | None:
    """What the headers say, where a DICOM object is to be written on them."""
    if not volume.sources or not {*formats} - {*NOT_DICOM}:
        return None
    from ..outputs import source_or_reason  # imports pydicom

    return source_or_reason(volume)
