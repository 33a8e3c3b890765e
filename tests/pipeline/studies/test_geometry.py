"""Affines of slice stacks, and what is refused of them."""

import numpy as np
import pytest
from factories import make_affine, rotation
from hypothesis import given
from hypothesis import strategies as st
from scanloom.pipeline.errors import GeometryError
from scanloom.pipeline.studies import geometry

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
AXIAL = np.array([1.0, 0, 0, 0, 1, 0])
PIXELS = np.array([1.0, 1.0])


def stack(distances, sideways=0.0):
    """Positions of axial slices at the given heights, each shifted in x in proportion."""
    return np.array([[sideways * k, 0.0, distance] for k, distance in enumerate(distances)])


@given(ANGLES, st.tuples(*[st.floats(0.1, 10)] * 3))
def test_lps_to_ras_twice_is_identity(degrees, spacing):
    affine = make_affine(spacing, degrees)
    np.testing.assert_array_equal(geometry.lps_to_ras(geometry.lps_to_ras(affine)), affine)
    np.testing.assert_array_equal(geometry.ras_to_lps(affine), geometry.lps_to_ras(affine))


@given(ANGLES, st.tuples(*[st.floats(0.1, 10)] * 3))
def test_spacing_is_the_edge_length_whatever_the_rotation(degrees, spacing):
    np.testing.assert_allclose(geometry.voxel_spacing(make_affine(spacing, degrees)), spacing)


@given(ANGLES, st.integers(2, 20), st.floats(0.3, 10))
def test_a_stack_s_affine_puts_each_slice_where_its_position_says(degrees, slices, step):
    turned = rotation(degrees)
    orientation = np.concatenate([turned[:, 0], turned[:, 1]])
    positions = np.array([3.0, -4.0, 5.0]) + np.arange(slices)[:, None] * step * turned[:, 2]
    affine = geometry.stack_affine(orientation, np.array([0.7, 0.9]), positions, "case")
    for index in (0, slices - 1):
        np.testing.assert_allclose(affine @ [0, 0, index, 1], [*positions[index], 1], atol=1e-9)
    np.testing.assert_allclose(affine[:3, 0], turned[:, 0] * 0.9, atol=1e-12)
    np.testing.assert_allclose(affine[:3, 1], turned[:, 1] * 0.7, atol=1e-12)


def test_a_tilted_stack_keeps_its_shear():
    affine = geometry.stack_affine(AXIAL, PIXELS, stack([0, 2, 4, 6], sideways=0.5), "case")
    np.testing.assert_allclose(affine[:3, 2], [0.5, 0, 2])
    assert geometry.lateral_shift_mm(affine) == pytest.approx(0.5)
    assert geometry.shear_degrees(affine) == pytest.approx(np.degrees(np.arctan(0.25)))


def test_positions_rounded_to_hundredths_are_even():
    rounded = np.round(np.arange(40) * 0.703125, 2)
    affine = geometry.stack_affine(AXIAL, PIXELS, stack(rounded), "case")
    assert affine[2, 2] == pytest.approx(0.703125, abs=1e-3)


def test_a_missing_slice_is_refused_with_its_index_and_millimetres():
    with pytest.raises(GeometryError, match=r"gap of 4\.00 mm after slice 2 of 5, expected 2\.00 mm.*Export") as caught:
        geometry.check_steps(np.array([0.0, 2, 4, 8, 10]), "case")
    assert caught.value.code == "missing-slice"


def test_one_missing_slice_among_many_is_refused():
    heights = np.delete(np.arange(500) * 0.5, 250)
    with pytest.raises(GeometryError, match=r"gap of 1\.00 mm after slice 249"):
        geometry.check_steps(heights, "case")


def test_uneven_slices_are_refused():
    with pytest.raises(GeometryError, match=r"uneven slices, a step of 2\.60 mm after slice 1"):
        geometry.check_steps(np.array([0.0, 2, 4.6, 6, 8]), "case")


def test_slices_at_one_place_are_refused():
    with pytest.raises(GeometryError, match=r"slices 1 and 2 lie at the same place \(2\.00 mm") as caught:
        geometry.check_steps(np.array([0.0, 2, 2, 4]), "case")
    assert caught.value.code == "repeated-position"


def test_a_slice_off_the_line_is_refused():
    positions = stack([0, 2, 4, 6])
    positions[2, 0] += 3
    with pytest.raises(GeometryError, match=r"slice 2 of 4 lies 3\.00 mm off the line"):
        geometry.stack_affine(AXIAL, PIXELS, positions, "case")


@pytest.mark.parametrize(
    ("orientation", "message"),
    [
        ([2.0, 0, 0, 0, 1, 0], "directions of length 2 and 1"),
        ([0.0, 0, 0, 0, 1, 0], "directions of length 0 and 1"),
        ([1.0, 0, 0, 0.1, 0.995, 0], "at 84.26 degrees, not 90"),
        ([np.nan, 0, 0, 0, 1, 0], "ImageOrientationPatient"),
    ],
)
def test_directions_that_are_no_right_angle_are_refused(orientation, message):
    with pytest.raises(GeometryError, match=message):
        geometry.slice_normal(np.array(orientation), "case")


def test_affines_that_place_nothing_are_refused():
    with pytest.raises(GeometryError, match="singular"):
        geometry.check_affine(np.diag([1.0, 1, 0, 1]), "case")
    with pytest.raises(GeometryError, match="NaN"):
        geometry.check_affine(np.diag([1.0, np.nan, 1, 1]), "case")
    geometry.check_affine(make_affine((0.01, 5, 0.3), (20, 30, 40)), "case")


@pytest.mark.parametrize(
    ("degrees", "plane"),
    [((0, 0, 0), "axial"), ((90, 0, 0), "coronal"), ((0, 90, 0), "sagittal"), ((0, 96, 0), "oblique sagittal")],
)
def test_the_plane_is_named_after_the_nearest_patient_plane(degrees, plane):
    assert geometry.plane_name(make_affine(degrees=degrees)) == plane
