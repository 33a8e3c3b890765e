"""The data of a training as MLflow keeps them: names and digests."""

from __future__ import annotations

import json
from pathlib import Path

from scanloom.pipeline.training.dataset import file_digests, read_dataset, split_dataset
from scanloom.pipeline.training.dataset_inputs import case_rows, dataset_input, split_digest


def rows_of(crops: Path, fold: int | None) -> list[dict[str, str]]:
    return case_rows(split_dataset(crops, fold, 3), file_digests(read_dataset(crops)))


def test_a_row_names_a_case_and_its_contents_and_no_path(crops: Path) -> None:
    rows = rows_of(crops, 0)
    assert [row["context"] for row in rows] == ["training"] * 4 + ["validation"] * 2
    assert len({row["image_sha256"] for row in rows}) == 6
    assert "PHICANARY" not in json.dumps([rows, dataset_input("crops", rows, "training")])


def test_two_contexts_are_two_datasets_of_one_name(crops: Path) -> None:
    rows = rows_of(crops, 0)
    training, validation = (dataset_input("crops", rows, context) for context in ("training", "validation"))
    assert training["name"] == validation["name"] == "crops"
    assert training["digest"] != validation["digest"] and len(training["digest"]) <= 36
    assert json.loads(training["profile"])["num_rows"] == 4


def test_figures_are_of_the_same_cases_only_where_these_were_held_out(crops: Path) -> None:
    first, second = (split_digest(rows_of(crops, fold)) for fold in (0, 1))
    assert first != second and len(first) == len(second) == 64
    assert split_digest(rows_of(crops, None)) == ""
