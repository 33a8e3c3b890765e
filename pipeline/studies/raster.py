"""The formats of ITK, NRRD and MetaImage (MHA, MHD), to `Volume`; read here, so that every claim is checked first.

ITK itself reads what a header claims into memory, ignores units, opens any file that a header names, and takes over a
second to import; the tests compare with it.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..limits import MAX_VOXELS
from ..volume import Volume
from .file_series import describe_file, header_again
from .metaimage import read_metaimage
from .nrrd import read_nrrd
from .raster_header import RasterHeader
from .study import Series
from .volume_file import file_case, open_volume, shear_notices, value_notices
from .voxel_data import read_voxels

_NRRD = re.compile(rb"NRRD000[1-5]")
_META = re.compile(rb"\s*(ObjectType|NDims)\s*=")


def is_raster(start: bytes, path: Path) -> bool:
    """Whether a file begins like an NRRD or MetaImage, or is named as the latter and has a field.

    Args:
        start: its first 256 bytes or more, inflated where the file is gzip.
        path: the file.
    """
    named = path.name.lower().endswith((".mha", ".mhd"))
    return bool(_NRRD.match(start) or _META.match(start) or (named and b"=" in start[:256]))


def describe_raster(path: Path, max_voxels: int = MAX_VOXELS, case: str | None = None) -> Series:
    """The series that an NRRD or MetaImage file holds, with its verdict; no voxel is read.

    Args:
        path: the file, or the header where its voxels are in another.
        max_voxels: more are refused.
        case: its name; the file's stem where None.
    """
    return describe_file(path, "raster", file_case(path) if case is None else case, max_voxels, _header)


def read_raster(series: Series) -> Volume:
    """The volume of an NRRD or MetaImage file that `find_series` did not refuse.

    Returns:
        array (1, X, Y, Z) in the file's own type and order of memory, mapped where it is large and not compressed; the
        affine in RAS mm.
    Raises:
        StudyError: the file is cut short, damaged, or much longer than its header says.
    """
    assert series.affine is not None
    case, header = series.case, header_again(series, _header)
    array, notices = read_voxels(header.stored, case)
    return Volume(
        array=array[np.newaxis],
        affine=series.affine.copy(),
        case=case,
        notices=(*series.notices, *notices, *value_notices(array, case)),
    )


def _header(path: Path, case: str, max_voxels: int) -> RasterHeader:
    with open_volume(path) as file:
        is_nrrd = _NRRD.match(file.read(8))
    header = (read_nrrd if is_nrrd else read_metaimage)(path, case, max_voxels)
    return replace(header, notices=(*header.notices, *shear_notices(header.affine, case)))
