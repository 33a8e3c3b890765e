"""Uniform cubic B-splines: against scipy's basis, natural splines and spline filter."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanloom.transforms import bspline
from scipy.interpolate import BSpline, CubicSpline
from scipy.ndimage import spline_filter1d


@given(size=st.integers(2, 60), points=st.integers(2, 12))
def test_weights_are_scipys_uniform_cubic_basis(size, points):
    basis = BSpline(np.arange(points + 6) - 3.0, np.eye(points + 2), 3)
    np.testing.assert_allclose(bspline.weights(size, points), basis(np.linspace(0, points - 1, size)), atol=1e-12)


@given(size=st.integers(1, 60), points=st.integers(2, 12))
def test_weights_are_non_negative_and_sum_to_one(size, points):
    weights = bspline.weights(size, points)
    assert weights.shape == (size, points + 2)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)


@given(t=st.floats(0, 1))
def test_the_basis_sums_to_one_and_is_symmetric(t):
    forward, backward = (np.stack(bspline.basis(np.array(place))) for place in (t, 1 - t))
    assert forward.sum() == pytest.approx(1)
    np.testing.assert_allclose(forward, backward[::-1], atol=1e-12)


@given(points=st.integers(2, 9), seed=st.integers(0, 2**31))
def test_interpolation_gives_the_natural_spline_through_the_values(points, seed):
    values = np.random.default_rng(seed).standard_normal(points)
    spline = bspline.weights(40, points) @ (bspline.interpolation(points) @ values)
    expected = CubicSpline(np.arange(points), values, bc_type="natural")(np.linspace(0, points - 1, 40))
    np.testing.assert_allclose(spline, expected, atol=1e-10)


@given(size=st.integers(2, 40), seed=st.integers(0, 2**31))
def test_prefilter_is_scipys_spline_filter_in_mirror_mode(size, seed):
    values = np.random.default_rng(seed).standard_normal(size)
    expected = spline_filter1d(values, order=3, mode="mirror")
    np.testing.assert_allclose(bspline.prefilter(size) @ values, expected, atol=1e-9)


def test_prefilter_of_one_sample_keeps_it():
    np.testing.assert_allclose(bspline.prefilter(1), [[1.0]], atol=1e-12)


@pytest.mark.parametrize(("index", "expected"), [(-2, 2), (-1, 1), (0, 0), (4, 4), (5, 3), (8, 0), (9, 1)])
def test_mirrored_indices_turn_at_the_outermost_centres(index, expected):
    assert bspline.mirrored(index, 5) == expected
    assert bspline.mirrored(index, 1) == 0
