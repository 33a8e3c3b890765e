"""NIfTI-1 and 2, plain or gzipped, read so that the header's claims are checked before they are believed.

The header is nibabel's; the bytes are read here, because a header that lies (sizes of a terabyte, a file cut short,
data after the end) must be refused before memory is allocated.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from ..errors import GeometryError, StudyError
from ..volume import Notice, Volume
from .geometry import SHEAR_DEGREES, check_affine, plane_name, shear_degrees, voxel_spacing
from .study import MAX_VOXELS, Series
from .volume_file import check_finite, check_shape, file_case, is_gzip, rounding

_MM = {"mm": 1.0, "meter": 1000.0, "micron": 0.001, "unknown": 1.0}
_DEFLATE_RATIO = 1032
"""The most that one compressed byte can hold, so that a small file can not claim a large volume."""
MAPPED_BYTES = 2**29
"""A plain file of as many bytes of voxels is not read into memory, but mapped."""
_EXCESS = 2**20
"""Bytes after the voxels that are tolerated."""
_BROKEN = (OSError, EOFError, ValueError, OverflowError, zlib.error)


def is_nifti(start: bytes) -> bool:
    """Whether a file's first 540 bytes (inflated) are the header of a single-file NIfTI."""
    return start[344:348] == b"n+1\0" or start[4:8] == b"n+2\0"


def describe_nifti(path: Path) -> Series:
    """The series that a NIfTI file holds, with its verdict; no voxel is read."""
    case = file_case(path)
    try:
        header = _header(path, case)
        shape = check_shape(header.get_data_shape(), case)
        affine, notices = _affine(header, shape, case)
        _check_size(path, header, case)
    except StudyError as reason:
        return Series(case=case, kind="nifti", files=(path,), refused=reason)
    return Series(
        case=case,
        kind="nifti",
        files=(path,),
        shape=shape,
        spacing=voxel_spacing(affine),
        plane=plane_name(affine),
        affine=affine,
        notices=tuple(notices),
    )


def read_nifti(series: Series) -> Volume:
    """The volume of a NIfTI file that `find_series` did not refuse.

    Returns:
        array (1, X, Y, Z) float32, scl_slope and scl_inter applied; a large plain file with neither is mapped, in its
        own type. The affine in RAS mm: the sform where it is coded, else the qform.
    Raises:
        StudyError: the file is cut short or longer than its header says, or holds NaN or infinity.
    """
    assert series.shape is not None and series.affine is not None
    path = series.files[0]
    header = _header(path, series.case)
    array, notices = _mapped(path, header, series) if _is_mappable(path, header) else _loaded(path, header, series)
    check_finite(array, series.case)
    return Volume(
        array=array[np.newaxis],
        affine=series.affine.copy(),
        case=series.case,
        notices=(*series.notices, *notices),
    )


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb") if is_gzip(path) else path.open("rb"))


def _header(path: Path, case: str) -> Any:
    """The nibabel header, NIfTI-1 or 2, of either byte order; extensions are not read."""
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header
    from nibabel.spatialimages import HeaderDataError

    try:
        with _open(path) as file:
            start = file.read(540)
        kind, length = (Nifti2Header, 540) if start[4:8] == b"n+2\0" else (Nifti1Header, 348)
        header = kind(start[:length], check=False)
        header.get_data_dtype()
        header.get_data_shape()
        return header
    except (*_BROKEN, HeaderDataError, KeyError) as error:
        raise StudyError(
            f"case {case}: the NIfTI header can not be read ({type(error).__name__}). Copy or convert the file again.",
            "unreadable",
        ) from None


def _affine(header: Any, shape: tuple[int, int, int], case: str) -> tuple[np.ndarray, list[Notice]]:
    """Voxel index -> RAS mm, and what to tell of it.

    Raises:
        GeometryError: it is singular or not finite, or its unit is no length.
    """
    from nibabel.spatialimages import HeaderDataError

    sform, qform = header.get_sform(coded=True)[0], None
    try:
        qform = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        if sform is None:
            raise GeometryError(
                f"case {case}: the qform holds no rotation. Write its orientation again.", "bad-affine"
            ) from None
    notices = []
    affine = next((form for form in (sform, qform) if form is not None), None)
    if affine is None:
        affine = header.get_base_affine()
        text = f"case {case}: neither sform nor qform is coded; left and right are a guess (x falls to the right)."
        notices.append(Notice("no-orientation", text))
    check_affine(affine, case)
    if sform is not None and qform is not None:
        distance, edge = _disagreement(sform, qform, shape), min(voxel_spacing(sform))
        if not distance <= 0.1 * edge:
            text = f"case {case}: sform and qform disagree by up to {distance:.2f} mm; the sform is taken."
            notices.append(Notice("sform-qform", text))
    if shear_degrees(affine) > SHEAR_DEGREES:
        text = (
            f"case {case}: the axes lean by {shear_degrees(affine):.1f} degrees (gantry tilt); the affine carries it."
        )
        notices.append(Notice("sheared-slices", text))
    return _in_mm(affine, header, notices, case), notices


