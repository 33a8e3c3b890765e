"""Pictures of validation cases: reference and prediction on the slices that hold most of the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import LabelClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANES = ("sagittal", "coronal", "axial")
REFERENCE, PREDICTION = (0, (2.2, 1.4)), "solid"
"""Line styles."""


@dataclass(frozen=True)
class Picture:
    """What a picture of a case shows: a few slices in place of the volume.

    Attributes:
        sections: name, (image, reference, prediction) as (rows, columns), height over width of a pixel, for each plane.
        window: grey values from black to white.
        dice: value of a label -> its Dice over the whole volume; NaN where it is in neither.
    """

    sections: tuple[tuple[str, list[np.ndarray], float], ...]
    window: tuple[float, float]
    dice: Mapping[int, float]

    @property
    def mean_dice(self) -> float:
        """Mean over the labels that are in reference or prediction; NaN where none is."""
        there = [value for value in self.dice.values() if not np.isnan(value)]
        return float(np.mean(there)) if there else float("nan")


def picture_of(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    labels: Sequence[LabelClass] = (),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Picture:
    """The slices that hold most of the reference, copied out of the volume, and the Dice of each label.

    Args:
        image: (X, Y, Z) in RAS array order, shown in three planes with the patient's right on the left; or (X, Y).
        reference: integers of the image's shape, 0 background.
        prediction: likewise.
        labels: whose Dice is wanted, beside those that are found.
        spacing: of the voxels along each axis, in any unit.
    """
    found = np.union1d(np.unique(reference), np.unique(prediction))
    values = sorted({*(label.value for label in labels), *(int(value) for value in found if value > 0)})
    low, high = np.percentile(image, (1, 99))
    sections = tuple(
        (name, [plane.copy() for plane in planes], aspect)
        for name, planes, aspect in _sections(image, reference, prediction, spacing)
    )
    dice = {value: _dice(reference == value, prediction == value) for value in values}
    return Picture(sections, (float(low), float(max(high, low + 1e-6))), dice)


def overlay_figure(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    title: str,
    labels: Sequence[LabelClass] = (),
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
) -> Figure:
    """`draw` of `picture_of`."""
    return draw(picture_of(image, reference, prediction, labels, spacing), title, labels)


def draw(picture: Picture, title: str, labels: Sequence[LabelClass] = ()) -> Figure:
    """A case with the outlines of the reference (dashed) and the prediction (solid), and the Dice of each label.

    Args:
        picture: of the case.
        title: one line above.
        labels: names and colours for the legend; a label that is not among them is called by its number.
    """
    from matplotlib.figure import Figure

    known = {label.value: label for label in labels}
    colors = {value: _color(known.get(value), order) for order, value in enumerate(picture.dice)}
    figure = Figure(figsize=(3.4 * len(picture.sections) + 0.4, 4.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    low, high = picture.window
    panels = np.ravel(figure.subplots(1, len(picture.sections)))
    for axes, (name, planes, aspect) in zip(panels, picture.sections, strict=True):
        axes.imshow(planes[0], cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect)
        for value, color in colors.items():
            _outline(axes, planes[1] == value, color, REFERENCE, 1.6)
            _outline(axes, planes[2] == value, color, PREDICTION, 1.4)
        axes.invert_xaxis()
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    names = {value: known[value].name if value in known else f"label {value}" for value in picture.dice}
    texts = [
        (colors[value], f"{names[value]}, Dice {'- (absent)' if np.isnan(dice) else f'{dice:.3f}'}")
        for value, dice in picture.dice.items()
    ]
    _legend(figure, texts)
    return figure


def _sections(
    image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]
) -> Iterator[tuple[str, list[np.ndarray], float]]:
    """Name, the three arrays as (rows, columns) and height over width of a pixel, for each plane."""
    arrays = (image, reference, prediction)
    if image.ndim == 2:
        yield "", [array.T for array in arrays], spacing[1] / spacing[0]
        return
    labelled = reference > 0 if reference.any() else prediction > 0
    for axis, name in enumerate(PLANES):
        column, row = (other for other in range(3) if other != axis)
        counts = labelled.sum(axis=(column, row))
        index = int(np.argmax(counts)) if counts.any() else len(counts) // 2
        planes = [np.take(array, index, axis).T for array in arrays]
        yield f"{name}, slice {index}", planes, spacing[row] / spacing[column]


def _outline(axes: Axes, mask: np.ndarray, color: Any, style: Any, width: float) -> None:
    """The border of a mask along the edges of its voxels, which a label of a single voxel has too."""
    if not mask.any():
        return
    rows, columns = mask.shape
    fine = np.pad(mask, 1).repeat(4, 0).repeat(4, 1).astype(float)
    x, y = ((np.arange(4 * (length + 2)) + 0.5) / 4 - 1.5 for length in (columns, rows))
    axes.contour(x, y, fine, [0.5], colors=[color], linestyles=[style], linewidths=width)


def _legend(figure: Figure, labels: Sequence[tuple[Any, str]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=color, label=text) for color, text in labels]
    for style, text in ((REFERENCE, "dashed: reference"), (PREDICTION, "solid: prediction")):
        handles.append(Line2D([], [], color="0.3", linestyle=style, linewidth=1.6, label=text))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)


def _color(label: LabelClass | None, order: int) -> Any:
    return tuple(part / 255 for part in label.color) if label else f"C{order}"


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|); where both are empty there is none: NaN."""
    total = int(one.sum()) + int(other.sum())
    return 2 * int((one & other).sum()) / total if total else float("nan")
