"""Faults of voxels: grids, values of images, values of label maps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from factories import make_affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scanloom.pipeline.training.voxel_faults import count_labels, grid_fault, image_faults, label_faults
from scanloom.pipeline.volume import Volume

KNOWN = {0: "background", 1: "head", 2: "body"}


def volume(shape: tuple[int, ...] = (6, 7, 8), affine: np.ndarray | None = None, fill: float = 0) -> Volume:
    return Volume(np.full((1, *shape), fill), make_affine() if affine is None else affine, "case")


def test_the_same_grid_is_no_fault() -> None:
    assert grid_fault(volume(), volume()) is None


def test_an_affine_rounded_as_files_round_it_is_no_fault() -> None:
    affine = make_affine(spacing=(0.7, 0.7, 5), degrees=(10, 20, 30), origin=(-312.3, 123.4, -1400.1))
    assert grid_fault(volume((512, 512, 80), affine), volume((512, 512, 80), affine.astype(np.float32))) is None


def test_another_size_is_told_with_both_sizes() -> None:
    assert str(grid_fault(volume((6, 7, 8)), volume((6, 7, 9)))).startswith(
        "6 x 7 x 9 voxels, its image has 6 x 7 x 8."
    )


@pytest.mark.parametrize(
    "changed",
    [
        make_affine(origin=(-14.0, -30.0, 10.0)),  # 6 mm aside
        make_affine(degrees=(0, 0, 5)),
        make_affine(spacing=(1.0, 1.5, 2.02)),
        make_affine() @ np.diag([-1, 1, 1, 1]),
    ],
)
def test_a_label_that_lies_elsewhere_is_a_fault(changed: np.ndarray) -> None:
    assert "mm off its image (their affines differ). Resample it" in str(grid_fault(volume(), volume(affine=changed)))


def test_the_distance_of_the_farthest_corner_is_told() -> None:
    assert "up to 6 mm off" in str(grid_fault(volume(), volume(affine=make_affine(origin=(-14.0, -30.0, 10.0)))))


def test_values_that_are_not_finite_are_counted() -> None:
    array = np.arange(1000.0).reshape(1, 10, 10, 10)
    array[0, 0, 0, :3] = np.nan
    array[0, 1, 1, :2] = np.inf, -np.inf
    (line,) = image_faults(array)
    assert line.startswith("3 NaN and 2 infinite of 1,000 voxels. Replace them")


def test_an_image_of_nothing_but_nan_is_told_once() -> None:
    (line,) = image_faults(np.full((1, 2, 2, 2), np.nan))
    assert line.startswith("8 NaN and 0 infinite")


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_constant_image_is_a_fault(kind: Any) -> None:
    (line,) = image_faults(np.full((1, 4, 4, 4), 7, kind))
    assert line.startswith("every voxel is 7: an image of nothing.")


def test_a_single_slice_is_no_volume() -> None:
    (line,) = image_faults(np.zeros((1, 64, 1, 64)))
    assert line.startswith("64 x 1 x 64 voxels: a single slice, not a volume.")


def test_a_single_slice_is_whole_for_a_network_of_slices() -> None:
    picture = np.arange(64.0).reshape(1, 8, 8, 1)
    assert image_faults(picture, slices=True) == []
    (line,) = image_faults(picture[:, :1], slices=True)
    assert line.startswith("1 x 8 x 1 voxels: a single slice")


def test_an_ordinary_image_has_no_fault() -> None:
    assert image_faults(np.arange(64).reshape(1, 4, 4, 4)) == []


@given(arrays.arrays(np.int64, (1, 3, 4, 2), elements=st.integers(-(2**40), 2**40)))
def test_labels_are_counted_as_numpy_counts_them(array: np.ndarray) -> None:
    counts = count_labels(array)
    expected = zip(*np.unique(array, return_counts=True), strict=True)
    assert counts.voxels == {int(value): int(count) for value, count in expected} and not counts.others


def test_whole_numbers_in_floating_point_are_labels() -> None:
    assert count_labels(np.array([[[[0.0, 2.0, 2.0]]]])).voxels == {0: 1, 2: 2}


def test_values_that_are_no_labels_are_told() -> None:
    counts = count_labels(np.array([[[[0.0, 0.999, 1.5, -1.0, 2.0]]]]))
    (line,) = label_faults(counts, KNOWN)
    assert line.startswith("holds 0.999, 1.5 and -1: labels are whole numbers from 0.")


def test_a_value_that_is_nearly_whole_is_written_in_full() -> None:
    (line,) = label_faults(count_labels(np.array([[[[1 - 2.0**-40]]]])), KNOWN)
    assert line.startswith("holds 0.999999999999090")


def test_nan_and_infinity_are_no_labels() -> None:
    (line,) = label_faults(count_labels(np.array([[[[np.nan, np.inf, 1]]]])), KNOWN)
    assert "inf and nan" in line


def test_labels_that_nobody_named_are_told_with_the_known_ones() -> None:
    (line,) = label_faults(count_labels(np.array([[[[0, 1, 3, 4]]]])), KNOWN)
    assert line.startswith("holds 3 and 4: the labels are 0 background, 1 head, 2 body. Map it")


def test_of_many_values_and_labels_some_are_told() -> None:
    known = {value: f"part{value}" for value in range(20)}
    (line,) = label_faults(count_labels(np.arange(20, 60).reshape(1, 1, 4, 10)), known)
    assert "27 and other values" in line and "7 part7 and 12 more" in line


def test_without_known_labels_any_whole_number_will_do() -> None:
    assert label_faults(count_labels(np.array([[[[0, 300]]]])), None) == []
