"""How well a label map agrees with a reference, label by label: overlap, rates, surface distances and volumes.

For one label, with A its voxels in the reference, B those in the prediction, and of all voxels of the grid TP in both,
FP in B alone, FN in A alone, TN in neither:

    dice                 2 TP / (2 TP + FP + FN)
    iou                  TP / (TP + FP + FN)
    accuracy             (TP + TN) / all
    false_positive_rate  FP / (FP + TN)
    false_negative_rate  FN / (FN + TP)
    hd95_mm, surface_distance_mm, surface_dice: see `surfaces`
    volume_error_ml      |B| - |A| in ml; volume_error: the same as a share of |A|

Where a label is empty: a formula that is 0/0 has no value (nan), and a mean leaves it out. So with neither A nor B
("absent") only accuracy, the false positive rate and the volume error in ml have values. With A alone ("missed") or B
alone ("false alarm") overlap and surface Dice are 0 and the surface distances infinite; the summary leaves these out of
their means and says how many there are. So does nnU-Net with 0/0; MONAI leaves out every case without A, false alarms
too, and its HD95 leaves out what was missed.

Source: Maier-Hein, Reinke et al. 2024, "Metrics reloaded", Nature Methods 21:195; Isensee 2021, Nature Methods 18:203.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan

import numpy as np

from .surfaces import surface_distances, surface_of

PERCENT = 95
FOUND, MISSED, FALSE_ALARM, ABSENT = "found", "missed", "false alarm", "absent"
Box = tuple[slice, ...]


@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        title: for the head of a column, with the unit.
        digits: after the point.
    """

    title: str
    digits: int


METRICS = {
    "dice": Metric("Dice", 4),
    "iou": Metric("IoU", 4),
    "surface_dice": Metric("surface Dice", 4),
    "hd95_mm": Metric("HD95 (mm)", 2),
    "surface_distance_mm": Metric("surface distance (mm)", 2),
    "volume_error_ml": Metric("volume error (ml)", 3),
    "volume_error": Metric("volume error (share)", 3),
    "false_negative_rate": Metric("false negative rate", 4),
    "false_positive_rate": Metric("false positive rate", 6),
    "accuracy": Metric("accuracy", 4),
}
"""Names as in `LabelScores`, in the order of tables."""


@dataclass(frozen=True)
class LabelScores:
    """One label of one case.

    Attributes:
        value: the label's integer.
        outcome: FOUND where both maps hold it, in whatever place; MISSED, FALSE_ALARM or ABSENT.
        reference_ml, prediction_ml: its volumes.
        dice, iou, surface_dice, accuracy, false_positive_rate, false_negative_rate: from 0 to 1, or nan.
        hd95_mm, surface_distance_mm: 0 or more, inf or nan.
        volume_error_ml, volume_error: above 0 where the prediction is larger; the latter may be nan.
    """

    value: int
    outcome: str
    reference_ml: float
    prediction_ml: float
    dice: float
    iou: float
    surface_dice: float
    hd95_mm: float
    surface_distance_mm: float
    volume_error_ml: float
    volume_error: float
    false_negative_rate: float
    false_positive_rate: float
    accuracy: float


