"""The scores of many cases, and what they come to: a label, over the labels, and over the folds.

The figure for a table of models is nnU-Net's: the mean over the cases of each label, and the mean of these over the
labels. Values that are nan or infinite are left out, and every statistic says how many cases it is of; see `metrics`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import fmean, median, stdev
from typing import Any

from ..bundle import LabelClass
from ..errors import PipelineError
from .metrics import METRICS, LabelScores

KEY_METRIC = "dice"


@dataclass(frozen=True)
class CaseScores:
    """One case of an evaluation.

    Attributes:
        case: its name in the dataset.
        seen: whether the bundle was trained on it; see `held_out`.
        fold: whose bundle labelled it; None outside of a cross-validation and of a single fold.
        labels: of every label of the bundle, in the order of their values; empty where it failed.
        seconds: that it took.
        error: what stopped it.
    """

    case: str
    seen: str
    fold: int | None
    labels: tuple[LabelScores, ...] = ()
    seconds: float = 0.0
    error: PipelineError | None = None

    def mean(self, metric: str) -> float:
        """Over the labels that have a finite value; nan where none has."""
        return _mean(getattr(label, metric) for label in self.labels)


@dataclass(frozen=True)
class Statistic:
    """Of a metric over cases; nan throughout where no case has a value.

    Attributes:
        std: of the sample (n - 1); nan for a single case.
        cases: how many have a value.
    """

    mean: float
    std: float
    median: float
    min: float
    max: float
    cases: int


@dataclass(frozen=True)
class LabelSummary:
    """One label over the cases.

    Attributes:
        name: of the label.
        outcomes: FOUND, MISSED, FALSE_ALARM and ABSENT -> number of cases.
        metrics: metric -> statistic.
        folds: metric -> mean of each fold; empty outside of a cross-validation.
    """

    name: str
    outcomes: dict[str, int]
    metrics: dict[str, Statistic]
    folds: dict[str, list[float]]


@dataclass(frozen=True)
class Summary:
    """What an evaluation comes to.

    Attributes:
        labels: in the order of their values.
        over_labels: metric -> statistic: `mean` is the mean of the labels' means, the rest is of the cases' means over
            their labels.
        folds: metric -> mean over the labels of each fold; empty outside of a cross-validation.
    """

    labels: tuple[LabelSummary, ...]
    over_labels: dict[str, Statistic]
    folds: dict[str, list[float]]


def summarize(cases: Sequence[CaseScores], labels: Sequence[LabelClass], *, folds: Sequence[int] = ()) -> Summary:
    """The statistics of the cases that were scored.

    Args:
        cases: all, those that failed too.
        labels: of the bundle.
        folds: of a cross-validation.
    """
    scored = [case for case in cases if case.error is None]
    of_folds = [[case for case in scored if case.fold == fold] for fold in folds]
    rows = tuple(_label_summary(place, label.name, scored, of_folds) for place, label in enumerate(labels))
    over = {name: _over_labels(name, scored, rows) for name in METRICS}
    means = {
        name: [_mean(row.folds[name][place] for row in rows) for place in range(len(folds))] if folds else []
        for name in METRICS
    }
    return Summary(rows, over, means)


def statistic(values: Iterable[float]) -> Statistic:
    """Of the finite values."""
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return Statistic(nan, nan, nan, nan, nan, 0)
    spread = stdev(finite) if len(finite) > 1 else nan
    return Statistic(fmean(finite), spread, median(finite), min(finite), max(finite), len(finite))


def worst_first(cases: Iterable[CaseScores]) -> list[CaseScores]:
    """By the mean Dice over the labels, the lowest first; failed cases before all, those without any label last."""

    def rank(case: CaseScores) -> tuple[bool, float, str]:
        mean = case.mean(KEY_METRIC)
        return case.error is None, mean if isfinite(mean) else 2.0, case.case

    return sorted(cases, key=rank)


def _label_summary(
    place: int, name: str, scored: Sequence[CaseScores], of_folds: Sequence[Sequence[CaseScores]]
) -> LabelSummary:
    def values(metric: str, cases: Sequence[CaseScores]) -> list[float]:
        return [getattr(case.labels[place], metric) for case in cases]

    return LabelSummary(
        name,
        dict(Counter(case.labels[place].outcome for case in scored)),
        {metric: statistic(values(metric, scored)) for metric in METRICS},
        {metric: [_mean(values(metric, cases)) for cases in of_folds] for metric in METRICS},
    )


def _over_labels(metric: str, scored: Sequence[CaseScores], rows: Sequence[LabelSummary]) -> Statistic:
    of_cases = statistic(case.mean(metric) for case in scored)
    values: dict[str, Any] = vars(of_cases) | {"mean": _mean(row.metrics[metric].mean for row in rows)}
    return Statistic(**values)


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if isfinite(value)]
    return fmean(finite) if finite else nan
