"""Ranges of random parameters: what a bare value means, how they are drawn, what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import ranges
from scanloom.transforms.ranges import Range

KINDS = {
    "symmetric": ranges.symmetric,
    "non_negative": ranges.non_negative,
    "factor": ranges.factor,
    "fraction": ranges.fraction,
}


@pytest.mark.parametrize(
    ("kind", "setting", "expected"),
    [
        ("symmetric", 15, Range(-15, 15)),
        ("symmetric", -15, Range(-15, 15)),
        ("symmetric", (-5, 20), Range(-5, 20)),
        ("non_negative", 0, Range(0, 0)),
        ("non_negative", 0.5, Range(0.5, 0.5)),
        ("non_negative", [0, 0.1], Range(0, 0.1)),
        ("factor", 2, Range(0.5, 2, logarithmic=True)),
        ("factor", 0.5, Range(0.5, 2, logarithmic=True)),
        ("factor", 1, Range(1, 1, logarithmic=True)),
        ("factor", (0.7, 1.5), Range(0.7, 1.5, logarithmic=True)),
        ("fraction", 0.5, Range(0.5, 0.5)),
        ("fraction", (0.5, 1), Range(0.5, 1)),
    ],
)
def test_a_value_means_what_its_kind_says_and_a_pair_itself(kind, setting, expected):
    assert KINDS[kind]("setting", setting) == expected


@pytest.mark.parametrize(
    ("kind", "setting", "words"),
    [
        ("symmetric", (2, 1), r"angle is \(2, 1\); it must be two finite numbers, the smaller first"),
        ("symmetric", math.nan, "angle is .*nan.*; it must be two finite numbers"),
        ("symmetric", math.inf, "angle is .*inf.*; it must be two finite numbers"),
        ("symmetric", [1.0], r"angle is \(1.0,\); it must be a value, or a range of two numbers"),
        ("symmetric", (1, 2, 3), r"angle is \(1, 2, 3\); it must be a value, or a range of two numbers"),
        ("non_negative", -0.1, "angle is -0.1; it must not be negative"),
        ("non_negative", (-1, 1), r"angle is \(-1, 1\); it must not be negative"),
        ("non_negative", (0.2, 0.1), "two finite numbers, the smaller first"),
        ("non_negative", math.nan, "two finite numbers"),
        ("factor", 0, "angle is 0; factors must be positive"),
        ("factor", (0.0, 1.0), r"angle is \(0.0, 1.0\); factors must be positive"),
        ("factor", -2, "angle is -2; factors must be positive"),
        ("factor", (1.5, 0.7), "two finite numbers, the smaller first"),
        ("factor", math.inf, "two finite numbers"),
        ("fraction", 0, "angle is 0; it must lie above 0 and not above 1"),
        ("fraction", 1.1, "angle is 1.1; it must lie above 0 and not above 1"),
        ("fraction", (0.9, 0.5), "two finite numbers, the smaller first"),
        ("fraction", math.nan, "two finite numbers"),
    ],
)
def test_impossible_ranges_are_refused(kind, setting, words):
    with pytest.raises(ValueError, match=words):
        KINDS[kind]("angle", setting)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), low=st.floats(0.01, 10), width=st.floats(0, 10), logarithmic=st.booleans())
def test_draws_lie_in_the_range(seed, low, width, logarithmic):
    drawn = Range(low, low + width, logarithmic).draw(np.random.RandomState(seed))
    # exp(log(x)) is x to the last place
    assert low * (1 - 1e-12) <= drawn <= (low + width) * (1 + 1e-12)


def test_halving_is_as_likely_as_doubling():
    random = np.random.RandomState(0)
    drawn = np.array([ranges.factor("scale", 4).draw(random) for _ in range(4000)])
    # shares of 4000 draws: standard deviation 0.8 %
    for low, high in [(0.25, 0.5), (0.5, 1), (1, 2), (2, 4)]:
        assert ((drawn >= low) & (drawn < high)).mean() == pytest.approx(0.25, abs=0.03)


def test_plain_ranges_are_drawn_evenly():
    random = np.random.RandomState(0)
    drawn = np.array([ranges.symmetric("angle", 10).draw(random) for _ in range(4000)])
    assert drawn.mean() == pytest.approx(0, abs=0.4)  # its standard deviation: 5.8 / 63
    assert (abs(drawn) < 5).mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (1.0, (Range(1, 1),)),
        ((0.5, 1.0), (Range(0.5, 1),)),
        ([(0.5, 1.0)], (Range(0.5, 1),)),
        ((1, 2, 3), (Range(1, 1), Range(2, 2), Range(3, 3))),
        ([(0, 1), 2], (Range(0, 1), Range(2, 2))),
        ([[0, 1], [0, 2], [0, 3]], (Range(0, 1), Range(0, 2), Range(0, 3))),
    ],
)
def test_two_bare_numbers_are_a_range_and_other_lists_a_setting_an_axis(setting, expected):
    assert ranges.an_axis(ranges.non_negative, "sigma", setting) == expected


def test_an_axis_is_named_in_its_error():
    with pytest.raises(ValueError, match=r"sigma\[1\] is -1; it must not be negative"):
        ranges.an_axis(ranges.non_negative, "sigma", (1, -1, 1))


def test_each_axis_is_drawn_for_itself():
    one = ranges.draw_axes("sigma", (Range(0, 1),), 3, np.random.RandomState(0))
    assert len(set(one)) == 3
    several = ranges.draw_axes("sigma", (Range(0, 1), Range(5, 6), Range(7, 7)), 3, np.random.RandomState(0))
    assert several.astype(int).tolist() == [0, 5, 7]


def test_settings_that_are_not_one_an_axis_are_refused():
    with pytest.raises(ValueError, match="sigma has 2 settings, the image 3 axes; give one, or one an axis"):
        ranges.draw_axes("sigma", (Range(0, 1), Range(0, 1)), 3, np.random.RandomState(0))


@pytest.mark.parametrize("value", [0, 0.3, 1])
def test_probabilities_lie_in_0_to_1(value):
    assert ranges.probability("prob", value) == value


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
def test_other_numbers_are_no_probabilities(value):
    with pytest.raises(ValueError, match=f"prob is {value}; it must lie in 0 to 1"):
        ranges.probability("prob", value)
