"""The story of an evaluation: a dataset's held-out cases -> labels, as predict makes them -> scores -> tables, page."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from .bundle import Bundle, SeriesRule, find_bundle
from .errors import BundleError, PipelineError, StudyError, UsageError, our_own
from .evaluation_files import remove_old_files, write_evaluation
from .limits import MAX_VOXELS
from .lock import locked
from .outputs.checks import check_named
from .progress import Report, Share, silent
from .studies import select_series
from .studies.isolation import StudyProcess
from .training.dataset import Case, dataset_digest, list_cases, read_json
from .training.dataset_description import IGNORE, describe_dataset
from .training.dataset_faults import list_faults
from .training.gallery import Gallery
from .training.held_out import Chosen, choose_across_folds, choose_cases
from .training.metrics import LabelScores, score_labels
from .training.score_files import write_metrics_csv
from .training.scores import CaseScores, Summary, summarize
from .training.voxel_faults import count_labels, grid_fault, label_faults
from .trust import require_trust
from .volume import Volume

if TYPE_CHECKING:
    from .inference.predictor import Predictor

log = logging.getLogger("scanloom.evaluate")


@dataclass(frozen=True)
class EvaluateOptions:
    """What the command line says of an evaluation.

    Attributes:
        dataset: a Medical Decathlon or nnU-Net raw folder.
        output: the folder OUT.
        fold: a fold's number, "all" for every case, None for the cases that training held out.
        folds: number of folds; None for the training's.
        tolerance_mm: of the surface Dice.
        device: as `predict` takes it.
        precision: likewise.
        trust_bundle: run a bundle that is a stranger's.
        pictures: how many cases to show, the worst.
    """

    dataset: Path
    output: Path
    fold: int | str | None = None
    folds: int | None = None
    tolerance_mm: float = 1.0
    device: str = "auto"
    precision: str = "auto"
    trust_bundle: bool = False
    pictures: int = 8


@dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        cases: in the order of their folds and names.
        summary: of those that were scored.
        content: of metrics.json.
    """

    cases: tuple[CaseScores, ...]
    summary: Summary
    content: dict[str, Any]


@dataclass(frozen=True)
class _Dataset:
    cases: list[Case]
    digest: str | None
    ignored: int | None


def find_bundles(name_or_folder: str) -> list[Bundle]:
    """The bundle of that name or folder; of the run folder of a cross-validation the bundles of all its folds.

    Raises:
        BundleError: there is none, or a fold has none.
    """
    run = Path(name_or_folder).expanduser()
    folds = sorted(path.name for path in run.glob("fold[0-9]*") if path.is_dir())
    if not folds:
        return [find_bundle(name_or_folder)]
    for number in range(max(2, len(folds))):
        if not (run / f"fold{number}" / "bundle" / "models" / "model.pt").is_file():
            raise BundleError(
                f"{run}: fold {number} has no trained bundle. Finish the training with --resume, or evaluate one fold "
                f"with -b {run / folds[0] / 'bundle'}."
            )
    return [find_bundle(run / f"fold{number}" / "bundle") for number in range(len(folds))]


def evaluate(bundles: Sequence[Bundle], options: EvaluateOptions, report: Report = silent) -> Evaluation:
    """Label the cases, compare with the references, and write OUT/metrics.csv, metrics.json, table.md and index.html.

    One bad case does not stop the others. Rows of metrics.csv come case by case, the other files when all are done.

    Args:
        bundles: one; or all folds of a cross-validation, each of which is judged by its own held-out cases.
        options: on what, and where to.
        report: told of each case.
    Raises:
        UsageError, BundleError: nothing could run at all.
        FolderInUseError: another run writes to OUT.
    """
    bundles = [require_trust(bundle, given=options.trust_bundle) for bundle in bundles]
    for bundle in bundles:
        _ = bundle.labels, bundle.version, bundle.weights_sha256
    _check(options, bundles)
    dataset = _read_dataset(options.dataset)
    chosen = _choose(bundles, dataset, options)
    for notice in dict.fromkeys(notice for each in chosen for notice in each.notices):
        report(f"note: {notice}")
    with (
        locked(options.output),
        StudyProcess(MAX_VOXELS, shows_errors=log.isEnabledFor(logging.DEBUG)) as studies,
    ):
        remove_old_files(options.output)
        work = _Work(options, dataset.ignored, studies, sum(len(each.cases) for each in chosen), report)
        for bundle, each in zip(bundles, chosen, strict=True):
            work.score_all(bundle, each)
        return _finish(bundles, chosen, dataset, work)


