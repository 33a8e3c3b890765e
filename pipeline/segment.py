"""The story of a prediction: inputs -> series -> volumes -> labels -> files; one bad case does not stop the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .bundle import Bundle
from .cohort.destination import destination_of
from .cohort.here import run_here
from .cohort.job import Job, inputs_of
from .cohort.tables import Tables
from .errors import UsageError
from .outputs import NOT_DICOM, check_formats
from .prediction import CaseResult, PredictOptions
from .progress import Report, silent
from .trust import require_trust
from .verdicts import Judge

if TYPE_CHECKING:
    from .inference.predictor import Predictor

__all__ = ["CaseResult", "PredictOptions", "predict"]


def predict(
    bundle: Bundle, options: PredictOptions, report: Report = silent, loaded: list[Predictor] | None = None
) -> list[CaseResult]:
    """Label every input and write its files; one bad case does not stop the others.

    The network, and the seconds that loading it takes, comes only when an input has been found and can be read.

    Args:
        bundle: what to run.
        options: on what, and where to.
        report: told of each stage.
        loaded: the bundle as an earlier call with this list has loaded it, or an empty list, which keeps it; a cluster
            loads its own.
    Returns:
        How each input ended, in their order; OUT/summary.csv holds the same.
    Raises:
        UsageError, BundleError: nothing could run at all.
        FolderInUseError: another run writes to OUT.
    """
    bundle = require_trust(bundle, given=options.trust_bundle)
    _require_usable(bundle, options)
    job = Job(bundle, inputs_of(options), options, destination_of(options.output))
    with job.destination.locked(), Tables(job) as tables:
        if options.cluster is None:
            run_here(job, tables.add, report, [] if loaded is None else loaded)
        else:
            from .cohort.on_ray import run_on_ray

            run_on_ray(job, tables.add, report)
    return tables.results


def _require_usable(bundle: Bundle, options: PredictOptions) -> None:
    """Return where bundle and options can be used at all, which costs nothing to know.

    Raises:
        BundleError: the bundle's metadata or weights can not be read.
        UsageError: a format is unknown, or options do not go together.
    """
    _ = bundle.labels, bundle.version, bundle.series_rule, bundle.weights_sha256, Judge(bundle)
    check_formats(options.formats)
    if options.workers is not None and (options.workers < 1 or options.cluster is None):
        raise UsageError(f"--workers {options.workers}: it must be 1 or more, and goes with --cluster.")
    if options.store and all(isinstance(given, Path) for given in options.inputs):
        raise UsageError("--store: no input came from a server. Give one as dicomweb://HOST/…/studies/UID.")
    if options.store and options.formats and not {*options.formats} - NOT_DICOM:
        raise UsageError("--store: only DICOM objects go to a server. Add --format dicom-seg, or leave out --format.")
    if options.store and "://" in str(options.output):
        raise UsageError("--store goes with results in a folder. Give one with -o.")
