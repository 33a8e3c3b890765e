import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scanloom.pipeline.outputs.dicom_contours import keyhole_contours
from skimage.draw import polygon2mask


def filled(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The voxels whose centres lie in an odd number of polygons, by another library."""
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        mask ^= polygon2mask(shape, polygon)
    return mask


def area(polygon: np.ndarray) -> float:
    row, column = polygon.T
    return abs(float(row @ np.roll(column, 1) - column @ np.roll(row, 1))) / 2


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_filling_the_contours_gives_any_mask_back(mask):
    np.testing.assert_array_equal(filled(keyhole_contours(mask), mask.shape), mask)


@given(arrays(bool, (12, 12), elements=st.integers(0, 9).map(bool)))
def test_masks_full_of_holes_come_back_too(mask):
    np.testing.assert_array_equal(filled(keyhole_contours(mask), mask.shape), mask)


def test_a_contour_leaves_out_half_a_voxel_of_area():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 3:8] = True
    (polygon,) = keyhole_contours(mask)
    assert area(polygon) == 25 - 0.5


def test_holes_are_part_of_their_outline():
    mask = np.ones((11, 13), bool)
    mask[2:4, 2:5] = mask[6:9, 2:5] = mask[3:8, 8] = False
    (polygon,) = keyhole_contours(mask)
    assert area(polygon) == mask.sum() - 0.5 + 3 * 0.5


def test_parts_that_touch_at_a_corner_are_apart_and_straight_lines_have_no_points_between():
    polygons = keyhole_contours(np.eye(3, dtype=bool))
    assert [len(polygon) for polygon in polygons] == [4, 4, 4]
    (box,) = keyhole_contours(np.ones((20, 30), bool))
    assert len(box) == 8


def test_nothing_has_no_contour():
    assert keyhole_contours(np.zeros((4, 5), bool)) == []