class _Work:
    """Goes from case to case; holds what was found so far.

    Args:
        options: of the command.
        ignored: the value of the references' voxels that count nowhere.
        studies: reads the files.
        number: of cases in all.
        report: told of each case.
    """

    def __init__(
        self, options: EvaluateOptions, ignored: int | None, studies: StudyProcess, number: int, report: Report
    ) -> None:
        self.options, self.ignored, self.studies, self.number, self.report = options, ignored, studies, number, report
        self.results: list[CaseScores] = []
        self.gallery = Gallery(options.output, options.pictures)
        self.gallery.remove_old()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.device, self.precision = "", ""

    def score_all(self, bundle: Bundle, chosen: Chosen) -> None:
        """The cases of one bundle.

        Raises:
            UsageError, BundleError: its network can not be loaded as asked for.
        """
        self.report(f"loading {bundle.name}", len(self.results) / self.number)
        with self._timed("load"):
            predictor = _load(bundle, self.options)
        self.device, self.precision = predictor.device_name, predictor.precision
        for case in chosen.cases:
            started, done = perf_counter(), len(self.results)
            error: PipelineError | None = None
            scores: list[LabelScores] = []
            share = Share(self.report, done / self.number, (done + 1) / self.number)
            try:
                scores = self._score(case, bundle, predictor, share)
            except PipelineError as known:
                error = known
            except Exception as unforeseen:
                log.debug("case failed", exc_info=True)
                error = PipelineError(f"case {case.name}: {our_own(unforeseen)}")
                error.__cause__ = unforeseen
            seconds = perf_counter() - started
            self.results.append(
                CaseScores(case.name, chosen.seen[case.name], chosen.fold, tuple(scores), seconds, error)
            )
            self._tell(self.results[-1])
            write_metrics_csv(self.options.output / "metrics.csv", self.results, bundle.labels)

    def _score(self, case: Case, bundle: Bundle, predictor: Predictor, report: Share) -> list[LabelScores]:
        """One case, from its two files to the scores of its labels, and to its picture where it is among the worst."""
        with self._timed("read"):
            image = self._read(case.name, case.image, "image", bundle.series_rule)
            reference = self._read_reference(case, image, bundle)
        with self._timed("predict"):
            part = report.part(0.2, 0.9)
            prediction = predictor(image.measured(), lambda _, done=None: part(None, done))
        check_named(count_labels(prediction).voxels, bundle)
        with self._timed("score"):
            values = [label.value for label in bundle.labels]
            axes_mm = image.affine[:3, :3].T
            scores = score_labels(reference, prediction, values, axes_mm, self.options.tolerance_mm, self.ignored)
        with self._timed("pictures"):
            result = CaseScores(case.name, "", None, tuple(scores))
            self.gallery.offer(result, lambda path: _draw(path, case.name, image, reference, prediction, bundle))
        return scores

    def _read(self, name: str, path: Path, kind: str, rule: SeriesRule) -> Volume:
        if not path.is_file():
            raise StudyError(f"case {name}: its {kind} is missing. Put it there, or take the case out of the dataset.")
        return self.studies.read(select_series(self.studies.find(path), rule))

    def _read_reference(self, case: Case, image: Volume, bundle: Bundle) -> np.ndarray:
        """(X, Y, Z) integers on the image's grid, all of them known."""
        label = self._read(case.name, case.label, "label", SeriesRule())
        known = {0: "background", **{each.value: each.name for each in bundle.labels}}
        if self.ignored is not None:
            known[self.ignored] = IGNORE
        wrong = [grid_fault(image, label), *label_faults(count_labels(label.array), known)]
        for what in filter(None, wrong):
            raise StudyError(f"case {case.name}: its label {what}", "label")
        return label.array[0].astype(np.min_scalar_type(max(known)))

    def _tell(self, result: CaseScores) -> None:
        done = len(self.results) / self.number
        if result.error is not None:
            self.report(str(result.error), done)
        else:
            self.report(f"{result.case}: Dice {result.mean('dice'):.4f}, {result.seconds:.1f} s", done)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += perf_counter() - started


