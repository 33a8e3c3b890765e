"""Affines, and what is refused of them."""

import numpy as np
import pytest
from factories import make_affine
from hypothesis import given
from hypothesis import strategies as st
from scanloom.pipeline.errors import GeometryError
from scanloom.pipeline.studies import geometry

ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)


@given(ANGLES, st.tuples(*[st.floats(0.1, 10)] * 3))
def test_lps_to_ras_twice_is_identity(degrees, spacing):
    affine = make_affine(spacing, degrees)
    np.testing.assert_array_equal(geometry.lps_to_ras(geometry.lps_to_ras(affine)), affine)
    np.testing.assert_array_equal(geometry.ras_to_lps(affine), geometry.lps_to_ras(affine))


@given(ANGLES, st.tuples(*[st.floats(0.1, 10)] * 3))
def test_spacing_is_the_edge_length_whatever_the_rotation(degrees, spacing):
    np.testing.assert_allclose(geometry.voxel_spacing(make_affine(spacing, degrees)), spacing)


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
