"""Drawn deformations: coordinates against scipy's splines and torch's affine grids, no folding, whole-voxel windows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms import Deformation, bspline
from scanloom.transforms.affine import homogeneous
from scanloom.transforms.deformation import (
    interpolating_coefficients,
    knots,
    smallest_eigenvalues,
    strongest_compression,
)
from scipy.interpolate import BSpline, CubicSpline
from torch.nn import functional

SIZES = [(9, 13), (12, 7), (8, 8, 8), (11, 6, 9)]


def deformation(size, matrix=None, values=None, output_size=None):
    """Values are the displacements at the grid points, in output voxels."""
    return Deformation(
        tuple(size),
        tuple(output_size or size),
        np.eye(len(size) + 1) if matrix is None else matrix,
        None if values is None else interpolating_coefficients(values),
    )


def identity_coordinates(size):
    return np.stack(np.meshgrid(*[np.arange(length, dtype=float) for length in size], indexing="ij"))


def natural_spline(values, size):
    """(n, *size): scipy's natural cubic spline through (*points, n) values, one axis after the other."""
    for axis, length in enumerate(size):
        points = values.shape[axis]
        spline = CubicSpline(np.arange(points), values, axis=axis, bc_type="natural")
        values = spline(np.linspace(0, points - 1, length))
    return np.moveaxis(values, -1, 0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from(SIZES), points=st.integers(2, 6))
def test_the_field_is_scipys_cubic_spline_through_the_control_points(seed, size, points):
    values = np.random.default_rng(seed).standard_normal((*(points,) * len(size), len(size)))
    field = deformation(size, values=values).coordinates().numpy() - identity_coordinates(size)
    np.testing.assert_allclose(field, natural_spline(values, size), atol=2e-5)  # float32 of coordinates up to 13


@pytest.mark.parametrize("size", SIZES)
def test_affine_maps_are_torchs_affine_grids(size):
    n = len(size)
    linear = np.eye(n) + 0.3 * np.random.default_rng(0).standard_normal((n, n))
    half = (np.array(size) - 1) / 2
    coordinates = deformation(size, homogeneous(linear, half - linear @ half)).coordinates()
    normalised = torch.from_numpy(linear * half / half[:, None]).float().flip(0, 1)  # grid_sample's axes: last first
    grid = functional.affine_grid(
        torch.cat([normalised, torch.zeros(n, 1)], 1)[None], [1, 1, *size], align_corners=True
    )
    expected = (grid[0].flip(-1).movedim(-1, 0) + 1) * torch.from_numpy(half).float().reshape(n, *[1] * n)
    torch.testing.assert_close(coordinates, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", SIZES)
def test_affine_and_elastic_are_the_affine_map_of_the_displaced_place(size):
    n = len(size)
    rng = np.random.default_rng(1)
    values = rng.standard_normal((*(4,) * n, n))
    matrix = homogeneous(np.eye(n) + 0.2 * rng.standard_normal((n, n)), rng.standard_normal(n))
    displaced = identity_coordinates(size) + natural_spline(values, size)
    expected = np.einsum("ij,j...->i...", matrix[:n, :n], displaced) + matrix[:n, n].reshape(n, *[1] * n)
    np.testing.assert_allclose(deformation(size, matrix, values).coordinates(), expected, atol=5e-5)


def test_displacements_at_the_control_points_are_those_drawn():
    values = np.random.default_rng(2).standard_normal((3, 3, 2))
    field = deformation((9, 9), values=values).coordinates().numpy() - identity_coordinates((9, 9))
    np.testing.assert_allclose(field[:, ::4, ::4], np.moveaxis(values, -1, 0), atol=1e-5)


@given(length=st.integers(2, 50), points=st.integers(2, 9))
def test_knots_span_the_first_to_the_last_voxel(length, points):
    places = knots(length, points)
    np.testing.assert_allclose(places[1:-1], np.linspace(0, length - 1, points), atol=1e-9)
    np.testing.assert_allclose(np.diff(places), (length - 1) / (points - 1), atol=1e-9)


def test_an_axis_of_one_voxel_stays_at_its_place():
    values = np.zeros((3, 3, 2))
    np.testing.assert_allclose(deformation((1, 5), values=values).coordinates()[0], 0, atol=1e-6)


def jacobians(coefficients, steps, per_interval=5):
    """Exact derivatives of the displacement on a fine grid, by scipy: (*places, n components, n axes)."""
    n = coefficients.ndim - 1
    columns = []
    for derived in range(n):
        field = coefficients
        for axis in range(n):
            count = coefficients.shape[axis]
            spline = BSpline(np.arange(count + 4) - 3.0, np.moveaxis(field, axis, 0), 3)
            places = np.linspace(0, count - 3, (count - 3) * per_interval + 1)
            evaluated = spline.derivative()(places) / steps[axis] if axis == derived else spline(places)
            field = np.moveaxis(evaluated, 0, axis)
        columns.append(field)
    return np.stack(columns, axis=-1)


def compression(jacobian):
    """Minus the smallest eigenvalue of the symmetric part, over all places."""
    return -np.linalg.eigvalsh((jacobian + jacobian.swapaxes(-1, -2)) / 2).min()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.sampled_from([2, 3]),
    points=st.integers(2, 5),
    scale=st.floats(0.01, 30),
    steps=st.tuples(*[st.floats(0.5, 40)] * 3),
)
def test_the_bound_holds_for_the_exact_jacobian_and_is_not_far_above_it(seed, n, points, scale, steps):
    values = scale * np.random.default_rng(seed).standard_normal((*(points,) * n, n))
    coefficients = interpolating_coefficients(values)
    found, bound = compression(jacobians(coefficients, steps[:n])), strongest_compression(coefficients, steps[:n])
    assert found <= bound * (1 + 1e-9) + 1e-12
    assert bound <= 2 * max(found, 0.1 * np.abs(jacobians(coefficients, steps[:n])).max())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), n=st.sampled_from([2, 3]), points=st.integers(2, 5))
