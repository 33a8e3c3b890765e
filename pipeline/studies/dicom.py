"""A DICOM series as a `Volume`: each plane rescaled on its own and put where it lies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..volume import Notice, SourceSlice, Volume
from .dicom_header import Header
from .dicom_pixels import stored_planes
from .study import Series

_SMALL = np.iinfo(np.int16)


def read_dicom(
    series: Series, allocate: Callable[..., np.ndarray] = np.empty, tick: Callable[[], None] = lambda: None
) -> Volume:
    """The volume of a series that `find_series` did not refuse.

    Args:
        series: its planes, their places and the grid.
        allocate: makes the array from shape and type.
        tick: called once a plane.
    Returns:
        array (1, columns, rows, slices), RescaleSlope and RescaleIntercept applied plane by plane: int16 where every
        value fits, else floating point. Slices ascend along row x column; in memory a slice lies after the other.
    Raises:
        StudyError: a file is cut short, uses a transfer syntax without decoder, or is not what its header said.
    """
    assert series.affine is not None and series.uid is not None
    stack = _small(series, allocate, tick)
    if stack is None:
        stack = _filled(series, allocate, tick)
    padding, notices = _padding(stack, series)
    return Volume(
        array=stack.transpose(2, 1, 0)[np.newaxis],
        affine=series.affine.copy(),
        case=series.case,
        modality=series.modality,
        sources=tuple(
            SourceSlice(plane.path, plane.frame, z) for plane, z in zip(series.planes, series.z, strict=True)
        ),
        series_sha256=hashlib.sha256(series.uid.encode()).hexdigest(),
        padding=padding,
        notices=(*series.notices, *notices),
    )


def _rescale(plane: Header) -> tuple[float, float]:
    """RescaleSlope (0028,1053) and RescaleIntercept (0028,1052); 1 and 0 where absent."""
    return (1.0 if plane.slope is None else plane.slope), (0.0 if plane.intercept is None else plane.intercept)


def _may_be_small(planes: Sequence[Header]) -> bool:
    """Whether all rescaled values are whole, and may fit in 16 bits."""
    return all(value == round(value) and abs(value) < 2**15 for plane in planes for value in _rescale(plane))


def _small(series: Series, allocate: Callable[..., np.ndarray], tick: Callable[[], None]) -> np.ndarray | None:
    """(slices, rows, columns) int16, without a detour through another type; None where a value does not fit."""
    assert series.shape is not None
    columns, rows, size = series.shape
    if series.is_resampled or not _may_be_small(series.planes):
        return None
    stack = allocate((size, rows, columns), np.int16)
    for target, plane, stored in zip(stack, series.planes, stored_planes(series.planes, series.case), strict=True):
        tick()
        slope, intercept = (int(value) for value in _rescale(plane))
        ends = [slope * int(end) + intercept for end in (stored.min(), stored.max())]
        if min(ends) < _SMALL.min or max(ends) > _SMALL.max:
            return None
        if slope == 1:
            np.add(stored, intercept, out=target, dtype=np.int16, casting="unsafe")
        else:
            np.add(stored * np.int64(slope), intercept, out=target, casting="unsafe")
    return stack


def _filled(series: Series, allocate: Callable[..., np.ndarray], tick: Callable[[], None]) -> np.ndarray:
    """(slices, rows, columns) floating point; grid slices without a plane are interpolated from neighbours."""
    assert series.shape is not None
    columns, rows, size = series.shape
    stack = allocate((size, rows, columns), np.float64 if series.planes[0].pixels.allocated > 16 else np.float32)
    below, z_below, done = None, 0.0, 0
    for z, plane in zip(series.z, _rescaled(series), strict=True):
        tick()
        while done < size and done <= z:
            share = 1.0 if below is None or z == z_below else (done - z_below) / (z - z_below)
            stack[done] = plane if share == 1.0 or below is None else (1 - share) * below + share * plane
            done += 1
        below, z_below = plane, z
    return stack


def _rescaled(series: Series) -> Iterator[np.ndarray]:
    """Each plane as an array of its own, moved sideways to the grid where it lies beside it."""
    shifts = series.shifts or ((0.0, 0.0),) * len(series.planes)
    stored_in_order = stored_planes(series.planes, series.case)
    for plane, shift, stored in zip(series.planes, shifts, stored_in_order, strict=True):
        slope, intercept = _rescale(plane)
        yield _moved(stored * np.float64(slope) + intercept, *shift)


def _moved(plane: np.ndarray, columns: float, rows: float) -> np.ndarray:
    """The plane on a grid that starts so far from its first pixel, interpolated; its border goes on beyond it."""
    if not columns and not rows:
        return plane
    from scipy.ndimage import shift

    moved: np.ndarray = shift(plane, (rows, columns), order=1, mode="nearest")
    return moved


def _padding(stack: np.ndarray, series: Series) -> tuple[float | None, list[Notice]]:
    """The value outside the scanned field, where the header names one that some voxel holds, and a notice of it."""
    first = series.planes[0]
    if first.padding is None or len({(plane.padding, *_rescale(plane)) for plane in series.planes}) > 1:
        return None, []
    stored = first.padding
    if first.pixels.signed and stored >= 2 ** (first.pixels.allocated - 1):
        stored -= 2**first.pixels.allocated
    slope, intercept = _rescale(first)
    value = slope * stored + intercept
    count = int(np.count_nonzero(stack == (int(value) if value == round(value) else value)))
    if not count:
        return None, []
    text = (
        f"series {series.case}: {count:,} voxels hold PixelPaddingValue ({value:g}), which is no measurement; "
        "a network sees the lowest measured value in their place."
    )
    return value, [Notice("padding", text)]
