"""The visit of the windows: each once, each voxel final once, and little held however long the scan is."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.inference.layout import Layout, lean_layout
from scanloom.pipeline.inference.windows import spans, window_grid


@st.composite
def grids(draw, most=14):
    dims = draw(st.integers(1, 3))
    size, roi = (tuple(draw(st.integers(1, n)) for _ in range(dims)) for n in (most, 7))
    return window_grid(size, roi, tuple(draw(st.floats(0, 0.8)) for _ in range(dims)))


def padded(grid):
    return tuple(map(max, grid.size, grid.roi))


def region(starts, stops):
    return tuple(map(slice, starts, stops))


@settings(deadline=None)
@given(grids(), st.data())
def test_every_window_is_visited_once_and_voxels_are_final_once_all_their_windows_were(grid, data):
    axis = data.draw(st.sampled_from([None, *range(len(grid.size))]))
    layout = lean_layout(grid, axis)
    pending = np.zeros(padded(grid), dtype=int)
    for start in product(*grid.starts):
        pending[region(start, np.add(start, grid.roi))] += 1
    finished = np.zeros_like(pending)
    visited = []
    for box in layout.boxes():
        for start in product(*(span.starts for span in box)):
            visited.append(start)
            pending[region(start, np.add(start, grid.roi))] -= 1
        final = region([span.start for span in box], [span.final for span in box])
        assert not pending[final].any()
        finished[final] += 1
    assert (finished == 1).all()
    assert sorted(visited) == sorted(product(*grid.starts))
    assert list(layout.windows()) == visited


@settings(deadline=None)
@given(grids(), st.data())
def test_the_stream_axis_is_outermost(grid, data):
    axis = data.draw(st.sampled_from(range(len(grid.size))))
    assert lean_layout(grid, axis).order[0] == axis
    assert lean_layout(grid).voxels <= lean_layout(grid, axis).voxels


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(8, 30), st.integers(8, 30)),
    st.tuples(*[st.integers(2, 8)] * 3),
    st.tuples(*[st.floats(0, 0.75)] * 3),
    st.permutations(range(3)),
)
def test_what_is_held_does_not_grow_with_the_length_of_the_longest_axis(plane, roi, overlap, axes):
    longest = axes.index(0)

    def grid(length):
        return window_grid(tuple((length, *plane)[axis] for axis in axes), roi, overlap)

    step = max(int(roi[longest] * (1 - overlap[longest])), 1)
    lengths = [roi[longest] + step * count for count in (20, 40, 400)]  # windows that end with the image
    held = {lean_layout(grid(length), stream_axis=longest).voxels for length in lengths}
    assert len(held) == 1
    assert all(lean_layout(grid(length)).voxels <= min(held) for length in lengths)
    # However the windows end: an overlap of at most a window along each axis, times at most the plane.
    assert lean_layout(grid(1003)).voxels <= 3 * max(roi) * prod(plane)


def test_less_is_held_than_the_image_and_as_much_as_the_overlaps_are():
    layout = lean_layout(window_grid((100, 20, 20), (8, 8, 8), 0.5))
    assert layout.order[0] == 0
    assert layout.overlaps == (4, 4, 4)
    assert [layout.carry_shape(axis) for axis in layout.order] == [(4, 20, 20), (8, 4, 20), (8, 8, 4)]
    assert layout.voxels == 4 * 20 * 20 + 8 * 4 * 20 + 8 * 8 * 4
    assert layout.edge_voxels == 20 * 20 + 9 * 20 + 9 * 9
    assert not layout.joined


def test_windows_without_overlap_carry_nothing():
    assert lean_layout(window_grid((16, 16), (4, 4), 0.0)).voxels == 0


def test_a_last_window_that_lies_deep_in_the_one_before_is_finished_with_it():
    """Windows at 0, 8, 9: the last covers seven of eight voxels again, for a whole plane of the image."""
    layout = lean_layout(window_grid((17, 64, 64), (8, 8, 8), 0.0), stream_axis=0)
    assert [span.starts for span in layout.rows[0]] == [(0,), (8, 9)]
    assert layout.joined
    assert layout.voxels == 9 * 8 * 8
    assert layout.longest == (9, 8, 8)


@settings(deadline=None)
@given(grids())
def test_no_order_and_no_joining_holds_less(grid):
    lean = lean_layout(grid)
    rows = tuple(spans([(start,) for start in starts], roi) for starts, roi in zip(grid.starts, grid.roi, strict=True))
    assert lean.voxels <= Layout(tuple(range(len(grid.size))), rows).voxels


@pytest.mark.parametrize("size", [(16, 64, 64), (17, 40, 64)])
def test_the_visit_of_a_smaller_output_is_the_same(size):
    grid = window_grid(size, (8, 8, 8), 0.5)
    layout = lean_layout(grid)
    half = grid.scaled((4, 4, 4))
    same = layout.on(half)
    assert same.order == layout.order
    assert len(list(same.windows())) == grid.windows
    for one, other in zip(layout.windows(), same.windows(), strict=True):
        assert other == tuple(at // 2 for at in one)
