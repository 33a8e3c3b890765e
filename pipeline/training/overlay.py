"""Pictures of validation cases: reference and prediction on the slices that hold most of the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import LabelClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLANES = ("sagittal", "coronal", "axial")
REFERENCE, PREDICTION = (0, (2.2, 1.4)), "solid"
"""Line styles."""
LONGEST_SIDE = 512
"""Pixels that are kept along a side of a slice: a panel shows fewer."""
MOST_NAMED = 24
"""Labels in the legend; of more than these, those with the lowest Dice."""

Section = tuple[str, tuple[np.ndarray, np.ndarray, np.ndarray], float]
"""Name; image, reference and prediction as (rows, columns); height over width of a pixel."""


@dataclass(frozen=True)
class Picture:
    """What a picture of a case shows: a few slices in place of the volume, at most 3 bytes a pixel for 255 labels.

    Attributes:
        sections: of each plane; the image as bytes, from black to white.
        dice: value of a label -> its Dice over the whole volume; NaN where it is in neither.
    """

    sections: tuple[Section, ...]
    dice: Mapping[int, float]

    @property
    def mean_dice(self) -> float:
        """Mean over the labels that are in reference or prediction; NaN where none is."""
        there = [value for value in self.dice.values() if not isnan(value)]
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
            One of another shape than the labels can not be laid under them: the slices are black then.
        reference: integers from 0, the background.
        prediction: of the reference's shape.
        labels: whose Dice is wanted, beside those that are found.
        spacing: of the voxels along each axis, in any unit.
    """
    if image.shape != reference.shape:
        image = np.zeros(reference.shape, np.uint8)
    low, high = _window(image)
    values = np.uint8 if max(reference.max(initial=0), prediction.max(initial=0)) < 256 else np.int32
    sections = tuple(
        (name, (_grey(scan, low, high), truth.astype(values), guess.astype(values)), aspect)
        for name, (scan, truth, guess), aspect in _sections(image, reference, prediction, spacing)
    )
    return Picture(sections, _dice(reference, prediction, [label.value for label in labels]))


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
    texts = _legend_texts(picture.dice, known)
    (width, height), columns = ((10.6, 4.4), 4) if len(picture.sections) > 1 else ((6.0, 6.4), 2)
    figure = Figure(figsize=(width, height + 0.2 * (len(texts) // columns)), layout="constrained")
    figure.suptitle(title, fontsize=11, parse_math=False)
    panels = np.ravel(figure.subplots(1, len(picture.sections)))
    for axes, (name, (scan, truth, guess), aspect) in zip(panels, picture.sections, strict=True):
        axes.imshow(scan, cmap="gray", vmin=0, vmax=255, origin="lower", aspect=aspect)
        for value, color in colors.items():
            _outline(axes, truth == value, color, REFERENCE, 1.6)
            _outline(axes, guess == value, color, PREDICTION, 1.4)
        axes.invert_xaxis()
        axes.set_title(name, fontsize=9)
        axes.set_axis_off()
    _legend(figure, [(colors[value], text) for value, text in texts.items()], columns)
    return figure


def _window(image: np.ndarray) -> tuple[float, float]:
    """Grey values from black to white: all but the outermost hundredths, by some millions of its voxels."""
    sample = image[tuple(slice(None, None, max(1, length // 100)) for length in image.shape)]
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 0.0)
    return float(low), float(max(high, low + 1e-6))


def _grey(plane: np.ndarray, low: float, high: float) -> np.ndarray:
    """The image as bytes; what is no number is black."""
    scaled = (plane.astype(np.float32) - low) / (high - low)
    return np.asarray(np.rint(255 * np.nan_to_num(scaled, nan=0.0).clip(0, 1)), np.uint8)


def _sections(
    image: np.ndarray, reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]
) -> Iterator[Section]:
    """Views of the three arrays, for each plane."""
    arrays = (image, reference, prediction)
    if image.ndim == 2:
        yield _thinned("", arrays, spacing[1], spacing[0])
        return
    labelled = reference > 0 if reference.any() else prediction > 0
    for axis, name in enumerate(PLANES):
        column, row = (other for other in range(3) if other != axis)
        counts = labelled.sum(axis=(column, row))
        index = int(np.argmax(counts)) if counts.any() else len(counts) // 2
        planes = [np.take(array, index, axis) for array in arrays]
        yield _thinned(f"{name}, slice {index}", planes, spacing[row], spacing[column])


def _thinned(name: str, planes: Sequence[np.ndarray], row_spacing: float, column_spacing: float) -> Section:
    """(columns, rows) planes as a section, of sides that are too long every second, third, … pixel."""
    columns, rows = (-(-length // LONGEST_SIDE) for length in planes[0].shape)
    image, reference, prediction = (plane[::columns, ::rows].T for plane in planes)
    return name, (image, reference, prediction), row_spacing * rows / (column_spacing * columns)


def _outline(axes: Axes, mask: np.ndarray, color: Any, style: Any, width: float) -> None:
    """The border of a mask along the edges of its voxels, which a label of a single voxel has too."""
    if not mask.any():
        return
    rows, columns = mask.shape
    fine = np.pad(mask, 1).repeat(4, 0).repeat(4, 1).astype(float)
    x, y = ((np.arange(4 * (length + 2)) + 0.5) / 4 - 1.5 for length in (columns, rows))
    axes.contour(x, y, fine, [0.5], colors=[color], linestyles=[style], linewidths=width)


def _legend_texts(dice: Mapping[int, float], known: Mapping[int, LabelClass]) -> dict[int, str]:
    """What the legend says of each label that it names."""
    worst = sorted(dice, key=lambda value: (isnan(dice[value]), dice[value]))[:MOST_NAMED]
    return {
        value: f"{known[value].name if value in known else f'label {value}'}, "
        f"Dice {'- (absent)' if isnan(dice[value]) else f'{dice[value]:.3f}'}"
        for value in sorted(worst)
    }


def _legend(figure: Figure, labels: Sequence[tuple[Any, str]], columns: int) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Patch(color=color, label=text) for color, text in labels]
    for style, text in ((REFERENCE, "dashed: reference"), (PREDICTION, "solid: prediction")):
        handles.append(Line2D([], [], color="0.3", linestyle=style, linewidth=1.6, label=text))
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    for name in legend.get_texts():
        name.set_parse_math(False)


def _color(label: LabelClass | None, order: int) -> Any:
    return tuple(part / 255 for part in label.color) if label else f"C{order % 10}"


def _dice(reference: np.ndarray, prediction: np.ndarray, labels: Sequence[int]) -> dict[int, float]:
    """2 |A and B| / (|A| + |B|) of these labels and those that are found; NaN where both are empty.

    All labels are counted at once, slice by slice: one comparison of the volumes a label would take long for hundreds.
    """
    most = 1 + max(int(reference.max(initial=0)), int(prediction.max(initial=0)), *labels, 0)
    truth, guess, both = np.zeros((3, most), np.int64)
    for slices in zip(reference, prediction, strict=True):
        one, other = (values.astype(np.intp).clip(min=0) for values in slices)
        for counts, values in ((truth, one.ravel()), (guess, other.ravel()), (both, one[one == other])):
            counts += np.bincount(values, minlength=most)
    total = truth + guess
    found = {*labels, *np.flatnonzero(total).tolist()} - {0}
    return {value: float(2 * both[value] / total[value]) if total[value] else float("nan") for value in sorted(found)}
