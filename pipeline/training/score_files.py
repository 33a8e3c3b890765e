"""The files of an evaluation: metrics.csv for programs, metrics.json with what it all comes to, table.md for a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite, isnan
from pathlib import Path
from typing import Any

from ..atomic import write_whole
from ..bundle import LabelClass
from .csv_table import csv_table
from .metrics import METRICS
from .scores import CaseScores, Statistic, Summary, statistic

COLUMNS = ("case", "fold", "seen", "value", "label", "outcome", "reference_ml", "prediction_ml", *METRICS, "error")
CARD = ("dice", "surface_dice", "hd95_mm", "surface_distance_mm", "volume_error")
"""The metrics of table.md."""


def write_metrics_csv(path: Path, cases: Sequence[CaseScores], labels: Sequence[LabelClass]) -> None:
    """Write metrics.csv: a row a case and label; of a failed case one row with its error.

    nan is an empty field, infinity "inf".

    Raises:
        PipelineError: the file can not be written.
    """
    names = {label.value: label.name for label in labels}
    rows: list[dict[str, Any]] = []
    for case in cases:
        about = {"case": case.case, "fold": "" if case.fold is None else case.fold, "seen": case.seen}
        if case.error is not None:
            rows.append({**about, "error": " ".join(str(case.error).split())})
        for scores in case.labels:
            values = {key: _field(value) for key, value in asdict(scores).items()}
            rows.append({**about, **values, "label": names[scores.value]})
    write_whole(path, csv_table(COLUMNS, rows).encode())


def write_metrics_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write metrics.json.

    Raises:
        PipelineError: the file can not be written.
    """
    write_whole(path, (json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode())


def write_card_table(path: Path, summary: Summary) -> None:
    """Write table.md: the rows of `card_rows` for a model card.

    Raises:
        PipelineError: the file can not be written.
    """
    head, *rows = card_rows(summary)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def card_rows(summary: Summary) -> list[list[str]]:
    """What an evaluation comes to, as a table: its head, a row a label, and one over the labels.

    The mean and, in brackets, the spread: of Dice over the cases; of a cross-validation's Dice over the folds, too.
    """
    of_folds = bool(summary.folds["dice"])
    head = ["label", "cases", "missed", "false alarms", "Dice", "lowest", "highest"]
    head += ["over the folds"] * of_folds + [METRICS[name].title for name in CARD[1:]]
    rows = [
        _card_row(
            label.name,
            [
                str(sum(label.outcomes.values())),
                *(str(label.outcomes.get(key, 0)) for key in ("missed", "false alarm")),
            ],
            label.metrics,
            label.folds["dice"],
        )
        for label in summary.labels
    ]
    return [head, *rows, _card_row("mean over labels", ["", "", ""], summary.over_labels, summary.folds["dice"])]


def summary_json(summary: Summary) -> dict[str, Any]:
    """The summary in JSON's values, with null for what has none."""
    return {
        "labels": {
            label.name: {
                "outcomes": label.outcomes,
                **{name: _statistic_json(value, label.folds[name]) for name, value in label.metrics.items()},
            }
            for label in summary.labels
        },
        "over_labels": {
            name: _statistic_json(value, summary.folds[name]) for name, value in summary.over_labels.items()
        },
    }


def case_json(case: CaseScores) -> dict[str, Any]:
    """How a case ended, in JSON's values."""
    return {
        "case": case.case,
        "fold": case.fold,
        "seen": case.seen,
        "dice": _number(case.mean("dice")),
        "seconds": round(case.seconds, 3),
        "error": str(case.error) if case.error else None,
    }


def shown(value: float, digits: int) -> str:
    """The number for people; a dash where there is none."""
    return "-" if isnan(value) else f"{value:.{digits}f}"


def _card_row(name: str, counts: Sequence[str], metrics: Mapping[str, Statistic], folds: Sequence[float]) -> list[str]:
    dice = metrics["dice"]
    return [
        name,
        *counts,
        _with_spread(dice, 4),
        *(shown(value, 4) for value in (dice.min, dice.max)),
        *([_with_spread(statistic(folds), 4)] if folds else []),
        *(_with_spread(metrics[metric], METRICS[metric].digits) for metric in CARD[1:]),
    ]


def _with_spread(value: Statistic, digits: int) -> str:
    return f"{shown(value.mean, digits)} ({shown(value.std, digits)})"


def _statistic_json(value: Statistic, folds: Sequence[float]) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        key: number if key == "cases" else _number(number) for key, number in asdict(value).items()
    }
    if folds:
        over = statistic(folds)
        numbers["folds"] = {"means": list(map(_number, folds)), "mean": _number(over.mean), "std": _number(over.std)}
    return numbers


def _number(value: float) -> float | None:
    return value if isfinite(value) else None


def _field(value: float | str) -> str:
    """Of a CSV file: every digit, nothing for nan."""
    if not isinstance(value, float):
        return str(value)
    return "" if isnan(value) else f"{value:.9g}"