def test_a_compression_below_one_does_not_fold(seed, n, points):
    coefficients = interpolating_coefficients(np.random.default_rng(seed).standard_normal((*(points,) * n, n)))
    steps = (7.0, 3.0, 11.0)[:n]
    strongest = strongest_compression(coefficients, steps)
    if strongest > 0:  # else it only stretches, and folds at no strength
        coefficients *= 0.999 / strongest
    assert np.linalg.det(np.eye(n) + jacobians(coefficients, steps)).min() > 0


@pytest.mark.parametrize("n", [2, 3])
def test_eigenvalues_in_closed_form_are_numpys(n):
    matrices = np.random.default_rng(0).standard_normal((500, n, n))
    matrices += matrices.swapaxes(-1, -2)
    matrices[0], matrices[1] = 0, 3 * np.eye(n)
    np.testing.assert_allclose(smallest_eigenvalues(matrices), np.linalg.eigvalsh(matrices)[:, 0], atol=1e-7)


@given(points=st.integers(2, 7), seed=st.integers(0, 2**31))
def test_values_and_slopes_lie_within_their_bernstein_coefficients(points, seed):
    coefficients = np.random.default_rng(seed).standard_normal(points + 2)
    spline = BSpline(np.arange(points + 6) - 3.0, coefficients, 3)
    for matrix, function in zip(bspline.bernstein(points), (spline, spline.derivative()), strict=True):
        bounds = (matrix @ coefficients).reshape(-1, 4)
        for interval, corners in enumerate(bounds):
            found = function(np.linspace(interval, interval + 1, 9))
            np.testing.assert_allclose(found[[0, -1]], corners[[0, -1]], atol=1e-9)
            assert corners.min() - 1e-9 <= found.min()
            assert found.max() <= corners.max() + 1e-9


def test_steep_displacements_do_fold():
    coefficients = interpolating_coefficients(5 * np.random.default_rng(0).standard_normal((4, 4, 2)))
    assert np.linalg.det(np.eye(2) + jacobians(coefficients, (1.0, 1.0))).min() < 0


def test_whole_voxel_maps_are_windows_and_others_are_not():
    turn = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1.0]])
    assert deformation((6, 5)).window() == ((slice(0, 6), slice(0, 5)), ())
    flipped = homogeneous(np.diag([-1.0, 1.0]), np.array([5.0, 1.0]))
    assert deformation((6, 5), flipped, output_size=(6, 4)).window() == ((slice(0, 6), slice(1, 5)), (0,))
    for matrix in (turn, homogeneous(np.eye(2), np.array([0.5, 0])), homogeneous(np.eye(2), np.array([1.0, 0]))):
        assert deformation((6, 5), matrix).window() is None
    assert deformation((6, 5), values=np.zeros((2, 2, 2))).window() is None


def test_the_inverse_leads_back():
    matrix = homogeneous(np.array([[1.1, 0.2], [-0.1, 0.9]]), np.array([2.0, -1.0]))
    there = deformation((6, 5), matrix, output_size=(8, 9))
    back = there.inverse()
    assert (back.size, back.output_size) == ((8, 9), (6, 5))
    np.testing.assert_allclose(back.matrix @ there.matrix, np.eye(3), atol=1e-12)


def test_an_elastic_deformation_has_no_inverse():
    with pytest.raises(ValueError, match="elastic deformation can not be inverted; draw it with prob_elastic=0"):
        deformation((6, 5), values=np.zeros((2, 2, 2))).inverse()
