"""The grids of slice stacks: even, tilted, with gaps, uneven."""

import numpy as np
import pytest
from factories import rotation
from hypothesis import assume, given
from hypothesis import strategies as st
from scanloom.pipeline.errors import GeometryError
from scanloom.pipeline.studies import geometry
from scanloom.pipeline.studies.slices import FINEST, grid_slices, repeated

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
AXIAL = np.array([1.0, 0, 0, 0, 1, 0])
PIXELS = np.array([1.0, 1.0])


def stack(distances, sideways=0.0):
    """Positions of axial slices at the given heights, each shifted in x in proportion to its height."""
    return np.array([[sideways * (distance - distances[0]), 0.0, distance] for distance in distances])


def grid(distances, sideways=0.0):
    return grid_slices(AXIAL, PIXELS, stack(distances, sideways), 100, "case")


def codes(found):
    return [notice.code for notice in found.notices]


@given(ANGLES, st.integers(2, 20), st.floats(0.3, 10))
def test_an_even_stack_s_affine_puts_each_slice_where_its_position_says(degrees, slices, step):
    turned = rotation(degrees)
    orientation = np.concatenate([turned[:, 0], turned[:, 1]])
    positions = np.array([3.0, -4.0, 5.0]) + np.arange(slices)[:, None] * step * turned[:, 2]
    found = grid_slices(orientation, np.array([0.7, 0.9]), positions, 100, "case")
    for index in (0, slices - 1):
        np.testing.assert_allclose(found.affine @ [0, 0, index, 1], [*positions[index], 1], atol=1e-9)
    np.testing.assert_allclose(found.affine[:3, 0], turned[:, 0] * 0.9, atol=1e-12)
    np.testing.assert_allclose(found.affine[:3, 1], turned[:, 1] * 0.7, atol=1e-12)
    assert found.z == tuple(range(slices))
    assert found.notices == ()


@given(st.lists(st.floats(0.2, 8), min_size=1, max_size=12), st.floats(-0.5, 0.5))
def test_any_stack_s_slices_lie_in_the_grid_where_their_positions_say(steps, lean):
    assume(min(steps) > 0.02 * float(np.median(steps)))
    positions = stack(np.cumsum([0.0, *steps]), lean)
    found = grid_slices(AXIAL, PIXELS, positions, 100, "case")
    usual = float(np.median(steps))
    for position, z in zip(positions, found.z, strict=True):
        np.testing.assert_allclose((found.affine @ [0, 0, z, 1])[:3], position, atol=0.06 * usual + 0.021)
    assert found.size <= max(FINEST * len(steps), round(sum(steps) / usual)) + 1
    assert found.z[0] == 0
    assert found.z[-1] == found.size - 1


def test_a_tilted_stack_keeps_its_shear_and_says_so():
    found = grid([0, 2, 4, 6], sideways=0.25)
    np.testing.assert_allclose(found.affine[:3, 2], [0.5, 0, 2])
    assert geometry.lateral_shift_mm(found.affine) == pytest.approx(0.5)
    assert geometry.shear_degrees(found.affine) == pytest.approx(np.degrees(np.arctan(0.25)))
    assert codes(found) == ["sheared-slices"]


def test_positions_rounded_to_hundredths_are_even():
    found = grid(np.round(np.arange(40) * 0.703125, 2))
    assert found.affine[2, 2] == pytest.approx(0.703125, abs=1e-3)
    assert found.z == tuple(range(40))


def test_a_missing_slice_is_filled_in_and_told_with_its_index_and_millimetres():
    found = grid([0.0, 2, 4, 8, 10])
    assert (found.size, found.z) == (6, (0, 1, 2, 4, 5))
    assert codes(found) == ["missing-slice"]
    told = "gap of 4.00 mm after slice 2 of 5, expected 2.00 mm"
    assert told in found.notices[0].message
    assert "1 of 6 slices are interpolated" in found.notices[0].message


def test_one_missing_slice_among_many_is_found():
    found = grid(np.delete(np.arange(500) * 0.5, 250))
    assert found.size == 500
    assert "gap of 1.00 mm after slice 249" in found.notices[0].message


def test_a_gap_in_a_tilted_stack_keeps_the_lean():
    found = grid([0.0, 2, 4, 8], sideways=0.25)
    np.testing.assert_allclose(found.affine[:3, 2], [0.5, 0, 2])
    assert codes(found) == ["missing-slice", "sheared-slices"]


def test_one_slice_out_of_step_leaves_the_others_as_they_are():
    found = grid([0.0, 2, 4.6, 6, 8])
    assert found.z == pytest.approx((0, 1, 2.3, 3, 4))
    assert codes(found) == ["uneven-slices"]
    assert "step of 2.60 mm after slice 1 of 5" in found.notices[0].message


def test_a_stack_without_a_usual_step_takes_the_shortest_so_far_as_the_limit_allows():
    found = grid([0.0, 1, 5, 12, 13.5])
    assert found.size == 15
    assert grid([0.0, 0.1, 5, 12, 30]).size == FINEST * 4 + 1


def test_a_gap_that_would_be_nearly_all_of_the_volume_is_refused():
    assert grid([0.0, 1, 2, 200]).size == 201
    with pytest.raises(GeometryError, match=r"gap of 998\.00 mm after slice 2 of 4.*too much to interpolate"):
        grid([0.0, 1, 2, 1000])


def test_slices_at_one_place_are_refused():
    with pytest.raises(GeometryError, match=r"slices 1 and 2 lie at the same place \(2\.00 mm") as caught:
        grid([0.0, 2, 2, 4])
    assert caught.value.code == "repeated-position"
    assert list(repeated(np.array([0.0, 2, 2, 4]))) == [False, True, False]


@pytest.mark.parametrize("which", [0, 2, 5])
def test_a_slice_a_little_off_the_line_is_moved_to_it_and_told_wherever_it_is(which):
    positions = stack([0, 2, 4, 6, 8, 10], sideways=0.25)
    positions[which] += [3, -1, 0]
    found = grid_slices(AXIAL, np.array([2.0, 1.0]), positions, 100, "case")
    expected = np.zeros((6, 2))
    expected[which] = [3, -0.5]
    np.testing.assert_allclose(found.shifts, expected, atol=1e-9)
    np.testing.assert_allclose(found.affine[:3, 2:], [[0.5, 0], [0, 0], [2, 0]], atol=1e-9)
    assert codes(found) == ["shifted-slice", "sheared-slices"]
    assert f"slice {which} by 3.16 mm" in found.notices[0].message


def test_a_slice_far_off_the_line_is_refused():
    positions = stack([0, 2, 4, 6, 8])
    positions[2, 0] += 6
    with pytest.raises(GeometryError, match=r"slice 2 of 5 lies 6\.00 mm off the line"):
        grid_slices(AXIAL, PIXELS, positions, 100, "case")


def test_slices_on_no_line_are_refused():
    positions = stack(range(8))
    positions[:, 0] += [0, 2, -1, 3, -2, 1, 4, -3]
    with pytest.raises(GeometryError, match="off the line through the others"):
        grid_slices(AXIAL, PIXELS, positions, 100, "case")
