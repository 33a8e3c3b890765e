"""The story of a prediction: inputs -> series -> volumes -> labels -> files, one case after the other."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .bundle import Bundle
from .bundle_modules import python_names
from .errors import PipelineError, UsageError, our_own
from .limits import MAX_VOXELS
from .lock import locked
from .outputs import (
    RunFacts,
    SummaryRow,
    check_formats,
    choose_formats,
    install_viewer,
    whole_report,
    write_case,
    write_index,
    write_summary,
)
from .progress import Report, Share, silent
from .studies import Series, select_series
from .studies.isolation import StudyProcess
from .trust import require_trust
from .verdict import Verdict
from .verdicts import Judge

if TYPE_CHECKING:
    from .inference.predictor import Predictor

log = logging.getLogger("scanloom.segment")


@dataclass(frozen=True)
class PredictOptions:
    """What the command line says of a prediction.

    Attributes:
        inputs: files and folders, one case each.
        output: the folder OUT; a case's files go to OUT/<case>.
        series: which series of each input; None where the bundle's rule must decide.
        formats: of `outputs.FORMATS`; empty for NIfTI, with DICOM SEG for DICOM and TIFF for pictures.
        device: "auto", "cpu", "cuda", …; several of one kind with commas between.
        precision: "auto", "fp32", "bf16" or "fp16".
        engine: "torch", "openvino" or "onnxruntime".
        compile: run the network through `torch.compile`.
        trust_bundle: run a bundle that is a stranger's.
        names_of_source: call DICOM cases after the folders of their files, which may name a patient.
        max_voxels: refuse a scan that claims more.
        skip_existing: leave cases alone that these weights have done already, where every file is as it was written.
        pages: write index.html, and for each case view.html, which shows image and labels in a browser.
        only_predicts: the process does nothing else with MONAI, so that it can leave out what training needs.
        confidence: write confidence.nii.gz, how sure the network is of each voxel.
    """

    inputs: Sequence[Path]
    output: Path
    series: str | None = None
    formats: Sequence[str] = ()
    device: str = "auto"
    precision: str = "auto"
    engine: str = "torch"
    compile: bool = False
    trust_bundle: bool = False
    skip_existing: bool = False
    names_of_source: bool = False
    max_voxels: int = MAX_VOXELS
    pages: bool = True
    only_predicts: bool = False
    confidence: bool = False


@dataclass
class CaseResult:
    """How one input ended.

    Attributes:
        case: its name; None where it was refused before it had one.
        description: the words of imaging in the series' description.
        status: "done", "skipped", "refused" or "failed".
        folder: of its files.
        volumes_ml: label name -> millilitres.
        files: names of the outputs in the folder.
        error: what stopped it.
        found: the series of the input.
        verdict: whether the result can be trusted; None where there is none.
    """

    case: str | None
    description: str = ""
    status: str = "done"
    folder: Path | None = None
    seconds: float = 0.0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    warnings: list[dict[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    error: PipelineError | None = None
    found: tuple[Series, ...] = ()
    verdict: Verdict | None = None


def predict(
    bundle: Bundle, options: PredictOptions, report: Report = silent, loaded: list[Predictor] | None = None
) -> list[CaseResult]:
    """Label every input and write its files; one bad case does not stop the others.

    The network, and the seconds that loading it takes, comes only when an input has been found and can be read.

    Args:
        bundle: what to run.
        options: on what, and where to.
        report: told of each stage.
        loaded: the bundle as an earlier call with this list has loaded it, or an empty list, which keeps it.
    Returns:
        How each input ended, in their order; OUT/summary.csv holds the same.
    Raises:
        UsageError, BundleError: nothing could run at all.
        FolderInUseError: another run writes to OUT.
    """
    bundle = require_trust(bundle, given=options.trust_bundle)
    _ = bundle.labels, bundle.version, bundle.series_rule, bundle.weights_sha256
    check_formats(options.formats)
    judge = Judge(bundle)
    with (
        locked(options.output),
        StudyProcess(
            options.max_voxels,
            names_of_source=options.names_of_source,
            shows_errors=log.isEnabledFor(logging.DEBUG),
        ) as studies,
    ):
        return _segment_all(bundle, judge, options, studies, report, [] if loaded is None else loaded)


def _segment_all(
    bundle: Bundle,
    judge: Judge,
    options: PredictOptions,
    studies: StudyProcess,
    report: Report,
    loaded: list[Predictor],
) -> list[CaseResult]:
    """Every case, one after the other; OUT is ours."""
    if options.pages:
        install_viewer(options.output)
    results: list[CaseResult] = []
    for index, path in enumerate(options.inputs):
        started = perf_counter()
        result = CaseResult(None)
        try:
            share = Share(report, index / len(options.inputs), (index + 1) / len(options.inputs))
            _segment(path, result, bundle, judge, options, studies, loaded, [done.case for done in results], share)
        except PipelineError as error:
            result.status = "refused" if error.exit_status in (2, 3) else "failed"
            result.error = error
        except Exception as error:
            log.debug("case failed", exc_info=True)
            name = result.case or f"input {len(results) + 1}"
            result.status = "failed"
            result.error = PipelineError(f"{name}: {our_own(error)}")
            result.error.__cause__ = error
        result.seconds = perf_counter() - started
        results.append(result)
        _write_tables(bundle, options, results)  # after each case, so that an interrupt leaves them true
    return results


def _write_tables(bundle: Bundle, options: PredictOptions, results: Sequence[CaseResult]) -> None:
    rows = [_row(result) for result in results]
    write_summary(options.output / "summary.csv", rows)
    if options.pages:
        write_index(options.output / "index.html", rows, bundle)


def _segment(
    path: Path,
    result: CaseResult,
    bundle: Bundle,
    judge: Judge,
    options: PredictOptions,
    studies: StudyProcess,
    loaded: list[Predictor],
    taken: Sequence[str | None],
    report: Share,
) -> None:
    """One case, from its path to its files; fills in the result as far as it comes."""
    clock = _Clock()
    result.found = tuple(studies.find(path))
    series = select_series(result.found, bundle.series_rule, options.series)
    result.case, result.description = series.case, series.description
    if series.case in taken:
        raise UsageError(f"two inputs are called {series.case}. Rename one, or predict them into two folders.")
    result.folder = options.output / series.case
    extra = ("confidence.nii.gz",) if options.confidence else ()
    if options.skip_existing and (old := whole_report(result.folder, bundle.weights_sha256, options.formats, extra)):
        result.status = "skipped"
        _take_findings(result, old)
        return
    report(f"{series.case}: reading {series.slices} slices", 0.0)
    volume = studies.read(series)
    choose_formats(options.formats, volume)
    clock.lap("read")
    if not loaded:
        report(f"{series.case}: loading {bundle.name}", 0.1)
        loaded.append(_load(bundle, options))
        clock.lap("load")
    predictor = loaded[0]
    size = " x ".join(map(str, volume.spatial_shape))
    report(f"{series.case}: {size} voxels on {predictor.device_name}", 0.2)
    measured = volume.measured()
    labels = predictor(measured, report.part(0.2, 0.9))
    clock.lap("predict")
    result.verdict = judge(measured, labels, predictor.surface_confidence)
    clock.lap("verdict")
    report(f"{series.case}: writing", 0.9)
    facts = RunFacts(predictor.device_name, clock.seconds, predictor.notices, predictor.facts, result.verdict)
    written = write_case(
        result.folder, labels, volume, bundle, facts, options.formats, options.pages, predictor.confidence
    )
    _take_findings(result, json.loads(written["report"].read_text(encoding="utf-8")))


def _take_findings(result: CaseResult, report: Mapping[str, Any]) -> None:
    """Volumes, verdict, warnings and files of a case, from its report."""
    if report.get("verdict"):
        result.verdict = Verdict.from_json(report["verdict"])
    result.volumes_ml = {label["name"]: label["volume_ml"] for label in report["labels"]}
    result.warnings = report["warnings"]
    result.files = [*report["outputs"], "report.json"]


def _load(bundle: Bundle, options: PredictOptions) -> Predictor:
    """The bundle, ready; here, and not before an input has been read, torch and MONAI are imported."""
    if options.only_predicts and not python_names(bundle.folder):
        from .inference.lean_import import import_monai_for_inference
        from .inference.memory import keep_freed_memory

        import_monai_for_inference()
        keep_freed_memory()
    from .inference.predictor import Predictor

    return Predictor(
        bundle,
        options.device,
        precision=options.precision,
        engine=options.engine,
        compile=options.compile,
        confidence=options.confidence,
    )


def _row(result: CaseResult) -> SummaryRow:
    return SummaryRow(
        result.case,
        result.status,
        result.seconds,
        result.volumes_ml,
        str(result.error) if result.error else None,
        result.description,
        [warning["message"] for warning in result.warnings],
        result.files,
        result.verdict,
    )


class _Clock:
    """Seconds of the stages of a case."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap belongs to `stage`."""
        now = perf_counter()
        self.seconds[stage], self._last = now - self._last, now
