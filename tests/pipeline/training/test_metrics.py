"""Metrics against counts by hand, voxel by voxel, and MONAI's; what empty labels mean."""

from __future__ import annotations

from dataclasses import asdict, astuple
from itertools import product
from math import inf, isnan, nan

import numpy as np
import pytest
from factories import make_affine, reorient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scanloom.pipeline.training.metrics import (
    ABSENT,
    FALSE_ALARM,
    FOUND,
    METRICS,
    MISSED,
    LabelScores,
    score_labels,
)

UNIT = np.eye(3)
maps = hnp.arrays(np.uint8, (4, 5, 6), elements=st.integers(0, 3))


def score(reference: np.ndarray, prediction: np.ndarray, axes: np.ndarray = UNIT, **settings: float) -> LabelScores:
    [scores] = score_labels(reference.astype(np.uint8), prediction.astype(np.uint8), [1], axes, **settings)
    return scores


def cube(*, start: int = 2, stop: int = 6, shape: tuple[int, ...] = (10, 10, 10)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[(slice(start, stop),) * len(shape)] = 1
    return mask


def counted(reference: np.ndarray, prediction: np.ndarray, value: int) -> dict[str, float]:
    """The counts of one label, voxel by voxel in plain Python, and what follows from them."""
    tp = fp = fn = tn = 0
    for place in product(*map(range, reference.shape)):
        truth, guess = reference[place] == value, prediction[place] == value
        tp, fp = tp + (truth and guess), fp + (guess and not truth)
        fn, tn = fn + (truth and not guess), tn + (not truth and not guess)

    def share(part: int, whole: int) -> float:
        return part / whole if whole else nan

    return {
        "dice": share(2 * tp, 2 * tp + fp + fn),
        "iou": share(tp, tp + fp + fn),
        "accuracy": share(tp + tn, tp + fp + fn + tn),
        "false_positive_rate": share(fp, fp + tn),
        "false_negative_rate": share(fn, fn + tp),
        "volume_error": share(fp - fn, tp + fn),
    }


@settings(max_examples=40, deadline=None)
@given(reference=maps, prediction=maps)
def test_overlap_and_rates_are_those_of_counting_voxel_by_voxel(reference: np.ndarray, prediction: np.ndarray) -> None:
    for scores in score_labels(reference, prediction, [1, 2, 3], UNIT):
        for name, value in counted(reference, prediction, scores.value).items():
            assert getattr(scores, name) == pytest.approx(value, nan_ok=True), name


@settings(max_examples=40, deadline=None)
@given(reference=maps, prediction=maps)
def test_dice_follows_from_iou_and_both_are_symmetric(reference: np.ndarray, prediction: np.ndarray) -> None:
    there, back = (
        score_labels(one, other, [1, 2, 3], UNIT) for one, other in ((reference, prediction), (prediction, reference))
    )
    for one, other in zip(there, back, strict=True):
        if not isnan(one.iou):
            assert one.dice == pytest.approx(2 * one.iou / (1 + one.iou))
        for name in ("dice", "iou", "accuracy", "surface_dice", "hd95_mm", "surface_distance_mm"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), nan_ok=True)
        assert one.volume_error_ml == -other.volume_error_ml


@settings(max_examples=30, deadline=None)
@given(reference=maps, value=st.integers(1, 3))
def test_a_perfect_prediction_is_perfect_in_everything(reference: np.ndarray, value: int) -> None:
    [scores] = score_labels(reference, reference, [value], UNIT)
    if (reference == value).any():
        assert (scores.outcome, scores.dice, scores.iou, scores.surface_dice) == (FOUND, 1, 1, 1)
        assert (scores.hd95_mm, scores.surface_distance_mm, scores.false_negative_rate) == (0, 0, 0)
    assert (scores.accuracy, scores.volume_error_ml) == (1, 0)
    assert scores.false_positive_rate == 0 or (reference == value).all()


