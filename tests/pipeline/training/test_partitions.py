"""The scores of the membrane challenge, against pairs counted by hand and against scikit-image."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scanloom.pipeline.training.partitions import (
    cells,
    membrane_scores,
    partition_scores,
    thinned_cells,
)
from skimage.metrics import variation_of_information

PARTITIONS = arrays(np.int64, (4, 5), elements=st.integers(0, 3))


def four_cells(gap: int = 0) -> np.ndarray:
    """A mask of membranes (32, 32) that parts it into four, with a gap of so many pixels between two of them."""
    membrane = np.zeros((32, 32), bool)
    membrane[15:17], membrane[:, 15:17] = True, True
    membrane[5 : 5 + gap, 15:17] = False
    return membrane


@given(PARTITIONS, PARTITIONS)
@settings(deadline=None, max_examples=60)
def test_the_rand_scores_are_shares_of_pairs_of_pixels(truth: np.ndarray, found: np.ndarray) -> None:
    truth.flat[0] = 1
    inside = truth.ravel() > 0
    pixels = list(zip(truth.ravel()[inside], found.ravel()[inside], strict=True))
    pairs = [
        *combinations(pixels, 2),
        *combinations(pixels, 2),
        *((pixel, pixel) for pixel in pixels),
    ]  # ordered, with itself
    both = sum(a[0] == b[0] and a[1] == b[1] for a, b in pairs)
    in_truth, in_found = (sum(a[side] == b[side] for a, b in pairs) for side in (0, 1))
    scores = partition_scores(truth, found)
    assert scores.v_rand_split == pytest.approx(both / in_truth)
    assert scores.v_rand_merge == pytest.approx(both / in_found)
    assert scores.v_rand == pytest.approx(2 * both / (in_truth + in_found))


@given(PARTITIONS, PARTITIONS)
@settings(deadline=None, max_examples=60)
def test_the_information_score_follows_from_scikit_images_conditional_entropies(
    truth: np.ndarray, found: np.ndarray
) -> None:
    truth.flat[:2] = 1, 2
    inside = truth > 0
    _, merge = variation_of_information(truth[inside][None], found[inside][None])  # H(found|truth), H(truth|found)
    own = [
        variation_of_information(np.zeros_like(each[inside])[None], each[inside][None])[0] for each in (truth, found)
    ]
    expected = 2 * (own[0] - merge) / sum(own)
    assert partition_scores(truth, found).v_info == pytest.approx(expected, abs=1e-9)


def test_equal_partitions_score_one_whatever_their_numbers() -> None:
    truth = cells(four_cells())
    scores = partition_scores(truth, 7 * truth + 3)
    assert (scores.v_rand, scores.v_rand_split, scores.v_rand_merge, scores.v_info) == pytest.approx((1, 1, 1, 1))


def test_a_single_cell_that_is_found_whole_scores_one() -> None:
    assert partition_scores(np.ones((3, 3), int), np.zeros((3, 3), int)).v_info == 1.0


def test_a_gap_in_a_membrane_merges_two_cells_and_lowers_the_merge_score_alone() -> None:
    found = thinned_cells(four_cells(gap=2).astype(float), 0.5)
    scores = partition_scores(cells(four_cells()), found)
    assert scores.v_rand_merge == pytest.approx(2 / 3, rel=0.02)
    assert scores.v_rand_split > 0.98


def test_pixels_of_the_true_membrane_do_not_count() -> None:
    truth = cells(four_cells())
    found = truth.copy()
    found[truth == 0] = 9
    assert partition_scores(truth, found).v_rand == pytest.approx(1.0)


def test_thinning_grows_the_cells_over_thick_membranes_until_they_meet() -> None:
    thick = np.zeros((33, 33))
    thick[10:23] = 1.0
    found = thinned_cells(thick, 0.5)
    assert set(np.unique(found)) == {1, 2}
    assert {*found[:16].ravel()} == {1}


def test_cells_that_touch_by_a_corner_are_two() -> None:
    membrane = np.array([[False, True], [True, False]])
    assert cells(membrane).tolist() == [[1, 0], [0, 2]]


def test_a_thick_but_closed_membrane_is_a_wrong_pixel_and_no_wrong_cell() -> None:
    truth = four_cells()
    thick = np.zeros((32, 32))
    thick[13:19], thick[:, 13:19] = 0.9, 0.9
    scores = membrane_scores([truth], [thick])
    assert scores["v_rand"] == pytest.approx(1.0)
    assert scores["pixel_error"] == pytest.approx(np.mean((thick > 0.5) != truth))
    assert scores["rand_error"] > 0.01  # without thinning the lost rims count


def test_the_best_threshold_counts_as_in_the_challenge() -> None:
    truth = four_cells()
    faint = np.where(truth, 0.25, 0.0)
    scores = membrane_scores([truth], [faint])
    assert scores["v_rand"] == pytest.approx(1.0)
    assert scores["v_rand_threshold"] in (0.1, 0.2)
    assert scores["pixel_f_error"] == pytest.approx(0.0)
    assert scores["pixel_error"] == pytest.approx(truth.mean())  # at 0.5


def test_the_scores_of_a_stack_are_means_over_its_slices() -> None:
    truth, found = four_cells(), four_cells(gap=2).astype(float)
    one, both = (membrane_scores([truth] * len(maps), maps, (0.5,)) for maps in ([found], [found, truth.astype(float)]))
    assert both["v_rand"] == pytest.approx((one["v_rand"] + 1) / 2)


def test_partitions_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a partition of \(2, 2\) pixels can not be compared with one of \(3, 3\)"):
        partition_scores(np.ones((3, 3), int), np.ones((2, 2), int))


def test_a_truth_without_a_cell_is_refused() -> None:
    with pytest.raises(ValueError, match="the truth has no cell"):
        partition_scores(np.zeros((3, 3), int), np.ones((3, 3), int))


def test_no_slice_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no slice to judge"):
        membrane_scores([], [])
