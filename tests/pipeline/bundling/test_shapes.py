"""Shapes in n and p, and the sizes that a network is tried with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle.scripts import _get_fake_spatial_shape
from scanloom.pipeline.bundling.shapes import LEAST, lengths, sizes_to_try

EXPRESSIONS = ["n", "16*n", "2**p", "2**p*n", "16*(n+1)", "32*n - 4", 7]


@given(st.lists(st.sampled_from(EXPRESSIONS), min_size=1, max_size=3), st.integers(1, 20), st.integers(1, 8))
def test_lengths_are_those_that_monai_computes(shape: list[int | str], n: int, p: int) -> None:
    assert lengths(shape, n, p) == _get_fake_spatial_shape(shape, n=n, p=p)


@pytest.mark.parametrize(
    "entry", ["m", "n.real", "f(n)", "n/2", "1.5", "[n]", "9**9**9", "n if p else 1", "-n", "0", "n//0"]
)
def test_what_is_no_length_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match=r"neither a whole number|no length|can not be computed"):
        lengths([entry], 2, 2)


def test_a_network_is_tried_as_monai_does_and_at_a_larger_size() -> None:
    assert sizes_to_try(["n", "n"]) == [(1, 1), (LEAST, 1)]
    assert [lengths(["16*n", "16*n"], *pair) for pair in sizes_to_try(["16*n", "16*n"])] == [(16, 16), (32, 32)]
    assert [lengths(["2**p*n"], *pair) for pair in sizes_to_try(["2**p*n"])] == [(2,), (24,)]


def test_fixed_sizes_are_tried_once() -> None:
    assert sizes_to_try([96, 96, 64]) == [(1, 1)]
    assert sizes_to_try(["*", "*"]) == [(1, 1)]