def _in_mm(affine: np.ndarray, header: Any, notices: list[Notice], case: str) -> np.ndarray:
    """The affine with its lengths in mm, and a notice where they were not."""
    try:
        unit = header.get_xyzt_units()[0]
        scale = _MM[unit]
    except KeyError:
        raise GeometryError(f"case {case}: xyzt_units names no length. Write the header again.", "bad-units") from None
    if scale == 1.0:
        return affine
    notices.append(Notice("units", f"case {case}: lengths are in {unit}s, converted to mm."))
    return np.diag([scale, scale, scale, 1.0]) @ affine


def _disagreement(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """The largest distance between the places that two affines give a corner of the volume."""
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])], float)
    return float(np.max(np.linalg.norm((corners @ (one - other).T)[:, :3], axis=1)))


def _check_size(path: Path, header: Any, case: str) -> None:
    """Refuses voxels that are no single numbers, more than fit, or more than the file can hold."""
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise StudyError(f"case {case}: voxels of type {dtype}, not single real numbers. Convert it.", "not-scalar")
    voxels = int(np.prod([int(n) for n in header.get_data_shape()], dtype=object))
    size = path.stat().st_size * (_DEFLATE_RATIO if is_gzip(path) else 1)
    if voxels > MAX_VOXELS:
        raise StudyError(
            f"case {case}: {voxels:,} voxels claimed, at most {MAX_VOXELS:,} are read. Crop it.", "too-large"
        )
    if size < _offset(header) + voxels * dtype.itemsize:
        raise StudyError(
            f"case {case}: the header claims {voxels * dtype.itemsize:,} bytes of voxels, the file is too short for "
            "them. Copy the file again.",
            "truncated",
        )


def _offset(header: Any) -> int:
    """Where the voxels start; at least behind the header."""
    offset = float(header["vox_offset"])
    least = 544 if header.sizeof_hdr == 540 else 352
    return max(int(offset), least) if np.isfinite(offset) else least


def _voxels(path: Path, header: Any, case: str) -> np.ndarray:
    """All stored voxels in file order, 1D, of the header's type."""
    dtype = header.get_data_dtype()
    stored = np.empty(int(np.prod(header.get_data_shape())), dtype)
    view = memoryview(stored.view(np.uint8).data)
    try:
        with _open(path) as file:
            file.seek(_offset(header))
            filled = 0
            while filled < len(view) and (count := file.readinto(view[filled:])):  # type: ignore[attr-defined]
                filled += count
            excess = len(file.read(_EXCESS + 1))
    except _BROKEN as error:
        raise StudyError(
            f"case {case}: the voxels can not be read ({type(error).__name__}: the file is cut short or damaged). "
            "Copy the file again.",
            "truncated",
        ) from None
    if filled < len(view):
        raise StudyError(f"case {case}: {filled:,} of {len(view):,} bytes of voxels. Copy the file again.", "truncated")
    if excess > _EXCESS:
        raise _too_long(case)
    return stored


def _is_mappable(path: Path, header: Any) -> bool:
    """Whether the file is a large one whose voxels are stored as they are."""
    size = int(np.prod(header.get_data_shape())) * header.get_data_dtype().itemsize
    return size >= MAPPED_BYTES and not is_gzip(path) and _is_unscaled(header)


def _is_unscaled(header: Any) -> bool:
    slope, inter = header.get_slope_inter()
    return slope is None or (slope, inter) == (1.0, 0.0)


def _mapped(path: Path, header: Any, series: Series) -> tuple[np.ndarray, tuple[Notice, ...]]:
    """(X, Y, Z) in the file, which is as long as its header says."""
    offset, dtype = _offset(header), header.get_data_dtype()
    excess = path.stat().st_size - offset - int(np.prod(header.get_data_shape())) * dtype.itemsize
    if excess > _EXCESS:
        raise _too_long(series.case)
    array = np.memmap(path, dtype, "r", offset, series.shape, order="F")
    return array, rounding(array, series.case)


def _loaded(path: Path, header: Any, series: Series) -> tuple[np.ndarray, tuple[Notice, ...]]:
    assert series.shape is not None
    stored = _voxels(path, header, series.case).reshape(series.shape, order="F")
    return _scaled(stored, header, series.case)


def _too_long(case: str) -> StudyError:
    return StudyError(f"case {case}: the file goes on after the voxels that its header claims.", "excess-data")


def _scaled(stored: np.ndarray, header: Any, case: str) -> tuple[np.ndarray, tuple[Notice, ...]]:
    """(X, Y, Z) float32 with the header's scale applied; a notice where large integers lose digits."""
    if not _is_unscaled(header):
        slope, inter = header.get_slope_inter()
        array = np.empty(stored.shape, np.float32)
        for k in range(stored.shape[2]):
            array[:, :, k] = stored[:, :, k] * np.float64(slope) + np.float64(inter)
        return array, ()
    return np.ascontiguousarray(stored, dtype=np.float32), rounding(stored, case)
