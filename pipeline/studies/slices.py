"""From the places of parallel slices to the regular grid that they are read to.

A stack whose slices lie at equal steps keeps its grid; a gantry tilt or a drift sideways stays in it as shear. Where
slices are missing or unevenly spaced, the grid is a regular one through the first and the last of them, and slices that
do not lie on it are interpolated between their true neighbours. Places are LPS mm; nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import GeometryError
from ..volume import Notice
from .geometry import POSITION_TOLERANCE, POSITION_TOLERANCE_MM, lateral_shift_mm, plane_affine, slice_normal

GAP = 1.5
"""A step of more than this many usual steps counts as missing slices, less as uneven spacing."""
FINEST = 4
"""An uneven stack becomes at most this many times as many slices."""
LARGEST_SHIFT = 0.05
"""Of the image's smaller side: a slice that lies further sideways is refused."""
MOST = 64
"""A stack whose gaps would make it more than this many times as many slices is refused."""
SHOWN = 4
"""Gaps that a message names."""


@dataclass(frozen=True)
class SliceGrid:
    """A regular grid, and where the slices lie in it.

    Attributes:
        affine: (4, 4), (column, row, slice) index -> LPS mm.
        size: slices of the grid.
        z: of each source slice the place along the grid's third axis, in voxels, ascending; whole numbers 0, 1, 2, …
            where nothing is resampled.
        shifts: of each source slice how far it lies sideways of the grid, in columns and rows; empty where none does.
        notices: what was corrected.
    """

    affine: np.ndarray
    size: int
    z: tuple[float, ...]
    shifts: tuple[tuple[float, float], ...] = ()
    notices: tuple[Notice, ...] = ()


def grid_slices(
    orientation: np.ndarray, pixel_spacing: np.ndarray, positions: np.ndarray, size_pixels: int, name: str
) -> SliceGrid:
    """The grid of a stack of at least two slices.

    Args:
        orientation: (6,), ImageOrientationPatient (0020,0037).
        pixel_spacing: (2,), PixelSpacing (0028,0030) in mm: between rows, then between columns.
        positions: (N, 3), ImagePositionPatient (0020,0032) in LPS mm, N at least 2, ascending along `slice_normal`.
        size_pixels: the smaller of Rows and Columns.
        name: the case, for messages.
    Raises:
        GeometryError: slices share a place, do not lie near one line, or leave out more than can be interpolated.
    Source: DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
    """
    normal = slice_normal(orientation, name)
    distances = positions @ normal
    steps = np.diff(distances)
    usual = float(np.median(steps))
    _check_apart(distances, steps, usual, name)
    start, direction, off = _line(positions, distances, max(float(min(pixel_spacing)), usual))
    shifts, moved = _shifts(off, orientation, pixel_spacing, size_pixels, name)
    if is_regular(distances):
        size, z = len(positions), tuple(float(index) for index in range(len(positions)))
        told: tuple[Notice, ...] = ()
    else:
        size, z = _regular(distances, steps, usual)
        _check_filled(size, steps, usual, name)
        told = _uneven(steps, usual, size, z, name)
    step = direction * ((distances[-1] - distances[0]) / (size - 1))
    affine = plane_affine(orientation, pixel_spacing, start, step)
    return SliceGrid(affine, size, z, shifts, (*told, *moved, *_sheared(affine, pixel_spacing, size, name)))


def repeated(distances: np.ndarray) -> np.ndarray:
    """(N - 1,), whether each slice but the last shares its place with the next.

    Args:
        distances: (N,), mm along the normal, ascending.
    """
    steps = np.diff(distances)
    apart = steps[steps > 1e-3]
    return np.asarray(steps <= max(1e-3, 0.01 * float(np.median(apart)) if len(apart) else 0.0))


def is_regular(distances: np.ndarray) -> bool:
    """Whether slices lie at equal steps, but for rounding.

    Args:
        distances: (N,), mm along the normal, ascending, N at least 2.
    """
    steps = np.diff(distances)
    usual = float(np.median(steps))
    uniform = np.linspace(distances[0], distances[-1], len(distances))
    tolerance = max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * usual)
    return bool(np.max(np.abs(distances - uniform)) <= tolerance and np.max(steps) <= GAP * usual)


def _check_apart(distances: np.ndarray, steps: np.ndarray, usual: float, name: str) -> None:
    close = np.flatnonzero(repeated(distances))
    if len(close):
        raise GeometryError(
            f"series {name}: slices {close[0]} and {close[0] + 1} lie at the same place ({distances[close[0]]:.2f} mm "
            f"along the normal), {len(close)} such pairs in all, and nothing tells complete volumes apart. "
            "Export one image for each place.",
            "repeated-position",
        )