def _check(options: EvaluateOptions, bundles: Sequence[Bundle]) -> None:
    """Return where the numbers are usable and OUT is a folder of its own."""
    if not 0 <= options.tolerance_mm < float("inf"):
        raise UsageError(f"--tolerance-mm {options.tolerance_mm:g}: it must be 0 or more.")
    if options.pictures < 0:
        raise UsageError(f"--pictures {options.pictures}: it must be 0 or more.")
    output = options.output.expanduser().resolve()
    if any(output.is_relative_to(bundle.source) for bundle in bundles):
        raise UsageError(f"{options.output} lies in the bundle. Choose another folder with -o.")
    if output.is_relative_to(options.dataset.expanduser().resolve()):
        raise UsageError(f"{options.output} lies in the dataset. Choose another folder with -o.")
    if any((output / name).exists() for name in ("bundle", "fold0", "checkpoints")):
        raise UsageError(f"{options.output} holds a training, whose metrics.csv it is. Choose another folder with -o.")


def _read_dataset(folder: Path) -> _Dataset:
    """The list of cases; files that are missing stop only their own cases."""
    folder = folder.expanduser()
    description = read_json(folder)
    cases = list_cases(folder, description)
    for fault in list_faults(folder, cases):
        raise UsageError(f"dataset {folder}: {fault}")
    whole = all(path.is_file() for case in cases for path in (case.image, case.label))
    return _Dataset(cases, dataset_digest(cases) if whole else None, describe_dataset(description).ignore)


def _choose(bundles: Sequence[Bundle], dataset: _Dataset, options: EvaluateOptions) -> list[Chosen]:
    if len(bundles) == 1:
        return [choose_cases(bundles[0], dataset.cases, dataset.digest, options.fold, options.folds)]
    if options.fold is not None or options.folds is not None:
        raise UsageError(
            "--fold and --folds: each fold of a cross-validation is judged by its own held-out cases. Leave them out, "
            "or evaluate one bundle with -b RUN/fold0/bundle."
        )
    return choose_across_folds(bundles, dataset.cases, dataset.digest)


def _load(bundle: Bundle, options: EvaluateOptions) -> Predictor:
    """The bundle, ready, as `predict` has it; torch is imported here, after arguments and dataset were looked at."""
    from .inference.predictor import Predictor

    return Predictor(bundle, options.device, precision=options.precision)


def _draw(path: Path, name: str, image: Volume, reference: np.ndarray, prediction: np.ndarray, bundle: Bundle) -> None:
    """A case's picture, seen with its axes nearest to R, A and S."""
    from .atomic import atomic
    from .inference.prepare import canonical_spacing, in_canonical_order
    from .training.overlay import overlay_figure

    scan, truth, guess = (
        in_canonical_order(array, image) for array in (image.measured().array[0], reference, prediction)
    )
    figure = overlay_figure(scan, truth, guess, name, bundle.labels, canonical_spacing(image))
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": "scanloom"})


def _finish(bundles: Sequence[Bundle], chosen: Sequence[Chosen], dataset: _Dataset, work: _Work) -> Evaluation:
    """The summary of all cases, and the files that hold it."""
    options = work.options
    folds = [each.fold for each in chosen if each.fold is not None] if len(chosen) > 1 else []
    summary = summarize(work.results, bundles[0].labels, folds=folds)
    facts = {
        "dataset": {"sha256": dataset.digest, "cases": len(dataset.cases)},
        "settings": {
            "fold": options.fold,
            "folds": options.folds,
            "tolerance_mm": options.tolerance_mm,
            "ignored_label": dataset.ignored,
            "device": work.device,
            "precision": work.precision,
        },
        "seconds": {stage: round(seconds, 3) for stage, seconds in work.seconds.items()},
    }
    content = write_evaluation(options.output, bundles, chosen, work.results, summary, facts, work.gallery.names)
    return Evaluation(tuple(work.results), summary, content)
