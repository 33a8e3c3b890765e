"""What the scores of many cases come to, against sums by hand."""

from __future__ import annotations

from math import inf, isnan, nan, sqrt

import pytest
from scanloom.pipeline.training.metrics import FOUND, METRICS, MISSED
from scanloom.pipeline.training.scores import statistic, summarize, worst_first
from score_makers import LABELS, case, failed


def test_a_statistic_is_of_the_finite_values_and_says_how_many_there_are() -> None:
    found = statistic([1.0, nan, 2.0, inf, 6.0])
    assert (found.mean, found.median, found.min, found.max, found.cases) == (3, 2, 1, 6, 3)
    assert found.std == pytest.approx(sqrt((4 + 1 + 9) / 2))


def test_a_single_value_has_no_spread_and_none_has_nothing() -> None:
    assert isnan(statistic([0.5]).std)
    nothing = statistic([nan, inf])
    assert nothing.cases == 0
    assert all(isnan(value) for value in (nothing.mean, nothing.std, nothing.median, nothing.min, nothing.max))


def test_the_key_figure_is_the_mean_over_labels_of_their_means_over_cases() -> None:
    """nnU-Net's: where a label is absent in a case it differs from the mean of the cases' means."""
    summary = summarize([case("a", 0.9, 0.5), case("b", 0.7, nan), case("c", 0.8, 0.7)], LABELS)
    assert [row.metrics["dice"].mean for row in summary.labels] == [pytest.approx(0.8), pytest.approx(0.6)]
    over = summary.over_labels["dice"]
    assert over.mean == pytest.approx(0.7)
    assert (over.min, over.median, over.max) == (pytest.approx(0.7), pytest.approx(0.7), pytest.approx(0.75))
    assert over.cases == 3


def test_missed_labels_count_as_zero_in_dice_and_are_told_where_they_have_no_distance() -> None:
    missed = case("b", 0.0, 0.0, outcome=MISSED, hd95_mm=inf)
    summary = summarize([case("a", 0.8, 0.8, hd95_mm=2.0), missed], LABELS)
    [first, _] = summary.labels
    assert first.outcomes == {FOUND: 1, MISSED: 1}
    assert first.metrics["dice"].mean == pytest.approx(0.4)
    assert (first.metrics["hd95_mm"].mean, first.metrics["hd95_mm"].cases) == (2.0, 1)


def test_failed_cases_are_in_no_statistic() -> None:
    summary = summarize([case("a", 0.9, 0.9), failed("b")], LABELS)
    assert summary.over_labels["dice"].cases == 1


def test_the_folds_of_a_cross_validation_are_pooled_by_case_and_shown_one_by_one() -> None:
    cases = [case("a", 0.9, 0.7, fold=0), case("b", 0.7, 0.7, fold=0), case("c", 0.5, 0.3, fold=1)]
    summary = summarize(cases, LABELS, folds=[0, 1])
    assert summary.labels[0].folds["dice"] == [pytest.approx(0.8), pytest.approx(0.5)]
    assert summary.folds["dice"] == [pytest.approx(0.75), pytest.approx(0.4)]
    assert summary.labels[0].metrics["dice"].mean == pytest.approx(0.7)


def test_without_any_scored_case_there_is_a_summary_of_nothing() -> None:
    summary = summarize([failed("a")], LABELS)
    assert all(isnan(summary.over_labels[name].mean) for name in METRICS)


def test_the_worst_case_comes_first_failed_ones_before_all_and_empty_ones_last() -> None:
    cases = [case("empty", nan, nan), case("good", 0.9, 0.9), case("bad", 0.1, 0.9), failed("failed")]
    assert [each.case for each in worst_first(cases)] == ["failed", "bad", "good", "empty"]
