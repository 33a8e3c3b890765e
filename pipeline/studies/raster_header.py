"""What the text headers of NRRD and MetaImage share: how they are read, and which other file they may name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np

from ..errors import GeometryError, StudyError
from ..volume import Notice
from .volume_file import is_gzip, open_volume, read_errors
from .voxel_data import StoredVoxels, check_size

LONGEST = 2**20
"""Bytes of the longest header that is read."""

_MM = {
    "um": 0.001, "µm": 0.001, "micron": 0.001, "microns": 0.001, "micrometer": 0.001, "micrometre": 0.001,
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "millimetre": 1.0, "millimetres": 1.0,
    "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0, "m": 1000.0, "meter": 1000.0, "metre": 1000.0,
}  # fmt: skip


@dataclass(frozen=True)
class RasterHeader:
    """What an NRRD or MetaImage header says.

    Attributes:
        stored: the voxels.
        affine: (4, 4), voxel index -> RAS mm.
        notices: what to know of the affine.
    """

    stored: StoredVoxels
    affine: np.ndarray
    notices: tuple[Notice, ...]


def header_bytes(path: Path, case: str) -> bytes:
    """The first bytes of a file, inflated where it is gzip: the header, and what follows it."""
    try:
        with open_volume(path) as file:
            return file.read(LONGEST)
    except read_errors() as error:
        raise unreadable(case, f"its start can not be read ({type(error).__name__})") from None


def attached(path: Path, end: int, skip: int, encoding: str, case: str) -> tuple[Path, str, int, int]:
    """File, encoding, start and skip of voxels that follow their header, which ends at `end`.

    A file that is gzip as a whole may hold them as they are, but not compressed again.
    """
    if not is_gzip(path):
        return (path, "raw", end + skip, 0) if encoding == "raw" else (path, encoding, end, skip)
    if encoding != "raw":
        raise unsupported(case, "compressed twice")
    return path, "gzip", 0, end + skip


def detached(path: Path, name: str, case: str) -> Path:
    """The data file that a header names, which lies in the header's folder or below.

    Raises:
        StudyError: the name leads out of the folder, stands for several files, or there is no such file.
    """
    if name.split()[:1] == ["LIST"] or "%" in name:
        raise unsupported(case, "in several data files")
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise StudyError(
            f"case {case}: the header names a data file outside its folder, which is not read. Convert it to one file.",
            "unsafe-data-file",
        )
    file = path.parent / posix
    if "\0" in name or not file.is_file():
        raise StudyError(
            f"case {case}: the data file that the header names is not beside it. Put it there, or convert it to one "
            "file.",
            "no-data-file",
        )
    return file


def checked(header: RasterHeader, case: str) -> RasterHeader:
    """The header, if the file can hold its voxels."""
    check_size(header.stored, case)
    return header


def whole(text: str, case: str, what: str) -> int:
    """A whole number of a header."""
    numbers = wholes(text, case, what)
    if len(numbers) != 1:
        raise unreadable(case, f"{what} is no whole number")
    return numbers[0]


def wholes(text: str, case: str, what: str) -> list[int]:
    """Whole numbers of a header."""
    try:
        return [int(part) for part in text.split()]
    except ValueError:
        raise unreadable(case, f"{what} holds no whole numbers") from None


def reals(text: str, case: str, what: str, count: int) -> np.ndarray:
    """(count,) numbers of a header, finite or not."""
    try:
        numbers = np.array([float(part) for part in text.split()])
    except ValueError:
        raise unreadable(case, f"{what} holds no numbers") from None
    if len(numbers) != count:
        raise unreadable(case, f"{what} holds {len(numbers)} numbers, not {count}")
    return numbers


def in_mm(unit: str, case: str) -> tuple[float, tuple[Notice, ...]]:
    """Millimetres of a unit, and a notice where it is another."""
    scale = _MM.get(unit.strip().lower())
    if scale is None:
        raise GeometryError(f"case {case}: the unit of lengths is none that is known. Write it in mm.", "bad-units")
    if scale == 1.0:
        return scale, ()
    return scale, (Notice("units", f"case {case}: lengths are in units of {scale:g} mm, converted to mm."),)


def no_orientation(case: str) -> Notice:
    """For a header whose axes are taken as ITK takes them."""
    text = f"case {case}: the header tells no orientation; the axes are taken for left, posterior, superior."
    return Notice("no-orientation", text)


def untold(case: str, what: str, taken: str) -> Notice:
    """For a header that leaves out an origin or a spacing."""
    return Notice(f"no-{what}", f"case {case}: the header tells no {what}; it is taken for {taken}.")


def unreadable(case: str, why: str) -> StudyError:
    """In our own words, nothing of the header's."""
    return StudyError(f"case {case}: the header can not be read: {why}. Copy or convert the file again.", "unreadable")


def unsupported(case: str, what: str) -> StudyError:
    """For voxels that another program can read."""
    return StudyError(f"case {case}: voxels {what} are not read. Convert it to one plain file.", "unsupported")