@settings(max_examples=30, deadline=None)
@given(reference=maps, prediction=maps, shift=st.tuples(*[st.integers(0, 3)] * 3))
def test_moving_both_maps_in_the_grid_changes_nothing(
    reference: np.ndarray, prediction: np.ndarray, shift: tuple[int, int, int]
) -> None:
    """At the image's edge, too: there is no difference between the edge and background."""
    places = [
        tuple(slice(start, start + size) for start, size in zip(at, (4, 5, 6), strict=True)) for at in ((0,) * 3, shift)
    ]
    found = []
    for place in places:
        grids = np.zeros((2, 8, 9, 10), np.uint8)
        grids[0][place], grids[1][place] = reference, prediction
        found.append(score_labels(grids[0], grids[1], [1, 2, 3], np.diag((1, 2, 3))))
    for one, other in zip(*found, strict=True):
        assert one.outcome == other.outcome
        assert astuple(one)[2:] == pytest.approx(astuple(other)[2:], nan_ok=True)


def test_a_cube_and_its_half_have_the_scores_of_a_hand() -> None:
    whole, half = cube(), cube()
    half[4:] = 0
    scores = score(whole, half, np.diag((1.0, 2.0, 5.0)))
    assert (scores.reference_ml, scores.prediction_ml) == (pytest.approx(0.64), pytest.approx(0.32))
    assert (scores.dice, scores.iou) == (pytest.approx(2 / 3), pytest.approx(1 / 2))
    assert (scores.volume_error_ml, scores.volume_error) == (pytest.approx(-0.32), pytest.approx(-0.5))
    assert (scores.false_negative_rate, scores.false_positive_rate) == (0.5, 0)
    assert scores.accuracy == pytest.approx(1 - 32 / 1000)
    assert scores.hd95_mm == pytest.approx(2, abs=0.05)  # the side that is cut off lies two voxels of 1 mm away


def test_distances_are_in_mm_and_the_tolerance_too() -> None:
    reference, prediction = cube(), cube(start=3, stop=7)
    scores = {tolerance: score(reference, prediction, np.eye(3) * 2, tolerance_mm=tolerance) for tolerance in (1, 2.5)}
    assert scores[1].hd95_mm == pytest.approx(2 * score(reference, prediction).hd95_mm)
    assert scores[1].surface_dice < scores[2.5].surface_dice
    assert score(reference, prediction, np.eye(3) * 2).surface_dice == scores[1].surface_dice


def test_the_rates_are_over_the_whole_image_grid() -> None:
    small, large = (score(cube(shape=(size,) * 3), cube(stop=7, shape=(size,) * 3)) for size in (8, 16))
    assert small.dice == large.dice
    assert small.false_positive_rate == pytest.approx((125 - 64) / (512 - 64))
    assert large.false_positive_rate == pytest.approx((125 - 64) / (4096 - 64))


def test_a_label_that_is_missed_counts_as_wrong_and_far() -> None:
    scores = score(cube(), np.zeros((10, 10, 10)))
    assert scores.outcome == MISSED
    assert (scores.dice, scores.iou, scores.surface_dice, scores.false_negative_rate) == (0, 0, 0, 1)
    assert (scores.hd95_mm, scores.surface_distance_mm, scores.volume_error) == (inf, inf, -1)


def test_a_false_alarm_counts_as_wrong_and_far_and_has_no_share_of_nothing() -> None:
    scores = score(np.zeros((10, 10, 10)), cube())
    assert scores.outcome == FALSE_ALARM
    assert (scores.dice, scores.iou, scores.surface_dice, scores.hd95_mm) == (0, 0, 0, inf)
    assert scores.false_positive_rate == pytest.approx(0.064)
    assert isnan(scores.false_negative_rate)
    assert isnan(scores.volume_error)


def test_a_label_that_is_in_neither_has_no_overlap_and_no_distance() -> None:
    scores = score(np.zeros((3, 3, 3)), np.zeros((3, 3, 3)))
    assert scores.outcome == ABSENT
    with_value = {name for name in METRICS if not isnan(getattr(scores, name))}
    assert with_value == {"accuracy", "false_positive_rate", "volume_error_ml"}


