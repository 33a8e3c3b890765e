"""The header of a NIfTI file, every claim of it checked before it is believed.

A header may claim a terabyte, a data type that is no number, or an offset before the file's start.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StudyError
from ..volume import Notice
from .nifti_affine import nifti_affine
from .volume_file import check_shape, check_voxels, is_gzip, open_volume, read_errors
from .voxel_data import StoredVoxels, check_size

_LENGTHS = (348, 540)
"""Bytes of the header of NIfTI-1 and 2."""
_SINGLE, _PAIR = (b"n+1\0", b"n+2\0"), (b"ni1\0", b"ni2\0")
"""The magic numbers where header and voxels share a file, and where they do not."""


@dataclass(frozen=True)
class NiftiHeader:
    """What a NIfTI header says of voxels that can be read.

    Attributes:
        stored: the voxels, integers or floats of at most 8 bytes.
        slope: of the scale, as in value = slope * stored + inter; None where the stored values are meant.
        inter: of the scale.
        affine: (4, 4), voxel index -> RAS mm.
        notices: what to know of the affine.
    """

    stored: StoredVoxels
    slope: float | None
    inter: float
    affine: np.ndarray
    notices: tuple[Notice, ...]


def is_nifti(start: bytes) -> bool:
    """Whether a file's first 540 bytes (inflated) are a NIfTI header, or one of its forerunner, Analyze 7.5.

    Of header files with their voxels in another file `read_header` says that they are not read.
    """
    return _magic(start) in (*_SINGLE, *_PAIR) or _is_analyze(start)


def read_header(path: Path, case: str, max_voxels: int) -> NiftiHeader:
    """The header of a NIfTI-1 or 2 file of either byte order; extensions are not read.

    Raises:
        GeometryError: it gives the voxels no place.
        StudyError: it is not readable, contradicts itself or the file's size, or its voxels are no single real numbers.
    """
    header = _parsed(path, case)
    shape = check_shape(header["dim"][1 : int(header["dim"][0]) + 1], case)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        kind = header.get_value_label("datatype")
        raise StudyError(f"case {case}: voxels of type {kind}, not single real numbers. Convert it.", "not-scalar")
    check_voxels(shape, max_voxels, case)
    affine, notices = nifti_affine(header, shape, case)
    slope, inter = _scale(header, case)
    stored = StoredVoxels(path, shape, dtype, "gzip" if is_gzip(path) else "raw", skip=_offset(header, case))
    check_size(stored, case)
    return NiftiHeader(stored, slope, inter, affine, notices)


def _magic(start: bytes) -> bytes:
    """The magic number, wherever its version has it."""
    return start[4:8] if start[4:8] in (b"n+2\0", b"ni2\0") else start[344:348]


def _is_analyze(start: bytes) -> bool:
    """Whether a file is as long as it says that Analyze's header is, in either byte order."""
    length = _LENGTHS[0]
    return len(start) == length and length in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))


def _parsed(path: Path, case: str) -> Any:
    """The nibabel header, once it is known to be one."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    try:
        with open_volume(path) as file:
            start = file.read(_LENGTHS[1])
        if _magic(start) not in _SINGLE:
            raise _two_files(start, case)
        kind, length = (Nifti2Header, _LENGTHS[1]) if start[4:8] in _SINGLE else (Nifti1Header, _LENGTHS[0])
        header = kind(start[:length], check=False)
        header.get_data_dtype()
    except (*read_errors(), HeaderDataError, WrapStructError, KeyError) as error:
        raise _unreadable(type(error).__name__, case) from None
    if int(header["sizeof_hdr"]) != length:
        raise _unreadable(f"sizeof_hdr {int(header['sizeof_hdr'])}", case)
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise _unreadable(f"{axes} axes", case)
    return header


def _two_files(start: bytes, case: str) -> StudyError:
    kind = "a NIfTI header" if _magic(start) in _PAIR else "an Analyze 7.5 header, which does not tell left from right,"
    code = "nifti-pair" if _magic(start) in _PAIR else "analyze"
    return StudyError(
        f"case {case}: {kind} with its voxels in another file (.hdr and .img), which is not read. "
        "Convert it to one .nii file.",
        code,
    )


def _scale(header: Any, case: str) -> tuple[float | None, float]:
    """Slope and intercept; (None, 0) where the stored values are meant: no slope (0 or NaN), or no effect.

    Source: nifti1.h, "data scaling".
    """
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or np.isnan(slope) or (slope, inter) == (1.0, 0.0):
        return None, 0.0
    if not np.isfinite(slope) or not np.isfinite(inter):
        raise StudyError(
            f"case {case}: values are scaled by scl_slope {slope:g} and scl_inter {inter:g}. Write the header again.",
            "bad-scale",
        )
    return slope, inter


def _offset(header: Any, case: str) -> int:
    """Where the voxels start: right behind the header where vox_offset is 0."""
    offset, length = float(header["vox_offset"]), int(header["sizeof_hdr"])
    if offset == 0:
        return length + 4
    if not np.isfinite(offset) or offset < length or offset != int(offset):
        raise StudyError(
            f"case {case}: vox_offset {offset:g} is no place behind the header. Write the header again.", "bad-offset"
        )
    return int(offset)


def _unreadable(reason: str, case: str) -> StudyError:
    return StudyError(
        f"case {case}: the NIfTI header can not be read ({reason}). Copy or convert the file again.", "unreadable"
    )
