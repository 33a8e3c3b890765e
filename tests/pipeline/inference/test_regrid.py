"""Values on the scan's grid: interpolated box by box, equal to SciPy's interpolation of the whole."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from factories import make_affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.inference.reduction import Labels, Logits
from scanloom.pipeline.inference.regrid import GridMap, Regridded
from scipy.ndimage import map_coordinates


def whole(values, grid_map):
    """The reference: (K, *network_size) -> (K, *size)."""
    places = [s * np.arange(n) + o for n, s, o in zip(grid_map.size, grid_map.scale, grid_map.offset, strict=True)]
    places = [np.clip(place, 0, n - 1) for place, n in zip(places, values.shape[1:], strict=True)]
    mesh = np.meshgrid(*places, indexing="ij")
    return np.stack([map_coordinates(each.astype(np.float64), mesh, order=1, mode="nearest") for each in values])


class Once:
    """Counts how often each voxel is written."""

    needs_mean = True

    def __init__(self, inner, size):
        self.inner, self.written = inner, np.zeros(size, dtype=int)

    def begin(self, where):
        self.inner.begin(where)

    def put(self, where, first, block):
        self.inner.put(where, first, block)

    def finish(self, where):
        self.written[where] += 1
        self.inner.finish(where)


@st.composite
def cases(draw):
    dims = draw(st.integers(1, 3))
    network_size = tuple(draw(st.integers(1, 10)) for _ in range(dims))
    grid_map = GridMap(
        size=tuple(draw(st.integers(1, 12)) for _ in range(dims)),
        scale=tuple(draw(st.sampled_from([1.0, 0.5]) | st.floats(0.05, 3)) for _ in range(dims)),
        offset=tuple(draw(st.sampled_from([0.0, -1.0, 0.25]) | st.floats(-4, 12)) for _ in range(dims)),
    )
    order = draw(st.permutations(range(dims)))
    cuts = [[0, *sorted(draw(st.sets(st.integers(1, n), max_size=3)) - {n}), n] for n in network_size]
    visits = product(*([slice(*pair) for pair in pairwise(cuts[axis])] for axis in order))
    boxes = [tuple(visit[order.index(axis)] for axis in range(dims)) for visit in visits]
    return network_size, grid_map, order, boxes


@settings(deadline=None)
@given(cases(), st.integers(1, 3), st.integers(0, 2**31))
def test_boxes_are_interpolated_as_if_they_were_one_image(case, step, seed):
    network_size, grid_map, order, boxes = case
    values = torch.randn(3, *network_size, generator=torch.Generator().manual_seed(seed))
    out = np.full((3, *grid_map.size), np.nan, dtype=np.float32)
    counted = Once(Logits(out), grid_map.size)
    regridded = Regridded(grid_map, network_size, order, 3, counted)
    for where in boxes:
        regridded.begin(where)
        for first in range(0, 3, step):
            regridded.put(where, first, values[(slice(first, first + step), *where)].clone())
        regridded.finish(where)
    assert (counted.written == 1).all()
    # Shares are float32, of up to 12 voxels: 1e-6 times the spread of the values.
    np.testing.assert_allclose(out, whole(values.numpy(), grid_map), rtol=0, atol=1e-5)


def test_labels_are_of_the_interpolated_values():
    values = torch.randn(4, 6, 7, 8)
    grid_map = GridMap((11, 5, 20), (0.5, 1.3, 0.37), (-0.2, 0.4, 0.0))
    out = np.zeros(grid_map.size, dtype=np.uint8)
    regridded = Regridded(grid_map, (6, 7, 8), (2, 0, 1), 4, Labels(out, 4))
    for part in (slice(0, 3), slice(3, 8)):
        where = (slice(0, 6), slice(0, 7), part)
        regridded.begin(where)
        regridded.put(where, 0, values[(slice(None), *where)].clone())
        regridded.finish(where)
    assert np.array_equal(out, whole(values.numpy(), grid_map).argmax(0))


def test_the_same_grid_is_the_identity():
    affine = make_affine()
    grid_map = GridMap.between(affine, affine, (6, 7, 8))
    assert grid_map.is_identity((6, 7, 8))
    assert not grid_map.is_identity((6, 7, 9))
    assert grid_map.beyond((6, 7, 8)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (10, -20, 30)])
def test_a_map_says_where_the_scans_voxels_lie(degrees):
    network, affine = make_affine((2.0, 1.5, 1.0), degrees), make_affine((1.0, 3.0, 1.0), degrees)
    affine[:3, 3] = (network @ (1.0, -0.5, 2.0, 1.0))[:3]
    grid_map = GridMap.between(network, affine, (4, 5, 6))
    np.testing.assert_allclose(grid_map.scale, (0.5, 2.0, 1.0))
    np.testing.assert_allclose(grid_map.offset, (1.0, -0.5, 2.0), atol=1e-9)
    index = np.array([3, 4, 5])
    mm = affine @ (*index, 1)
    np.testing.assert_allclose((np.linalg.inv(network) @ mm)[:3], grid_map.scale * index + grid_map.offset)
    assert not grid_map.is_identity((4, 5, 6))


@pytest.mark.parametrize(
    "turn",
    [np.diag([-1.0, 1, 1, 1]), np.eye(4)[[1, 0, 2, 3]], np.eye(4) + 0.01 * np.eye(4, k=1)],
    ids=["mirrored", "axes exchanged", "sheared"],
)
def test_grids_that_turn_have_no_map(turn):
    affine = make_affine()
    assert GridMap.between(affine, affine @ turn, (6, 7, 8)) is None


def test_a_turn_by_less_than_a_thousandth_of_a_voxel_is_none():
    affine = make_affine()
    turn = np.eye(4)
    turn[0, 1] = 1e-4
    assert GridMap.between(affine, affine @ turn, (6, 7, 8)) is not None
    assert GridMap.between(affine, affine @ turn, (6, 700, 8)) is None


def test_voxels_beyond_the_networks_grid_are_told():
    assert GridMap((5,), (1.0,), (-1.5,)).beyond((10,)) == 1.5
    assert GridMap((5,), (3.0,), (0.0,)).beyond((10,)) == 3.0
    assert GridMap((4, 5), (3.0, 1.0), (0.0, 2.0)).beyond((10, 7)) == 0
