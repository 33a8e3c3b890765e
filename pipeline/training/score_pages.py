"""What the page of an evaluation shows, as plain values for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any
from urllib.parse import quote

from ..bundle import LabelClass
from .metrics import FOUND, METRICS, LabelScores
from .score_files import shown
from .scores import CaseScores, LabelSummary, Statistic, Summary, worst_first

SHOWN_LABELS = 8
"""Labels of a case that its row shows, the worst; the others open on a click."""
OF_CASES = ("dice", "surface_dice", "hd95_mm", "surface_distance_mm", "volume_error_ml")
"""The metrics of a case's labels; all others are in the CSV file."""


def page_content(
    title: str,
    facts: Mapping[str, str],
    notices: Sequence[str],
    cases: Sequence[CaseScores],
    labels: Sequence[LabelClass],
    summary: Summary,
    pictures: Mapping[str, str],
) -> dict[str, Any]:
    """The content of the template `evaluation.html`.

    Args:
        title: what was evaluated.
        facts: name -> value, for the foot of the page.
        notices: what must be known to read the figures.
        cases: in any order.
        labels: of the bundle.
        summary: of the cases.
        pictures: case -> path of its picture beside the page.
    """
    names = {label.value: label.name for label in labels}
    rows = [_case_row(case, names, pictures.get(case.case)) for case in worst_first(cases)]
    return {
        "title": title,
        "key_figure": shown(summary.over_labels["dice"].mean, 4),
        "facts": dict(facts),
        "notices": list(notices),
        "metrics": [metric.title for metric in METRICS.values()],
        "summary": [*map(_label_row, summary.labels), _over_labels_row(summary)],
        "of_folds": bool(summary.folds["dice"]),
        "case_metrics": [METRICS[name].title for name in OF_CASES],
        "pictures": [row for row in rows if row["picture"]],
        "rows": rows,
        "limit": SHOWN_LABELS,
    }


def _label_row(label: LabelSummary) -> dict[str, Any]:
    others = {outcome: number for outcome, number in label.outcomes.items() if outcome != FOUND}
    return {
        "name": label.name,
        "cases": sum(label.outcomes.values()),
        "others": ", ".join(f"{number} {outcome}" for outcome, number in others.items()),
        "cells": _cells(label.metrics),
        "folds": [shown(value, 4) for value in label.folds["dice"]],
    }


def _over_labels_row(summary: Summary) -> dict[str, Any]:
    return {
        "name": "mean over labels",
        "cases": "",
        "others": "",
        "cells": _cells(summary.over_labels),
        "folds": [shown(value, 4) for value in summary.folds["dice"]],
    }


def _cells(metrics: Mapping[str, Statistic]) -> list[dict[str, str]]:
    """Mean, spread and range of each metric."""
    cells = []
    for name, metric in METRICS.items():
        value = metrics[name]
        mean, std, middle, low, high = (
            shown(number, metric.digits) for number in (value.mean, value.std, value.median, value.min, value.max)
        )
        cells.append({"mean": mean, "std": std, "range": f"{low} to {high}", "median": middle})
    return cells


def _case_row(case: CaseScores, names: Mapping[int, str], picture: str | None) -> dict[str, Any]:
    return {
        "case": case.case,
        "fold": "" if case.fold is None else case.fold,
        "seen": case.seen,
        "error": str(case.error) if case.error else None,
        "dice": shown(case.mean("dice"), 4),
        "labels": [_label_cells(names[scores.value], scores) for scores in sorted(case.labels, key=_rank)],
        "picture": quote(picture) if picture else None,
    }


def _label_cells(name: str, scores: LabelScores) -> dict[str, Any]:
    values = [shown(getattr(scores, metric), METRICS[metric].digits) for metric in OF_CASES]
    return {"name": name, "outcome": "" if scores.outcome == FOUND else scores.outcome, "cells": values}


def _rank(scores: LabelScores) -> tuple[float, int]:
    """The worst Dice first; labels that are in neither map last."""
    return scores.dice if isfinite(scores.dice) else 2.0, scores.value
