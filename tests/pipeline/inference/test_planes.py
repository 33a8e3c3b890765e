"""Boxes that find the plane before their own: as if they were cut out of the whole image."""

from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scanloom.pipeline.inference.layout import lean_layout
from scanloom.pipeline.inference.planes import EdgePlanes
from scanloom.pipeline.inference.windows import window_grid


@st.composite
def partitions(draw):
    """(size, order, boxes in the order of the visit)."""
    size = tuple(draw(st.integers(1, 9)) for _ in range(draw(st.integers(1, 3))))
    order = draw(st.permutations(range(len(size))))
    cuts = [[0, *sorted(draw(st.sets(st.integers(1, n), max_size=n)) - {n}), n] for n in size]
    boxes = []
    for visit in product(*([slice(*pair) for pair in pairwise(cuts[axis])] for axis in order)):
        boxes.append(tuple(visit[order.index(axis)] for axis in range(len(size))))
    return size, order, boxes


def extended(where):
    return tuple(slice(max(part.start - 1, 0), part.stop) for part in where)


@settings(deadline=None)
@given(partitions(), st.integers(1, 3))
def test_a_box_is_one_plane_larger_along_every_axis_that_it_does_not_begin(partition, step):
    size, order, boxes = partition
    image = torch.randn(3, *size)
    planes = EdgePlanes(order, size, 3)
    for where in boxes:
        for first in range(0, 3, step):
            block = image[(slice(first, first + step), *where)].clone()
            result = planes.extend(where, block, first)
            assert torch.equal(result, image[(slice(first, first + step), *extended(where))])
            block.fill_(torch.nan)  # the memory is used again


@pytest.mark.parametrize("length", [40, 120])
def test_what_is_held_is_what_the_layout_says(length):
    grid = window_grid((length, 17, 12), (8, 8, 8), 0.5)
    layout = lean_layout(grid)
    planes = EdgePlanes(layout.order, grid.size, 2)
    held = 0
    for box in layout.boxes():
        where = tuple(slice(span.start, span.final) for span in box)
        planes.extend(where, torch.zeros(2, *(part.stop - part.start for part in where)))
        held = max(held, sum(plane.numel() for plane in planes._planes.values()))
    assert held <= 2 * layout.edge_voxels <= 2 * (17 * 12 + 9 * 17 + 9 * 9)
