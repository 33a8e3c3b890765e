"""A volume file as a `Series`: described by its header, which is read again when its voxels are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from ..errors import StudyError
from ..volume import Notice
from .geometry import plane_name, voxel_spacing
from .study import Series
from .voxel_data import StoredVoxels


class FileHeader(Protocol):
    """What the header of a volume file says: the voxels, their affine (RAS mm), and what to know of it."""

    @property
    def stored(self) -> StoredVoxels: ...

    @property
    def affine(self) -> np.ndarray: ...

    @property
    def notices(self) -> tuple[Notice, ...]: ...


H = TypeVar("H", bound=FileHeader)
ReadHeader = Callable[[Path, str, int], H]
"""(file, case, most voxels) -> its header; raises StudyError."""


def describe_file(path: Path, kind: str, case: str, max_voxels: int, read: ReadHeader[H]) -> Series:
    """The series that a volume file holds, with its verdict; no voxel is read.

    Args:
        path: the file.
        kind: of `Series`.
        case: its name.
        max_voxels: more are refused.
        read: the header of such a file.
    """
    try:
        header = read(path, case, max_voxels)
    except StudyError as reason:
        return Series(case=case, kind=kind, files=(path,), refused=reason)
    return Series(
        case=case,
        kind=kind,
        files=(path,),
        shape=header.stored.shape,
        spacing=voxel_spacing(header.affine),
        plane=plane_name(header.affine),
        affine=header.affine,
        notices=header.notices,
    )


def header_again(series: Series, read: ReadHeader[H]) -> H:
    """The header of a series that was described.

    Raises:
        StudyError: the file is another one now.
    """
    assert series.shape is not None
    header = read(series.files[0], series.case, int(np.prod(series.shape)))
    if header.stored.shape != series.shape:
        raise StudyError(f"case {series.case}: the file changed while it was read. Try again.", "unreadable")
    return header
