"""Grids of cubic B-splines: against scipy's basis, torch's affine grids, and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.transforms.deformation import bspline_weights, control_coordinates, dense_grid, limit_folding
from scipy.interpolate import BSpline
from torch.nn import functional

SIZES = [(9, 9), (12, 7), (8, 8, 8), (11, 6, 9)]


def sample(image, grid, mode="bilinear"):
    return functional.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=True)


def no_displacement(points, spatial_dims, batch=1):
    return torch.zeros(batch, *(points,) * spatial_dims, spatial_dims)


def jacobian_determinants(grid):
    """(B, *cells): determinants of the forward differences, times what makes the identity's one."""
    n, size = grid.shape[-1], grid.shape[1:-1]
    cells = [slice(0, length - 1) for length in size]
    columns = []
    for axis in range(n):
        difference = grid.diff(dim=axis + 1) * (size[axis] - 1) / 2
        keep = [slice(None) if other == axis else cells[other] for other in range(n)]
        columns.append(difference[(slice(None), *keep)])
    return torch.linalg.det(torch.stack(columns, dim=-1).flip(-2).double())


@given(size=st.integers(2, 40), points=st.integers(4, 12))
def test_weights_are_scipys_uniform_cubic_basis(size, points):
    knots = np.arange(points + 4) - 3.0
    expected = BSpline(knots, np.eye(points), 3)(np.linspace(0, points - 3, size))
    np.testing.assert_allclose(bspline_weights(size, points).numpy(), expected, atol=1e-6)


@given(size=st.integers(1, 60), points=st.integers(4, 12))
def test_rows_of_weights_are_non_negative_and_sum_to_one(size, points):
    weights = bspline_weights(size, points)
    assert weights.shape == (size, points)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(size), rtol=0, atol=1e-6)


@given(size=st.integers(2, 60), points=st.integers(4, 12))
def test_the_coordinates_of_the_control_points_give_those_of_the_voxels(size, points):
    coordinates = bspline_weights(size, points) @ control_coordinates(points, 1)[:, 0]
    torch.testing.assert_close(coordinates, torch.linspace(-1, 1, size), rtol=0, atol=1e-6)


def test_one_voxel_lies_in_the_centre():
    assert (bspline_weights(1, 7) @ control_coordinates(7, 1)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_linear_maps_are_torchs_affine_grids(size):
    n = len(size)
    matrices = torch.eye(n) + 0.3 * torch.randn(4, n, n)
    grid = dense_grid(matrices, no_displacement(6, n, batch=4), size)
    xyz = torch.cat([matrices.flip(1, 2), torch.zeros(4, n, 1)], dim=2)  # grid_sample counts axes from the last
    expected = functional.affine_grid(xyz, [4, 1, *size], align_corners=True)
    torch.testing.assert_close(grid, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
def test_identity_and_no_displacement_change_nothing(size):
    image = torch.rand(2, 3, *size)
    grid = dense_grid(torch.eye(len(size)).expand(2, -1, -1), no_displacement(7, len(size), batch=2), size)
    torch.testing.assert_close(sample(image, grid), image, rtol=0, atol=1e-5)
    torch.testing.assert_close(sample(image, grid, "nearest"), image, rtol=0, atol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_constant_displacement_moves_the_image_along_its_axis(axis):
    size, image = (7, 9, 11), torch.rand(1, 1, 7, 9, 11)
    displacement = no_displacement(5, 3)
    displacement[..., axis] = 2 * 2 / (size[axis] - 1)
    moved = sample(image, dense_grid(torch.eye(3)[None], displacement, size))
    inside = range(size[axis] - 2)
    expected = image.index_select(axis + 2, torch.tensor([place + 2 for place in inside]))
    torch.testing.assert_close(moved.index_select(axis + 2, torch.tensor(inside)), expected, rtol=0, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([(24, 17), (13, 16, 11)]),
    points=st.integers(4, 8),
    scale=st.sampled_from([0.05, 0.3, 3.0, 30.0]),
)
def test_no_draw_folds_space_once_limited(seed, size, points, scale):
    n = len(size)
    displacements = scale * torch.randn(2, *(points,) * n, n, generator=torch.Generator().manual_seed(seed))
    grid = dense_grid(torch.eye(n).expand(2, -1, -1), limit_folding(displacements, 0.9), size)
    assert jacobian_determinants(grid).min() > 0


def test_large_draws_fold_space_where_they_are_not_limited():
    displacements = 0.5 * torch.randn(2, 6, 6, 6, 3)
    grid = dense_grid(torch.eye(3).expand(2, -1, -1), displacements, (16, 16, 16))
    assert jacobian_determinants(grid).min() < 0


def test_limiting_scales_only_the_samples_that_need_it():
    displacements = torch.randn(3, 5, 5, 2) * torch.tensor([0.001, 0.1, 10.0]).reshape(3, 1, 1, 1)
    limited = limit_folding(displacements, 0.5)
    torch.testing.assert_close(limited[0], displacements[0], rtol=0, atol=0)
    ratio = limited[2] / displacements[2]
    torch.testing.assert_close(ratio, ratio[0, 0, 0].expand_as(ratio))
    assert ratio.max() < 0.1
