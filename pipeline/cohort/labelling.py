"""The second stage of a case: label what was read of it."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle_modules import python_names
from ..prediction import CaseResult
from ..progress import Report, silent
from ..volume import Notice
from .job import Job
from .reading import Scan

if TYPE_CHECKING:
    from ..inference.predictor import Predictor


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