def score_labels(
    reference: np.ndarray,
    prediction: np.ndarray,
    values: Sequence[int],
    axes_mm: np.ndarray,
    tolerance_mm: float = 1.0,
    ignored: int | None = None,
) -> list[LabelScores]:
    """Scores of each label, in the order of `values`.

    Args:
        reference: (X, Y, Z) or (X, Y), integers from 0.
        prediction: likewise, on the same grid.
        values: the labels.
        axes_mm: (D, D), the step of each array axis in mm, as rows: the transposed 3 x 3 part of an affine. A plane is
            taken to be 1 mm thick. Of a single slice, (X, Y, 1), the outline in its plane is the surface.
        tolerance_mm: of the surface Dice.
        ignored: voxels of the reference with this value count nowhere, whatever the prediction says there.
    Raises:
        ValueError: the shapes differ, or the tolerance is negative or not finite.
    """
    axes_mm = np.asarray(axes_mm, dtype=float)
    if reference.shape != prediction.shape or axes_mm.shape != (reference.ndim, reference.ndim):
        raise ValueError(
            f"reference {reference.shape}, prediction {prediction.shape} and axes {axes_mm.shape} must be of one grid."
        )
    if not 0 <= tolerance_mm < inf:
        raise ValueError(f"tolerance {tolerance_mm} mm: it must be 0 or more.")
    voxel_ml = abs(float(np.linalg.det(axes_mm))) / 1000
    voxels = reference.size
    if ignored is not None:
        counts = reference != ignored
        reference, prediction, voxels = reference * counts, prediction * counts, int(counts.sum())
    reference, prediction, axes_mm = _without_flat_axis(reference, prediction, axes_mm)
    boxes = [_boxes(array) for array in (reference, prediction)]
    scores = []
    for value in values:
        box = _union([found[value] for found in boxes if value in found])
        masks = (reference[box] == value, prediction[box] == value)
        scores.append(_score(value, masks[0], masks[1], voxels, voxel_ml, axes_mm, tolerance_mm))
    return scores


def _score(
    value: int,
    reference: np.ndarray,
    prediction: np.ndarray,
    voxels: int,
    voxel_ml: float,
    axes_mm: np.ndarray,
    tolerance_mm: float,
) -> LabelScores:
    """The scores of masks that were cut out of a grid of so many voxels."""
    in_reference, in_prediction = int(reference.sum()), int(prediction.sum())
    both = int((reference & prediction).sum())
    alarms, misses = in_prediction - both, in_reference - both
    wrong = alarms + misses
    hd95, distance, surface_dice = _surface_scores(reference, prediction, axes_mm, tolerance_mm)
    return LabelScores(
        value=value,
        outcome=_outcome(in_reference, in_prediction),
        reference_ml=in_reference * voxel_ml,
        prediction_ml=in_prediction * voxel_ml,
        dice=_ratio(2 * both, 2 * both + wrong),
        iou=_ratio(both, both + wrong),
        surface_dice=surface_dice,
        hd95_mm=hd95,
        surface_distance_mm=distance,
        volume_error_ml=(in_prediction - in_reference) * voxel_ml,
        volume_error=_ratio(in_prediction - in_reference, in_reference),
        false_negative_rate=_ratio(misses, in_reference),
        false_positive_rate=_ratio(alarms, voxels - in_reference),
        accuracy=_ratio(voxels - wrong, voxels),
    )


def _surface_scores(
    reference: np.ndarray, prediction: np.ndarray, axes_mm: np.ndarray, tolerance_mm: float
) -> tuple[float, float, float]:
    """HD95, average surface distance and surface Dice."""
    empty = [not mask.any() for mask in (reference, prediction)]
    if all(empty):
        return nan, nan, nan
    if any(empty):
        return inf, inf, 0.0
    one, other = (surface_of(mask, axes_mm) for mask in (reference, prediction))
    distances = surface_distances(one, other)
    return distances.percentile_mm(PERCENT), distances.mean_mm(), distances.share_within(tolerance_mm)


def _without_flat_axis(
    reference: np.ndarray, prediction: np.ndarray, axes_mm: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A single slice as a plane: its two sides, which always lie on each other, are no surface of what it shows."""
    if reference.ndim == 2 or 1 not in reference.shape:
        return reference, prediction, axes_mm
    flat = reference.shape.index(1)
    return reference.squeeze(flat), prediction.squeeze(flat), np.delete(axes_mm, flat, axis=0)


def _outcome(in_reference: int, in_prediction: int) -> str:
    if in_reference:
        return FOUND if in_prediction else MISSED
    return FALSE_ALARM if in_prediction else ABSENT


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else nan


def _boxes(labels: np.ndarray) -> dict[int, Box]:
    """The smallest box around each label that is there."""
    from scipy.ndimage import find_objects

    return {value: box for value, box in enumerate(find_objects(labels), start=1) if box is not None}


def _union(boxes: Sequence[Box]) -> Box:
    """The smallest box around some; an empty one where there is none."""
    if not boxes:
        return (slice(0, 0),)
    return tuple(
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*boxes, strict=True)
    )
