"""NRRD headers (.nrrd with the voxels behind, .nhdr with a data file beside it).

Source: teem.sourceforge.net/nrrd/format.html; where that leaves a choice, as ITK's NrrdImageIO.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import StudyError
from ..volume import Notice
from .geometry import check_affine
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
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip", "bzip2": "bzip2", "bz2": "bzip2"}
_TO_RAS = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_LPS = (-1, -1, 1)
_SPATIAL = ("domain", "space", "???", "none", "")
"""Kinds of axes along which a scan may lie; others are time, colours, vectors, …"""


@dataclass(frozen=True)
class _Axis:
    """One axis of the array: its size, kind and, where it has a place in space, the way to the next voxel."""

    size: int
    kind: str
    direction: np.ndarray | None


def read_nrrd(path: Path, case: str, max_voxels: int) -> RasterHeader:
    """The header of an NRRD file.

    Raises:
        GeometryError: it gives the voxels no place.
        StudyError: it is not readable, is no 3D volume of single numbers, contradicts the file's size, or names a data
            file that is not in its folder.
    """
    start = header_bytes(path, case)
    fields, end = _fields(start, case)
    axes = _spatial(_axes(fields, case), case)
    shape = check_shape([axis.size for axis in axes], case)
    check_voxels(shape, max_voxels, case)
    affine, notices = _affine(axes, fields, case)
    stored = _stored(path, fields, end, shape, _dtype(fields, case), case)
    return checked(RasterHeader(stored, affine, notices), case)


def _fields(start: bytes, case: str) -> tuple[dict[str, str], int]:
    """The fields by their names in lower case without blanks, and where the header ends: at the first empty line."""
    blank = re.search(rb"\r?\n\r?\n", start)
    end = blank.end() if blank else len(start)
    fields = {}
    for line in start[:end].decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue  # a comment, or a key of the user's
        if colon:
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    if blank is None and not {"datafile"} & fields.keys():
        raise unreadable(case, "it has no end")
    return fields, end


def _axes(fields: dict[str, str], case: str) -> list[_Axis]:
    count = whole(fields.get("dimension", ""), case, "dimension")
    sizes = wholes(fields.get("sizes", ""), case, "sizes")
    if count != len(sizes):
        raise unreadable(case, f"it has {len(sizes)} sizes for {count} axes")
    kinds = fields.get("kinds", "").lower().split() or [""] * count
    directions = _directions(fields, count, case)
    if len(kinds) != count or len(directions) != count:
        raise unreadable(case, f"it has {len(kinds)} kinds and {len(directions)} directions for {count} axes")
    return [_Axis(*parts) for parts in zip(sizes, kinds, directions, strict=True)]


def _directions(fields: dict[str, str], count: int, case: str) -> list[np.ndarray | None]:
    """The way from voxel to voxel along each axis; along the first three where only spacings are told, or nothing."""
    text = fields.get("spacedirections")
    if text is not None:
        vectors = re.findall(r"none|\([^()]*\)", text)
        return [None if one == "none" else _vector(one, case, "space directions") for one in vectors]
    spacings = reals(fields["spacings"], case, "spacings", count) if "spacings" in fields else np.ones(count)
    return [spacing * np.eye(3)[axis] if axis < 3 else None for axis, spacing in enumerate(spacings)]


def _vector(text: str, case: str, what: str) -> np.ndarray:
    return reals(text.strip("() ").replace(",", " "), case, what, 3)


def _spatial(axes: list[_Axis], case: str) -> list[_Axis]:
    """The axes in space; others are dropped where they have a single element."""
    kept = [axis for axis in axes if axis.size != 1 or (axis.direction is not None and axis.kind in _SPATIAL)]
    for axis in kept:
        if axis.kind not in _SPATIAL or (axis.direction is None and len(kept) > 3):
            sizes = " x ".join(str(one.size) for one in axes)
            raise StudyError(
                f"case {case}: an array of {sizes}, one axis of which is not in space (time, colours, vectors), not "
                "one 3D volume. Write the volume that is meant to a file of its own.",
                "not-3d",
            )
    return kept


def _affine(axes: list[_Axis], fields: dict[str, str], case: str) -> tuple[np.ndarray, tuple[Notice, ...]]:
    """Voxel index -> RAS mm; LPS is assumed, with a notice, where the space has no name or another one."""
    space = fields.get("space", "").lower()
    if space.endswith(("-time", "rast", "last", "lpst")):
        raise StudyError(f"case {case}: a space with time, not one 3D volume. Write it without.", "not-3d")
    if any(axis.direction is None for axis in axes):
        raise unreadable(case, "an axis in space has no direction")
    affine = np.eye(4)
    affine[:3, :3] = np.stack([axis.direction for axis in axes if axis.direction is not None], axis=1)
    if "spaceorigin" in fields:
        affine[:3, 3] = _vector(fields["spaceorigin"], case, "space origin")
    scales, notices = _space_units(fields, case)
    affine[:3] *= scales[:, np.newaxis] * np.array(_TO_RAS.get(space, _LPS))[:, np.newaxis]
    check_affine(affine, case)
    return affine, (*_untold(fields, space, case), *notices)


def _untold(fields: dict[str, str], space: str, case: str) -> Iterator[Notice]:
    """What of the place is a guess."""
    if space not in _TO_RAS or "spacedirections" not in fields:
        yield no_orientation(case)
    if not {"spacedirections", "spacings"} & fields.keys():
        yield untold(case, "spacing", "1 mm")
    if "spaceorigin" not in fields:
        yield untold(case, "origin", "0 mm")


def _space_units(fields: dict[str, str], case: str) -> tuple[np.ndarray, tuple[Notice, ...]]:
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    if not units or set(units) == {""}:
        return np.ones(3), ()
    if len(units) != 3:
        raise unreadable(case, f"it has {len(units)} space units")
    known = [in_mm(unit, case) for unit in units]
    notices = {notice for _, told in known for notice in told}
    return np.array([scale for scale, _ in known]), tuple(sorted(notices, key=lambda notice: notice.message))


def _dtype(fields: dict[str, str], case: str) -> np.dtype[Any]:
    name = " ".join(fields.get("type", "").lower().split())
    code = next((code for code, names in _TYPES.items() if name in names), None)
    if code is None:
        raise StudyError(f"case {case}: voxels of a type that is no single real number. Convert it.", "not-scalar")
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big") and code[1] != "1":
        raise unreadable(case, "it tells no byte order")
    return np.dtype((">" if endian == "big" else "<") + code)


def _stored(
    path: Path, fields: dict[str, str], end: int, shape: tuple[int, int, int], dtype: np.dtype[Any], case: str
) -> StoredVoxels:
    encoding = _ENCODINGS.get(fields.get("encoding", "").lower())
    if encoding is None:
        raise unsupported(case, "written as text or in another encoding")
    if whole(fields.get("lineskip", "0"), case, "line skip") != 0:
        raise unsupported(case, "behind skipped lines")
    skip = whole(fields.get("byteskip", "0"), case, "byte skip")
    name = fields.get("datafile")
    size = int(np.prod(shape)) * dtype.itemsize
    if skip < -1:
        raise unreadable(case, "byte skip is no number of bytes")
    if name is None:
        file, encoding, start, skip = attached(path, end, max(skip, 0), encoding, case)
    else:
        file, start = detached(path, name, case), 0
        if encoding == "raw":
            start, skip = (file.stat().st_size - size if skip == -1 else skip), 0
    if start < 0 or skip < 0:
        raise unreadable(case, "its data start before the file")
    return StoredVoxels(file, shape, dtype, encoding, start, skip)