def test_a_label_that_fills_the_grid_has_no_rate_of_false_positives() -> None:
    scores = score(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
    assert isnan(scores.false_positive_rate)
    assert (scores.dice, scores.hd95_mm) == (1, 0)


def test_ignored_voxels_count_nowhere() -> None:
    reference, prediction = cube(), cube(stop=8)
    reference[6:] = reference[:, 6:] = reference[:, :, 6:] = 9
    [scores] = score_labels(reference, prediction, [1], UNIT, ignored=9)
    assert (scores.dice, scores.hd95_mm, scores.volume_error_ml, scores.accuracy) == (1, 0, 0, 1)
    [counts] = score_labels(reference, prediction, [1], UNIT)
    assert counts.dice < 1


def test_a_plane_is_measured_along_its_outline_as_image_and_as_single_slice() -> None:
    """A slice's two sides lie on each other whatever it shows, and would make every surface Dice large."""
    reference, prediction = cube(shape=(12, 12)), cube(start=4, stop=10, shape=(12, 12))
    [flat] = score_labels(reference, prediction, [1], np.diag((1.0, 2.0)))
    [slice_] = score_labels(reference[:, np.newaxis], prediction[:, np.newaxis], [1], np.diag((1.0, 7.0, 2.0)))
    assert astuple(slice_)[4:9] == pytest.approx(astuple(flat)[4:9])
    assert slice_.reference_ml == pytest.approx(7 * flat.reference_ml)
    assert flat.reference_ml == pytest.approx(16 * 2 / 1000)
    assert flat.surface_dice < 0.5


def test_order_and_direction_of_the_axes_change_nothing() -> None:
    random = np.random.default_rng(0)
    affine = make_affine((0.8, 1.2, 3.0), (10, 20, 30))
    reference, prediction = (cube() ^ (random.random((10, 10, 10)) < 0.02).astype(np.uint8) for _ in range(2))
    straight = score(reference, prediction, affine[:3, :3].T)
    for axes, flips in (((2, 0, 1), (False, True, False)), ((1, 0, 2), (True, False, True))):
        one, turned = reorient(reference, affine, axes, flips)
        other, _ = reorient(prediction, affine, axes, flips)
        found = score(one, other, turned[:3, :3].T)
        assert astuple(found)[2:] == pytest.approx(astuple(straight)[2:], rel=0.02, abs=0.02)
        assert found.dice == straight.dice


def test_dice_and_iou_are_monais_where_it_has_them() -> None:
    import torch
    from monai.metrics import DiceMetric, MeanIoU

    random = np.random.default_rng(1)
    reference, prediction = random.integers(0, 4, (2, 9, 8, 7)).astype(np.uint8)
    one_hot = [
        torch.stack([torch.from_numpy(array == value) for value in range(4)])[None] for array in (prediction, reference)
    ]
    dice, iou = (
        kind(include_background=False, reduction="none")(*one_hot)[0].tolist() for kind in (DiceMetric, MeanIoU)
    )
    scores = score_labels(reference, prediction, [1, 2, 3], UNIT)
    assert [each.dice for each in scores] == pytest.approx(dice)
    assert [each.iou for each in scores] == pytest.approx(iou)


@pytest.mark.filterwarnings("ignore:monai.metrics.utils get_mask_edges:FutureWarning")  # of its own call
def test_distances_of_smooth_shapes_agree_with_monais_border_voxels_to_half_a_voxel() -> None:
    import torch
    from monai.metrics import HausdorffDistanceMetric

    grid = np.stack(np.meshgrid(*[np.arange(30) - 15] * 3, indexing="ij"))
    spacing = (1.0, 0.5, 2.0)
    grid = grid * np.reshape(spacing, (3, 1, 1, 1))
    reference, prediction = (np.linalg.norm(grid - shift, axis=0) < 6 for shift in (0, 1.5))
    monai = HausdorffDistanceMetric(include_background=True, percentile=95)
    masks = [torch.from_numpy(mask)[None, None] for mask in (prediction, reference)]
    border = float(monai(*masks, spacing=spacing))
    assert score(reference, prediction, np.diag(spacing)).hd95_mm == pytest.approx(border, abs=0.5)


def test_the_table_of_metrics_names_every_score_and_nothing_else() -> None:
    assert {*METRICS} == {*asdict(score(cube(), cube()))} - {"value", "outcome", "reference_ml", "prediction_ml"}


@pytest.mark.parametrize("axes", [np.eye(2), np.eye(4)])
def test_axes_that_are_not_of_the_grid_are_refused(axes: np.ndarray) -> None:
    with pytest.raises(ValueError, match="must be of one grid"):
        score(cube(), cube(), axes)


def test_maps_of_two_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be of one grid"):
        score(cube(), cube(shape=(10, 10, 11)))


@pytest.mark.parametrize("tolerance", [-1, inf, nan])
def test_a_tolerance_that_is_no_length_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="it must be 0 or more"):
        score(cube(), cube(), tolerance_mm=tolerance)
