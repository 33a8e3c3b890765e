"""NRRD and MetaImage (MHA, MHD) through ITK, whose millimetres are LPS."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StudyError
from ..volume import Notice, Volume
from .geometry import check_affine, lps_to_ras, plane_name, voxel_spacing
from .study import MAX_VOXELS, Series
from .volume_file import check_shape, check_voxels, file_case, value_notices

_ORIENTED = (b"transformmatrix", b"orientation", b"rotation", b"space:", b"space dimension")
"""Header fields without which ITK takes the axes as they lie for left, posterior, superior."""


def is_itk(start: bytes, path: Path) -> bool:
    """Whether a file begins like an NRRD or, named as one, like a MetaImage."""
    named = path.name.lower().endswith((".mha", ".mhd"))
    return start.startswith(b"NRRD000") or (named and b"=" in start[:256])


def describe_itk(path: Path, max_voxels: int = MAX_VOXELS, case: str | None = None) -> Series:
    """The series that an NRRD or MetaImage file holds, with its verdict; no voxel is read."""
    case = file_case(path) if case is None else case
    try:
        header = _header(path, case)
        sizes = [header.GetDimensions(axis) for axis in range(header.GetNumberOfDimensions())]
        shape = check_shape(sizes, case)
        _check_voxels(path, header, shape, max_voxels, case)
        affine = _affine(header)
        check_affine(affine, case)
    except StudyError as reason:
        return Series(case=case, kind="itk", files=(path,), refused=reason)
    return Series(
        case=case,
        kind="itk",
        files=(path,),
        shape=shape,
        spacing=voxel_spacing(affine),
        plane=plane_name(affine),
        affine=affine,
        notices=_notices(path, case),
    )


def read_itk(series: Series) -> Volume:
    """The volume of an NRRD or MetaImage file that `find_series` did not refuse.

    Returns:
        array (1, X, Y, Z) float32; the affine in RAS mm.
    Raises:
        StudyError: ITK can not read the voxels, or they hold NaN or infinity.
    """
    assert series.shape is not None and series.affine is not None
    with _itk() as itk:
        try:
            stored = itk.array_from_image(itk.imread(str(series.files[0])))
        except RuntimeError:
            raise _unreadable(series.case) from None
    if stored.size != np.prod(series.shape):
        raise _unreadable(series.case)
    array = np.ascontiguousarray(stored.reshape(series.shape[::-1]).transpose(2, 1, 0), dtype=np.float32)
    return Volume(
        array=array[np.newaxis],
        affine=series.affine.copy(),
        case=series.case,
        notices=(*series.notices, *value_notices(array, series.case)),
    )


@contextmanager
def _itk() -> Iterator[Any]:
    """ITK, without its wrapping's warnings: where warnings are errors, importing a part of it would crash Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import itk

        yield itk


def _header(path: Path, case: str) -> Any:
    """ITK's ImageIO after it read the header."""
    with _itk() as itk:
        try:
            header = itk.ImageIOFactory.CreateImageIO(str(path), itk.CommonEnums.IOFileMode_ReadMode)
            if header is None:
                raise _unreadable(case)
            header.SetFileName(str(path))
            header.ReadImageInformation()
            return header
        except RuntimeError:
            raise _unreadable(case) from None


def _check_voxels(path: Path, header: Any, shape: tuple[int, int, int], max_voxels: int, case: str) -> None:
    """Refuses vectors and complex numbers, and more voxels than fit or than an attached file can hold."""
    if header.GetNumberOfComponents() != 1:
        parts = header.GetNumberOfComponents()
        raise StudyError(f"case {case}: voxels of {parts} components, not single numbers. Convert it.", "not-scalar")
    voxels = check_voxels(shape, max_voxels, case)
    attached = path.name.lower().endswith((".nrrd", ".mha"))
    if attached and path.stat().st_size * 1032 < voxels * header.GetComponentSize():
        raise StudyError(f"case {case}: the file is too short for the {voxels:,} voxels it claims.", "truncated")


def _affine(header: Any) -> np.ndarray:
    """(4, 4), voxel index -> RAS mm."""
    affine = np.eye(4)
    for axis in range(3):
        affine[:3, axis] = np.array(header.GetDirection(axis)[:3]) * header.GetSpacing(axis)
        affine[axis, 3] = header.GetOrigin(axis)
    return lps_to_ras(affine)


def _notices(path: Path, case: str) -> tuple[Notice, ...]:
    with path.open("rb") as file:
        start = file.read(4096).lower()
    if any(field in start for field in _ORIENTED):
        return ()
    text = f"case {case}: the header tells no orientation; the axes are taken for left, posterior, superior."
    return (Notice("no-orientation", text),)


def _unreadable(case: str) -> StudyError:
    """In our own words: ITK's messages are many lines and hold paths."""
    return StudyError(f"case {case}: ITK can not read the file. Copy or convert it again.", "unreadable")
