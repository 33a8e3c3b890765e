"""NIfTI-1 and 2, plain or gzipped: the voxels of a header that was checked, in their own type and memory order."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..limits import MAX_VOXELS
from ..volume import Volume
from .file_series import describe_file, header_again
from .nifti_header import NiftiHeader, is_nifti, read_header
from .study import Series
from .volume_file import allocate, file_case, value_notices
from .voxel_data import read_voxels

__all__ = ["describe_nifti", "is_nifti", "read_nifti"]

_DISTINCT = 2**23
"""Steps from zero within which float32 keeps evenly spaced values apart."""


def describe_nifti(path: Path, max_voxels: int = MAX_VOXELS, case: str | None = None) -> Series:
    """The series that a NIfTI file holds, with its verdict; no voxel is read.

    Args:
        path: the file.
        max_voxels: more are refused.
        case: its name; the file's stem where None.
    """
    return describe_file(path, "nifti", file_case(path) if case is None else case, max_voxels, read_header)


def read_nifti(series: Series) -> Volume:
    """The volume of a NIfTI file that `find_series` did not refuse.

    Returns:
        array (1, X, Y, Z) in the file's own type and order of memory, mapped where it is large and plain; scaled values
        (scl_slope, scl_inter) as float32, or float64 where float32 would merge some. The affine in RAS mm.
    Raises:
        StudyError: the file is cut short, damaged, or much longer than its header says.
    """
    assert series.affine is not None
    case, header = series.case, header_again(series, read_header)
    stored, notices = read_voxels(header.stored, case)
    array = _scaled(stored, header, case)
    return Volume(
        array=array[np.newaxis],
        affine=series.affine.copy(),
        case=case,
        notices=(*series.notices, *notices, *value_notices(array, case)),
    )


def _scaled(stored: np.ndarray, header: NiftiHeader, case: str) -> np.ndarray:
    """The values that the stored ones stand for."""
    if header.slope is None:
        return stored
    values = allocate(stored.size, _scaled_type(stored, header.slope, header.inter), case)
    values = values.reshape(stored.shape, order="F")
    with np.errstate(over="ignore"):  # what overflows is infinite, and told
        for k in range(stored.shape[2]):
            values[:, :, k] = stored[:, :, k] * np.float64(header.slope) + np.float64(header.inter)
    return values


def _scaled_type(stored: np.ndarray, slope: float, inter: float) -> np.dtype[np.floating]:
    """float32 where it tells all values apart that the stored integers stand for, else float64."""
    if stored.dtype.kind == "f":
        return np.dtype(np.float64)
    ends = np.array([stored.min(), stored.max()], np.float64) * slope + inter
    return np.dtype(np.float32 if np.max(np.abs(ends)) <= _DISTINCT * abs(slope) else np.float64)
