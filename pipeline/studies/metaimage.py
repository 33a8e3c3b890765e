"""MetaImage headers (.mha with the voxels behind, .mhd with a data file beside it).

Source: github.com/Kitware/MetaIO, metaImage.cxx and metaObject.cxx; what ITK's MetaImageIO ignores (the centre of
rotation, AnatomicalOrientation) is ignored here, what it should not (units, scales) is not.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import GeometryError, StudyError
from ..volume import Notice
from .geometry import check_affine, lps_to_ras
from .raster_header import (
    RasterHeader,
    attached,
    checked,
    detached,
    header_bytes,
    in_mm,
    no_orientation,
    reals,
    unreadable,
    unsupported,
    untold,
    whole,
    wholes,
)
from .volume_file import check_shape, check_voxels
from .voxel_data import StoredVoxels

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_ORIGIN = ("Offset", "Position", "Origin")
_SPACING = ("ElementSpacing", "ElementSize")
_DATA = "ElementDataFile"


def read_metaimage(path: Path, case: str, max_voxels: int) -> RasterHeader:
    """The header of a MetaImage file.

    Raises:
        GeometryError: it gives the voxels no place.
        StudyError: it is not readable, is no 3D volume of single numbers, contradicts the file's size, or names a data
            file that is not in its folder.
    """
    fields, end = _fields(header_bytes(path, case), case)
    count = whole(fields.get("NDims", ""), case, "NDims")
    sizes = wholes(fields.get("DimSize", ""), case, "DimSize")
    if count != len(sizes):
        raise unreadable(case, f"it has {len(sizes)} sizes for {count} axes")
    shape = check_shape(sizes, case)
    check_voxels(shape, max_voxels, case)
    _check_values(fields, case)
    affine, notices = _affine(fields, count, case)
    return checked(RasterHeader(_stored(path, fields, end, shape, case), affine, notices), case)


def _fields(start: bytes, case: str) -> tuple[dict[str, str], int]:
    """The fields up to ElementDataFile, which is the last, and where the header ends."""
    last = re.search(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*=[^\n]*(?:\n|$)", start)
    if last is None:
        raise unreadable(case, "it names no ElementDataFile")
    fields = {}
    for line in start[: last.end()].decode("utf-8", "replace").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            fields[name.strip()] = value.strip()
    return fields, last.end()


def _is_true(fields: dict[str, str], name: str, default: bool) -> bool:
    return fields[name][:1] in "Tt1" if fields.get(name) else default


def _check_values(fields: dict[str, str], case: str) -> None:
    """Refuses voxels that are no single numbers, or are scaled."""
    channels = whole(fields.get("ElementNumberOfChannels", "1"), case, "ElementNumberOfChannels")
    if channels != 1 or fields.get("ElementType") not in _TYPES:
        kind = f"of {channels} components" if channels != 1 else "of a type that is no single real number"
        raise StudyError(f"case {case}: voxels {kind}, not single numbers. Convert it.", "not-scalar")
    for name, neutral in (("Slope", 1.0), ("Offset", 0.0)):
        field = f"ElementToIntensityFunction{name}"
        if field in fields and reals(fields[field], case, field, 1)[0] != neutral:
            raise unsupported(case, "with an ElementToIntensityFunction")


def _affine(fields: dict[str, str], count: int, case: str) -> tuple[np.ndarray, tuple[Notice, ...]]:
    """Voxel index -> RAS mm. Each row of TransformMatrix is the direction of an axis, in LPS."""
    matrix = _first(fields, _MATRIX, count**2, case)
    origin = _first(fields, _ORIGIN, count, case)
    lengths = _first(fields, _SPACING, count, case)
    guesses = []
    if matrix is None:
        matrix = np.eye(count).ravel()
        guesses.append(no_orientation(case))
    if lengths is None:
        lengths = np.ones(count)
        guesses.append(untold(case, "spacing", "1 mm"))
    if origin is None:
        origin = np.zeros(count)
        guesses.append(untold(case, "origin", "0 mm"))
    if not np.all(lengths[:3] > 0):
        raise GeometryError(f"case {case}: ElementSpacing is no length. Write the header again.", "bad-affine")
    unit = fields.get("DistanceUnits", "?")
    scale, notices = (1.0, ()) if unit in ("?", "") else in_mm(unit, case)
    affine = np.eye(4)
    affine[:3, :3] = matrix.reshape(count, count)[:3, :3].T * lengths[:3] * scale
    affine[:3, 3] = origin[:3] * scale
    check_affine(affine, case)
    return lps_to_ras(affine), (*guesses, *notices)


def _first(fields: dict[str, str], names: tuple[str, ...], count: int, case: str) -> np.ndarray | None:
    """The numbers of the first field that there is."""
    return next((reals(fields[name], case, name, count) for name in names if name in fields), None)


def _stored(path: Path, fields: dict[str, str], end: int, shape: tuple[int, int, int], case: str) -> StoredVoxels:
    if not _is_true(fields, "BinaryData", True):
        raise unsupported(case, "written as text")
    big = _is_true(fields, "BinaryDataByteOrderMSB", _is_true(fields, "ElementByteOrderMSB", False))
    dtype: np.dtype[Any] = np.dtype((">" if big else "<") + _TYPES[fields["ElementType"]])
    encoding = "zlib" if _is_true(fields, "CompressedData", False) else "raw"
    skip = whole(fields.get("HeaderSize", "0"), case, "HeaderSize")
    name = fields[_DATA]
    if name.upper() == "LOCAL":
        if skip not in (0, -1, end):
            raise unsupported(case, "with a HeaderSize")
        file, encoding, start, inflated_skip = attached(path, end, 0, encoding, case)
    else:
        file, start, inflated_skip = detached(path, name, case), max(skip, 0), 0
        if skip == -1 and encoding == "raw":
            start = file.stat().st_size - int(np.prod(shape)) * dtype.itemsize
    if start < 0:
        raise unreadable(case, "its data start before the file")
    _check_packed(fields, file, start, case)
    return StoredVoxels(file, shape, dtype, encoding, start, inflated_skip)


def _check_packed(fields: dict[str, str], file: Path, start: int, case: str) -> None:
    """Refuses a file that is shorter than its compressed voxels are said to be."""
    if not _is_true(fields, "CompressedData", False) or "CompressedDataSize" not in fields:
        return
    claimed, held = whole(fields["CompressedDataSize"], case, "CompressedDataSize"), file.stat().st_size - start
    if claimed > held:
        raise StudyError(f"case {case}: {held:,} of {claimed:,} compressed bytes. Copy the file again.", "truncated")
