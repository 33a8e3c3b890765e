"""The tables of a run: true at every end, and not written more often than they are worth."""

from __future__ import annotations

import csv
import gc
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
from factories import make_bundle, make_volume, write_mr_series
from scanloom.pipeline.cohort import tables
from scanloom.pipeline.cohort.destination import destination_of
from scanloom.pipeline.cohort.job import Job
from scanloom.pipeline.cohort.tables import Tables
from scanloom.pipeline.prediction import CaseResult, PredictOptions
from scanloom.pipeline.segment import predict
from scanloom.pipeline.studies import AmbiguousSeriesError


@pytest.fixture
def job(tmp_path: Path) -> Job:
    options = PredictOptions([], tmp_path / "out", pages=False)
    return Job(make_bundle(tmp_path / "tiny"), (), options, destination_of(tmp_path / "out"))


def rows(tmp_path: Path) -> list[str]:
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        return [row["case"] for row in csv.DictReader(file)]


def test_rows_stand_in_the_order_of_the_inputs_whichever_ended_first(tmp_path: Path, job: Job) -> None:
    with Tables(job) as made:
        for number in (2, 0, 1):
            made.add(number, CaseResult(f"case{number}"))
    assert rows(tmp_path) == ["case0", "case1", "case2"]
    assert [result.case for result in made.results] == rows(tmp_path)


def test_the_first_row_is_there_at_once(tmp_path: Path, job: Job) -> None:
    with Tables(job) as made:
        made.add(0, CaseResult("first"))
        assert rows(tmp_path) == ["first"]


def test_tables_that_take_long_are_written_seldom_and_whole_at_the_end(
    tmp_path: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    written = []
    write = tables.write_summary

    def slow(*arguments: Any) -> None:
        written.append(now[0])
        now[0] += 1.0
        write(*arguments)

    monkeypatch.setattr(tables, "monotonic", lambda: now[0])
    monkeypatch.setattr(tables, "write_summary", slow)
    with Tables(job) as made:
        for number in range(100):
            now[0] += 1.0
            made.add(number, CaseResult(f"case{number}"))
    assert 5 <= len(written) <= 7  # of 100 seconds one in twenty, and the end
    assert len(rows(tmp_path)) == 100


def test_an_error_in_the_run_leaves_them_true(tmp_path: Path, job: Job) -> None:
    with pytest.raises(ZeroDivisionError), Tables(job) as made:
        made.add(0, CaseResult("one"))
        made.add(1, CaseResult("two"))
        raise ZeroDivisionError
    assert rows(tmp_path) == ["one", "two"]


def test_results_that_are_kept_hold_no_scans(tmp_path: Path, job: Job) -> None:
    class Voxels:
        pass

    held: list[weakref.ref[Voxels]] = []

    def fail(result: CaseResult) -> None:
        with result.ended_by_errors("a case"):
            voxels = Voxels()
            held.append(weakref.ref(voxels))
            raise MemoryError

    failed, done = CaseResult("failed"), CaseResult("done", found=({"case": "done"},))
    fail(failed)
    with Tables(job) as made:
        made.add(0, failed)
        made.add(1, done)
    assert made.results[0].error is not None
    assert made.results[0].error.__cause__ is not None  # for --debug
    gc.collect()
    assert held[0]() is None
    assert done.found == ()


def test_results_of_studies_with_a_choice_of_series_hold_no_headers(tmp_path: Path, job: Job) -> None:
    array, affine = make_volume((12, 13, 14))
    for number in (1, 2):
        write_mr_series(tmp_path / "study" / f"{number}", array, affine, number=number)
    results = predict(
        job.bundle, PredictOptions([tmp_path / "study"], tmp_path / "out", trust_bundle=True, pages=False)
    )
    [error] = [result.error for result in results]
    assert isinstance(error, AmbiguousSeriesError)
    assert [one.number for one in error.candidates] == [1, 2]
    assert len(pickle.dumps(results)) < 8000
