"""The files of an evaluation: every digit in CSV, strict JSON, a table that Markdown shows."""

from __future__ import annotations

import csv
import json
from math import inf, nan
from pathlib import Path

import pytest
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.training.metrics import FALSE_ALARM, METRICS
from scanloom.pipeline.training.score_files import (
    COLUMNS,
    card_rows,
    case_json,
    shown,
    summary_json,
    write_card_table,
    write_metrics_csv,
    write_metrics_json,
)
from scanloom.pipeline.training.scores import CaseScores, summarize
from score_makers import LABELS, case, failed

ALARM = case("alarm", 0.0, 0.123456789, outcome=FALSE_ALARM, hd95_mm=inf, false_negative_rate=nan)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_csv_has_a_row_a_case_and_label_with_every_metric(tmp_path: Path) -> None:
    write_metrics_csv(tmp_path / "metrics.csv", [case("a", 0.9, 0.8, fold=3), ALARM], LABELS)
    rows = rows_of(tmp_path / "metrics.csv")
    assert [(row["case"], row["value"], row["label"]) for row in rows] == [
        (name, value, label) for name in ("a", "alarm") for value, label in (("1", "anterior"), ("2", "posterior"))
    ]
    assert tuple(rows[0]) == COLUMNS
    assert {*METRICS} < {*COLUMNS}
    assert (rows[0]["fold"], rows[0]["seen"], rows[0]["dice"], rows[0]["outcome"]) == ("3", "no", "0.9", "found")
    assert (rows[3]["dice"], rows[3]["hd95_mm"], rows[3]["false_negative_rate"]) == ("0.123456789", "inf", "")


def test_a_failed_case_has_one_row_with_its_error_in_one_line(tmp_path: Path) -> None:
    error = PipelineError("first line,\nsecond line")
    write_metrics_csv(tmp_path / "metrics.csv", [CaseScores("bad", "no", None, error=error)], LABELS)
    [row] = rows_of(tmp_path / "metrics.csv")
    assert (row["case"], row["error"], row["dice"]) == ("bad", "first line, second line", "")


def test_the_json_is_strict_and_has_null_for_what_has_no_value(tmp_path: Path) -> None:
    summary = summary_json(summarize([ALARM], LABELS))
    write_metrics_json(tmp_path / "metrics.json", summary)
    content = json.loads((tmp_path / "metrics.json").read_text(), parse_constant=pytest.fail)
    anterior = content["labels"]["anterior"]
    assert anterior["outcomes"] == {"false alarm": 1}
    assert anterior["hd95_mm"] == dict.fromkeys(("mean", "std", "median", "min", "max")) | {"cases": 0}
    assert content["over_labels"]["dice"]["mean"] == pytest.approx(0.123456789 / 2)


def test_the_json_of_a_cross_validation_has_the_folds(tmp_path: Path) -> None:
    cases = [case("a", 0.9, 0.7, fold=0), case("b", 0.5, 0.3, fold=1)]
    folds = summary_json(summarize(cases, LABELS, folds=[0, 1]))["over_labels"]["dice"]["folds"]
    assert folds["means"] == [pytest.approx(0.8), pytest.approx(0.4)]
    assert folds["mean"] == pytest.approx(0.6)
    assert folds["std"] == pytest.approx(0.2 * 2**0.5)


def test_a_case_in_json_says_how_it_ended() -> None:
    assert case_json(failed("b"))["error"] == "no"
    assert case_json(failed("b"))["dice"] is None
    assert case_json(case("a", 0.5, 0.7))["dice"] == pytest.approx(0.6)


def test_the_table_has_a_row_a_label_and_one_over_them(tmp_path: Path) -> None:
    summary = summarize([case("a", 0.9, 0.7), case("b", 0.8, 0.7), ALARM], LABELS)
    write_card_table(tmp_path / "table.md", summary)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| anterior | 3 | 0 | 1 | 0.5667 (0.4933) | 0.0000 | 0.9000 |")
    assert lines[4].startswith("| mean over labels |  |  |  | 0.5372 (")


def test_the_table_of_a_cross_validation_has_the_spread_over_the_folds() -> None:
    cases = [case("a", 0.9, 0.7, fold=0), case("b", 0.5, 0.7, fold=1)]
    head, anterior, *_ = card_rows(summarize(cases, LABELS, folds=[0, 1]))
    assert anterior[head.index("over the folds")] == "0.7000 (0.2828)"


def test_a_number_that_is_none_is_shown_as_a_dash() -> None:
    assert (shown(nan, 2), shown(inf, 2), shown(1 / 3, 2)) == ("-", "inf", "0.33")