def _line(positions: np.ndarray, distances: np.ndarray, mm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The line that the slices' first voxels lie on: its start, its way by a mm along the normal, and what is off it.

    The line through the first and the last where all lie on it; else the one that most lie on (medians).

    Returns:
        (3,), (3,), and (N, 3): how far each slice lies from the line, 0 where that is no more than rounding.
    """
    along = distances - distances[0]
    for start, direction in (
        (positions[0], (positions[-1] - positions[0]) / along[-1]),
        _median_line(positions, along),
    ):
        off = positions - start - along[:, None] * direction
        on = np.linalg.norm(off, axis=1) <= max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * mm)
        if on.all():
            break
    off[on] = 0
    return start, direction, off


def _median_line(positions: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    direction = np.median(np.diff(positions, axis=0) / np.diff(along)[:, None], axis=0)
    return np.median(positions - along[:, None] * direction, axis=0), direction


def _shifts(
    off: np.ndarray, orientation: np.ndarray, pixel_spacing: np.ndarray, size_pixels: int, name: str
) -> tuple[tuple[tuple[float, float], ...], tuple[Notice, ...]]:
    """Columns and rows that each slice lies sideways of the line, and what to tell of it.

    Raises:
        GeometryError: half of the slices are off, or one by so much that it is misplaced rather than moved.
    """
    distances = np.linalg.norm(off, axis=1)
    moved = np.flatnonzero(distances)
    if not len(moved):
        return (), ()
    worst = int(np.argmax(distances))
    if 2 * len(moved) >= len(off) or distances[worst] > LARGEST_SHIFT * size_pixels * float(min(pixel_spacing)):
        raise GeometryError(
            f"series {name}: slice {worst} of {len(off)} lies {distances[worst]:.2f} mm off the line through the "
            "others. Export the series again.",
            "shifted-slice",
        )
    shown = _shown([f"slice {index} by {distances[index]:.2f} mm" for index in moved])
    text = f"series {name}: {shown} sideways of the line through the others; moved to it by interpolation."
    axes = np.stack([orientation[:3] / pixel_spacing[1], orientation[3:] / pixel_spacing[0]])
    return tuple((float(u), float(v)) for u, v in off @ axes.T), (Notice("shifted-slice", text),)


def _regular(distances: np.ndarray, steps: np.ndarray, usual: float) -> tuple[int, tuple[float, ...]]:
    """The size of a regular grid from the first slice to the last, and the slices' places in it.

    The usual step where most slices then lie on the grid and none is skipped, so that only gaps are interpolated; else
    the shortest step, as far as FINEST allows, so that no slice's detail is lost.
    """
    extent = float(distances[-1] - distances[0])
    intervals = max(1, round(extent / usual))
    z = _places(distances, intervals)
    if np.mean(z == np.rint(z)) < 0.5 or np.min(np.diff(z)) < 0.5:
        finest = FINEST * (len(distances) - 1)
        intervals = min(finest, max(1, int(np.ceil(extent / float(np.min(steps)) - POSITION_TOLERANCE))))
        z = _places(distances, intervals)
    return intervals + 1, tuple(float(place) for place in z)


def _check_filled(size: int, steps: np.ndarray, usual: float, name: str) -> None:
    if size > MOST * (len(steps) + 1):
        worst = int(np.argmax(steps))
        raise GeometryError(
            f"series {name}: gap of {steps[worst]:.2f} mm after slice {worst} of {len(steps) + 1}, expected "
            f"{usual:.2f} mm: too much to interpolate. Separate the slices, or export the series again.",
            "missing-slice",
        )


def _places(distances: np.ndarray, intervals: int) -> np.ndarray:
    """Places along the axis in voxels, whole where they are as good as whole and no slice lies there already."""
    z = (distances - distances[0]) * (intervals / (distances[-1] - distances[0]))
    whole = np.where(np.abs(z - np.rint(z)) <= POSITION_TOLERANCE, np.rint(z), z)
    return np.where(np.diff(whole, prepend=-1.0) > 0, whole, z)


def _uneven(steps: np.ndarray, usual: float, size: int, z: tuple[float, ...], name: str) -> tuple[Notice, ...]:
    """What to tell of missing slices and of uneven ones, with their index and millimetres."""
    tolerance = max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE * usual)
    made = size - sum(place == round(place) for place in z)
    end = f"; {made} of {size} slices are interpolated between true neighbours."
    gaps = np.flatnonzero(steps > GAP * usual)
    others = np.flatnonzero((np.abs(steps - usual) > tolerance) & (steps <= GAP * usual))
    notices = []
    if len(gaps):
        text = f"series {name}: {_listed('gap', steps, gaps)}, expected {usual:.2f} mm (slices are missing){end}"
        notices.append(Notice("missing-slice", text))
    if len(others) or not len(gaps):
        shown = others if len(others) else np.argsort(-np.abs(steps - usual))[:1]
        text = f"series {name}: uneven slices, {_listed('step', steps, shown)}, usually {usual:.2f} mm{end}"
        notices.append(Notice("uneven-slices", text))
    return tuple(notices)


def _listed(what: str, steps: np.ndarray, which: np.ndarray) -> str:
    return _shown([f"{what} of {steps[index]:.2f} mm after slice {index} of {len(steps) + 1}" for index in which])


def _shown(texts: Sequence[str]) -> str:
    """The first of the texts, and how many more there are."""
    return ", ".join(texts[:SHOWN]) + (f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def _sheared(affine: np.ndarray, pixel_spacing: np.ndarray, size: int, name: str) -> tuple[Notice, ...]:
    """A notice where the stack leans by more than a tenth of a pixel over all its slices."""
    shift = lateral_shift_mm(affine)
    if shift * (size - 1) <= 0.1 * float(np.min(pixel_spacing)):
        return ()
    text = f"series {name}: each slice lies {shift:.3f} mm sideways of the last (gantry tilt); the affine carries it."
    return (Notice("sheared-slices", text),)
