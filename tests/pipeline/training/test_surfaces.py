"""Surfaces and distances against shapes whose sizes are known, searches that know no shortcut, and properties."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
from factories import make_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scanloom.pipeline.training.surfaces import Surface, SurfaceDistances, surface_distances, surface_of


def box(shape: tuple[int, ...], *sides: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(*side) for side in sides)] = True
    return mask


def ball(radius: float, size: int, center: float = 0.0) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 3, indexing="ij"))
    grid[0] -= center
    return np.linalg.norm(grid, axis=0) <= radius


def flat_surface(height: float, count: int = 3) -> Surface:
    """A square of count x count mm at this height, of two triangles a mm2."""
    corners = []
    for x in range(count):
        for y in range(count):
            a, b, c, d = ([x + i, y + j, height] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1)))
            corners += [[a, b, c], [a, c, d]]
    return Surface(np.array(corners, float))


def to_triangle(point: np.ndarray, corners: np.ndarray) -> float:
    """Distance by a search over the triangle, which knows nothing of planes and sides."""
    shares = np.array([(i, j, 60 - i - j) for i in range(61) for j in range(61 - i)]) / 60
    return float(np.linalg.norm(shares @ corners - point, axis=1).min())


def test_the_area_of_a_large_box_is_that_of_its_faces_but_for_cut_edges() -> None:
    spacing = (0.5, 1.0, 3.0)
    surface = surface_of(box((40, 30, 20), (5, 35), (5, 25), (4, 14)), np.diag(spacing))
    x, y, z = 30 * 0.5, 20 * 1.0, 10 * 3.0
    assert surface.areas.sum() == pytest.approx(2 * (x * y + y * z + x * z), rel=0.06)
    assert surface.areas.sum() < 2 * (x * y + y * z + x * z)


def test_the_outline_of_a_single_pixel_is_a_diamond_of_known_length() -> None:
    surface = surface_of(box((3, 3), (1, 2), (1, 2)), np.diag((1.0, 3.0)))
    assert surface.areas.sum() == pytest.approx(4 * sqrt(0.5**2 + 1.5**2))
    np.testing.assert_allclose(surface.centers_mm.mean(axis=0), (1.0, 3.0))


def test_a_mask_at_the_images_edge_is_closed_there() -> None:
    whole, middle = np.ones((4, 5, 6), bool), box((8, 9, 10), (2, 6), (2, 7), (2, 8))
    axes = np.diag((1.0, 2.0, 3.0))
    assert surface_of(whole, axes).areas.sum() == pytest.approx(surface_of(middle, axes).areas.sum())


def test_balls_of_two_radii_are_their_difference_apart_to_a_tenth_of_a_voxel() -> None:
    axes = np.eye(3)
    distances = surface_distances(surface_of(ball(12, 37), axes), surface_of(ball(15, 37), axes))
    assert distances.mean_mm() == pytest.approx(3, abs=0.1)
    assert distances.percentile_mm(95) == pytest.approx(3, abs=0.6)
    assert distances.share_within(2) == 0
    assert distances.share_within(4) == 1


def test_a_shifted_ball_is_as_far_as_the_shift_seen_along_its_normals() -> None:
    """The mean of |cos| over a sphere is 1/2; surfaces of border voxels or corners make 0.6 or 0.2 of it."""
    axes = np.eye(3)
    distances = surface_distances(surface_of(ball(14, 40), axes), surface_of(ball(14, 40, center=2.0), axes))
    assert distances.mean_mm() == pytest.approx(1.0, abs=0.08)
    assert distances.percentile_mm(95) == pytest.approx(1.9, abs=0.15)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -35, 10)])
def test_slabs_are_apart_by_their_gap_in_mm_however_the_grid_lies(degrees: tuple[int, int, int]) -> None:
    axes = make_affine((0.5, 1.0, 4.0), degrees)[:3, :3].T
    one, other = box((40, 30, 12), (0, 40), (0, 30), (1, 3)), box((40, 30, 12), (0, 40), (0, 30), (6, 8))
    distances = surface_distances(surface_of(one, axes), surface_of(other, axes))
    assert min(map(np.min, distances.distances_mm)) == pytest.approx(12)  # three slices of 4 mm lie between them
    assert distances.percentile_mm(95) == pytest.approx(20, abs=0.1)  # the far sides


def test_a_sheared_grid_is_measured_in_space() -> None:
    """Each slice lies 1 mm sideways of the one below it: the faces are 2 mm apart, not the length of the lean step."""
    sheared = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 1.0, 2.0]])
    one, other = box((30, 60, 9), (2, 28), (2, 58), (1, 3)), box((30, 60, 9), (2, 28), (2, 58), (4, 6))
    distances = surface_distances(surface_of(one, sheared), surface_of(other, sheared))
    assert min(map(np.min, distances.distances_mm)) == pytest.approx(2)


def test_distances_to_triangles_are_those_of_a_search_over_them() -> None:
    random = np.random.default_rng(3)
    for _ in range(40):
        triangle, points = random.normal(size=(1, 3, 3)), random.normal(size=(4, 3)) * 2
        other = Surface(points[:, np.newaxis] + 1e-9 * random.normal(size=(4, 3, 3)))
        found = surface_distances(other, Surface(triangle)).distances_mm[0]
        np.testing.assert_allclose(found, [to_triangle(point, triangle[0]) for point in points], atol=0.03)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1, 1, 3), (0.5, 0.5, 5)])
def test_looking_at_the_nearest_triangles_only_loses_nothing_that_counts(
    spacing: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    masks = [ball(6, 17) ^ (random.random((17, 17, 17)) < share) for share in (0.0, 0.02)]
    one, other = (surface_of(mask, np.diag(spacing)) for mask in masks)
    quick = surface_distances(one, other)
    monkeypatch.setattr("scanloom.pipeline.training.surfaces.NEAREST", 10_000)
    whole = surface_distances(Surface(one.corners_mm[::7]), Surface(other.corners_mm))
    np.testing.assert_allclose(quick.distances_mm[0][::7].mean(), whole.distances_mm[0].mean(), atol=5e-3)


def test_shares_and_percentiles_are_of_area_not_of_triangles() -> None:
    distances = SurfaceDistances(
        (np.array([0.0, 1.0, 5.0]), np.array([2.0])), (np.array([6.0, 3.0, 1.0]), np.array([10.0]))
    )
    assert distances.mean_mm() == pytest.approx((3 + 5 + 20) / 20)
    assert distances.share_within(1.0) == pytest.approx(9 / 20)
    assert distances.percentile_mm(60) == 2.0
    assert distances.percentile_mm(90) == 2.0  # of the one surface 1 mm, of the other 2
    assert distances.percentile_mm(95) == 5.0


def test_a_tolerance_of_a_whole_step_holds_where_the_header_rounded_it() -> None:
    flat = [flat_surface(height) for height in (0.0, float(np.float32(0.7)))]
    distances = surface_distances(*flat)
    assert distances.distances_mm[0].max() > 0.7 - 1e-7
    assert distances.share_within(0.7 - 1e-7) == 1
    assert distances.share_within(0.69) == 0


def test_a_circle_in_a_plane_that_lies_askew_in_space_has_its_length() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(61) - 30] * 2, indexing="ij"))
    axes = make_affine((0.5, 0.5, 1), (30, 40, 50))[:3, :3].T[:2]
    surface = surface_of(np.linalg.norm(grid, axis=0) <= 25, axes)
    assert surface.corners_mm.shape[1:] == (2, 3)
    assert surface.areas.sum() == pytest.approx(2 * pi * 12.5, rel=0.07)


blobs = hnp.arrays(bool, (5, 4, 6)).filter(np.any)


@settings(max_examples=40, deadline=None)
@given(one=blobs, other=blobs, spacing=st.tuples(*[st.floats(0.3, 4)] * 3), scale=st.floats(0.5, 3))
def test_distances_are_symmetric_and_grow_with_the_spacing(
    one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...], scale: float
) -> None:
    axes = np.diag(spacing)
    first = surface_distances(surface_of(one, axes), surface_of(other, axes))
    second = surface_distances(surface_of(other, axes), surface_of(one, axes))
    larger = surface_distances(surface_of(one, axes * scale), surface_of(other, axes * scale))
    for measure in (SurfaceDistances.mean_mm, lambda found: found.percentile_mm(95)):
        assert measure(second) == pytest.approx(measure(first))
        assert measure(larger) == pytest.approx(scale * measure(first), rel=0.02, abs=1e-6)
    assert second.share_within(1) == pytest.approx(first.share_within(1))
    assert first.share_within(100) == 1


@settings(max_examples=30, deadline=None)
@given(mask=blobs)
def test_a_surface_is_at_no_distance_from_itself(mask: np.ndarray) -> None:
    surface = surface_of(mask, np.diag((0.7, 1.3, 2.9)))
    distances = surface_distances(surface, surface)
    assert distances.mean_mm() == distances.percentile_mm(95) == 0
    assert distances.share_within(0) == 1
