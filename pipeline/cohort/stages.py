"""The three stages of a case: read it, label it, write it. Each may run in a process or on a machine of its own.

An error ends the case that it happened to and no other: a stage returns it in the case's result.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ..atomic import remove_left_overs
from ..bundle_modules import python_names
from ..errors import PipelineError, StudyError, UsageError
from ..outputs import NOT_DICOM, RunFacts, choose_formats, write_case
from ..prediction import CaseResult, log
from ..progress import Report, silent
from ..studies import Series, select_series
from ..studies.isolation import StudyProcess
from ..verdicts import Judge
from ..volume import Notice, Volume
from .destination import Destination
from .job import Input, Job
from .storing import is_being_stored, store_case

if TYPE_CHECKING:
    from ..dicomweb import StudyAddress
    from ..inference.predictor import Predictor
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


@dataclass(frozen=True)
class Labelled:
    """What a bundle says of a scan.

    Attributes:
        labels: (X, Y, Z), integers from 0, on the scan's grid.
        confidence: (X, Y, Z) of uint8, how sure the network is; None where nobody asked.
        surface_confidence: label -> mean probability of the winning class on its surface.
        device: what the network ran on, in words.
        notices: what a user should know.
        facts: of the inference, for the report.
        seconds: of the stages so far.
    """

    labels: np.ndarray
    confidence: np.ndarray | None
    surface_confidence: dict[int, float]
    device: str
    notices: tuple[Notice, ...]
    facts: dict[str, Any]
    seconds: dict[str, float]


NICENESS = 10
"""Added to that of processes that read and write: on two cores it makes a cohort of small scans a quarter faster."""


@cache
def give_way() -> None:
    """Let this process have what those that label leave: a thread of theirs that waits makes all the others wait."""
    if hasattr(os, "nice"):
        os.nice(NICENESS)  # once a process, for it adds up


class Names:
    """Which input has which name: no case is written over another of the same run.

    Args:
        destination: of the cases, held; where it ignores case, so do their names.
    """

    def __init__(self, destination: Destination) -> None:
        self._fold = _folded if destination.ignores_case() else str
        self._taken: dict[str, int] = {}

    def claim(self, number: int, result: CaseResult) -> None:
        """Refuse the case of an input where an earlier one has its name."""
        if result.error or result.case is None or self._taken.setdefault(self._fold(result.case), number) == number:
            return
        result.end(
            UsageError(f"two inputs are called {result.case}. Rename one, or predict them into two folders."),
            result.case,
        )


def _folded(name: str) -> str:
    """The same for names that a disk which ignores case takes for one."""
    return unicodedata.normalize("NFC", name).casefold()


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


class Labeller:
    """The second stage: scans to labels, on a device that holds the bundle; the first scan loads it.

    Args:
        job: what is asked for.
        loaded: the bundle as it was loaded before, or an empty list, which keeps it.
    """

    def __init__(self, job: Job, loaded: list[Predictor]) -> None:
        self.job, self.loaded = job, loaded

    def __call__(self, result: CaseResult, scan: Scan, report: Report = silent) -> Labelled | None:
        """The labels; None where the case failed, which its result says.

        Args:
            result: of the case; takes the error, and the seconds.
            scan: of the case.
            report: told how far it is, 0 to 1.
        """
        started = perf_counter()
        labelled = None
        with result.ended_by_errors("a case"):
            labelled = self._label(result, scan, report)
        result.seconds += perf_counter() - started
        return labelled

    def load(self) -> None:
        """Load the bundle and make it ready, before there is a scan."""
        self.loaded.append(load_predictor(self.job))

    def _label(self, result: CaseResult, scan: Scan, report: Report) -> Labelled:
        seconds = dict(scan.seconds)
        if not self.loaded:
            report(f"{result.case}: loading {self.job.bundle.name}", 0.0)
            started = perf_counter()
            self.load()
            seconds["load"] = perf_counter() - started
        started = perf_counter()
        predictor = self.loaded[0]
        size = " x ".join(map(str, scan.volume.spatial_shape))
        report(f"{result.case}: {size} voxels on {predictor.device_name}", 0.0)
        labels = predictor(scan.volume.measured(), report)
        seconds["predict"] = perf_counter() - started
        return Labelled(
            labels,
            predictor.confidence,
            predictor.surface_confidence,
            predictor.device_name,
            predictor.notices,
            predictor.facts,
            seconds,
        )


def finish_case(result: CaseResult, scan: Scan, labelled: Labelled, job: Job) -> CaseResult:
    """The last stage: a verdict, and every file where it belongs."""
    started = perf_counter()
    with result.ended_by_errors("a case"):
        verdict = Judge(job.bundle)(scan.volume.measured(), labelled.labels, labelled.surface_confidence)
        result.verdict = verdict
        seconds = {**labelled.seconds, "verdict": perf_counter() - started}
        facts = RunFacts(labelled.device, seconds, labelled.notices, labelled.facts, verdict)
        with job.destination.case_folder(str(result.case)) as folder:
            remove_left_overs(folder)  # of an attempt that was killed
            if scan.address is None or not is_being_stored(folder, job.run):
                write_case(
                    folder,
                    labelled.labels,
                    scan.volume,
                    job.bundle,
                    facts,
                    scan.formats,
                    job.options.pages,
                    labelled.confidence,
                    scan.source,
                )
            result.take_findings(json.loads((folder / "report.json").read_text(encoding="utf-8")))
            if scan.address is not None:
                result.warnings = [*result.warnings, *store_case(folder, result.files, scan.address, job.run)]
        result.found = ()
    result.seconds += perf_counter() - started
    return result


def load_predictor(job: Job) -> Predictor:
    """The bundle, ready; here, and not before an input has been read, torch and MONAI are imported."""
    bundle, options = job.bundle, job.options
    if options.only_predicts and not python_names(bundle.folder):
        from ..inference.lean_import import import_monai_for_inference
        from ..inference.memory import keep_freed_memory

        import_monai_for_inference()
        keep_freed_memory()
    from ..inference.predictor import Predictor

    return Predictor(
        bundle,
        options.device,
        precision=options.precision,
        engine=options.engine,
        compile=options.compile,
        confidence=options.confidence,
    )
