"""What is wrong with the voxels of one labelled image: pure functions from arrays to lines that say how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ..volume import Volume

GRID_TOLERANCE = 0.01
"""Of the shortest edge of a voxel: how far apart the corners of one grid may lie, for affines are rounded in files."""
EXAMPLES = 8
"""Values that a line names."""


@dataclass(frozen=True)
class LabelCounts:
    """The values of a label map.

    Attributes:
        voxels: whole number -> how many voxels hold it.
        others: values that are no whole numbers, some of them.
    """

    voxels: Mapping[int, int]
    others: Sequence[float] = ()


def grid_fault(image: Volume, label: Volume) -> str | None:
    """Why the label does not lie on the image's grid; None where it does."""
    if image.spatial_shape != label.spatial_shape:
        sizes = [" x ".join(map(str, volume.spatial_shape)) for volume in (label, image)]
        return f"{sizes[0]} voxels, its image has {sizes[1]}. Resample the label onto the image's grid."
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in image.spatial_shape))])
    apart = np.linalg.norm(corners @ (image.affine - label.affine).T, axis=1).max()
    if apart <= GRID_TOLERANCE * min(image.spacing):
        return None
    return (
        f"lies up to {apart:.3g} mm off its image (their affines differ). Resample it onto the image's grid, or, if "
        "its voxels belong to the image's, give it the image's affine."
    )


def image_faults(array: np.ndarray, *, slices: bool = False) -> list[str]:
    """What is wrong with the values of an image (C, X, Y, Z); where `slices`, one of a single slice is whole."""
    if min(array.shape[1:3] if slices else array.shape[1:]) < 2:
        size = " x ".join(map(str, array.shape[1:]))
        return [f"{size} voxels: a single slice, not a volume. Leave the case out."]
    lowest, highest, nan, infinite = np.inf, -np.inf, 0, 0
    for plane in _planes(array):
        if array.dtype.kind == "f" and not np.isfinite(plane).all():
            nan += int(np.count_nonzero(np.isnan(plane)))
            infinite += int(np.count_nonzero(np.isinf(plane)))
            plane = plane[np.isfinite(plane)]
        if plane.size:
            lowest, highest = min(lowest, plane.min()), max(highest, plane.max())
    faults = []
    if nan or infinite:
        faults.append(
            f"{nan:,} NaN and {infinite:,} infinite of {array.size:,} voxels. Replace them by what was measured around "
            "them, or by the lowest value."
        )
    if lowest == highest:
        faults.append(f"every voxel is {lowest:g}: an image of nothing. Export it again, or leave the case out.")
    return faults


def count_labels(array: np.ndarray) -> LabelCounts:
    """How many voxels hold each value of a label map."""
    whole: dict[int, int] = {}
    others: set[float] = set()
    for plane in _planes(array):
        if array.dtype.kind == "f":
            is_whole = np.isfinite(plane) & (plane == np.rint(plane)) & (np.abs(plane) < 2**53)
            if not is_whole.all():
                others.update(map(float, np.unique(plane[~is_whole])[: EXAMPLES + 1]))
                plane = plane[is_whole]
        for value, count in _counted(plane):
            whole[value] = whole.get(value, 0) + count
    return LabelCounts(dict(sorted(whole.items())), sorted(others, key=str))


def label_faults(counts: LabelCounts, known: Mapping[int, str] | None) -> list[str]:
    """What is wrong with the values of a label map.

    Args:
        counts: of its values.
        known: value -> name of all labels that there are, the background too; None where any number will do.
    """
    faults = []
    wrong = [*counts.others, *(value for value in counts.voxels if value < 0)]
    if wrong:
        faults.append(f"holds {_listed(wrong)}: labels are whole numbers from 0. Write the label map anew with such.")
    strange = [value for value in counts.voxels if value >= 0 and known is not None and value not in known]
    if strange and known is not None:
        names = ", ".join(f"{value} {name}" for value, name in sorted(known.items())[:EXAMPLES])
        more = f" and {len(known) - EXAMPLES} more" if len(known) > EXAMPLES else ""
        faults.append(
            f"holds {_listed(strange)}: the labels are {names}{more}. Map it to these, or use another bundle."
        )
    return faults


def _planes(array: np.ndarray) -> Sequence[np.ndarray]:
    """One after the other along the last axis: a mapped array may be larger than memory."""
    return np.moveaxis(array, -1, 0)  # type: ignore[return-value]


def _counted(plane: np.ndarray) -> list[tuple[int, int]]:
    """Each whole number in the array and how often; by counting where the numbers lie close, which labels do."""
    if not plane.size:
        return []
    lowest, highest = int(plane.min()), int(plane.max())
    if highest - lowest < 2**16:
        counts = np.bincount(plane.ravel().astype(np.int64) - lowest)
        return [(int(value) + lowest, int(counts[value])) for value in np.flatnonzero(counts)]
    return [(int(value), int(count)) for value, count in zip(*np.unique(plane, return_counts=True), strict=True)]


def _listed(values: Sequence[float]) -> str:
    """ "0.999, 1.5 and -1"; the first few."""
    texts = [_written(value) for value in values[:EXAMPLES]]
    if len(values) > EXAMPLES:
        return f"{', '.join(texts)} and other values"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _written(value: float) -> str:
    """In short, but what is only nearly whole does not look so."""
    short = f"{value:.6g}"
    return short if isinstance(value, int) or "." in short else repr(value)
