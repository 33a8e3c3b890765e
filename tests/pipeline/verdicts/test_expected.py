"""Ranges that follow from a spread."""

from __future__ import annotations

import json
from math import inf, isnan, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanloom.pipeline.fingerprint import Spread
from scanloom.pipeline.verdicts.expected import Yardstick, deviations, expected
from scanloom.pipeline.verdicts.settings import Settings

SETTINGS = Settings()
numbers = st.floats(0.1, 1000, allow_nan=False)
values = st.lists(numbers, min_size=1, max_size=30)
yardsticks = st.builds(Yardstick, floor=st.floats(0.01, 1), ratio=st.booleans(), low=st.booleans(), high=st.booleans())


@given(values=values, how=yardsticks)
def test_every_training_case_is_as_expected(values: list[float], how: Yardstick) -> None:
    limits = expected(Spread.of(values), len(values), how, SETTINGS)
    assert all(limits.severity(value) is None for value in values)


@given(values=values, how=yardsticks, one=numbers, other=numbers)
def test_what_lies_farther_out_is_never_judged_more_mildly(
    values: list[float], how: Yardstick, one: float, other: float
) -> None:
    limits, order = expected(Spread.of(values), len(values), how, SETTINGS), [None, "check", "reject"]
    low, high = sorted((one, other))
    middle = Spread.of(values).median
    near, far = (low, high) if low >= middle else (high, low) if high <= middle else (middle, high)
    assert order.index(limits.severity(near)) <= order.index(limits.severity(far))
    assert limits.excess(near) <= limits.excess(far)


@given(values=values, how=yardsticks, value=numbers)
def test_excess_and_severity_agree(values: list[float], how: Yardstick, value: float) -> None:
    limits = expected(Spread.of(values), len(values), how, SETTINGS)
    assert (limits.excess(value) > 0) == (limits.severity(value) is not None)
    assert not isnan(limits.excess(value))


def test_fewer_cases_leave_more_room() -> None:
    spread, how = Spread(8, 9, 10, 11, 12), Yardstick(0.1)
    few, many = (expected(spread, cases, how, SETTINGS) for cases in (5, 500))
    assert few.check[0] < many.check[0]
    assert few.check[1] > many.check[1]


def test_a_ratio_counts_double_and_half_alike() -> None:
    limits = expected(Spread(1, 1, 1, 1, 1), 10**6, Yardstick(0.1, ratio=True), SETTINGS)
    assert limits.check[0] * limits.check[1] == pytest.approx(1)
    assert limits.severity(2) == limits.severity(0.5)


def test_a_side_without_limit_has_none() -> None:
    how = Yardstick(0.1, low=False)
    limits = expected(Spread(1, 1, 1, 1, 1), 10, how, SETTINGS)
    assert limits.check[0] == -inf
    assert limits.severity(-1e9) is None
    assert limits.severity(1e9) == "reject"


def test_what_is_no_number_is_beyond_belief() -> None:
    assert expected(Spread(1, 1, 1, 1, 1), 10, Yardstick(0.1), SETTINGS).severity(nan) == "reject"


def test_deviations_are_those_of_their_side() -> None:
    spread, how = Spread(0, 8.7184, 10, 12.5632, 13), Yardstick(0.01)
    assert deviations(12, spread, 10**6, how) == pytest.approx(1, rel=1e-3)
    assert deviations(9, spread, 10**6, how) == pytest.approx(-0.35, rel=1e-3)  # the farthest case, 3.5 away
    assert json.dumps(deviations(10, spread, 10, how)) in ("0.0", "-0.0")
