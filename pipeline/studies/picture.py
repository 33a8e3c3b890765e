"""Pictures (PNG, TIFF) to `Volume`: a column is a voxel along x, a row one along y, a page of a TIFF one along z.

The axes are taken for left, posterior and superior, as ITK takes them, so that a picture is shown upright. What a file
claims is checked before anything is decoded; Pillow decodes. Values are kept as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np

from ..errors import StudyError
from ..limits import MAX_VOXELS
from ..volume import Notice, Volume
from .geometry import lps_to_ras, plane_name
from .picture_file import cleanly, opened, unreadable
from .picture_header import PictureHeader, read_picture_header
from .picture_page import read_page
from .study import Series
from .volume_file import file_case, value_notices

SUFFIXES = (".png", ".tif", ".tiff")
_MAGIC = (b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""Of PNG, TIFF in both orders of bytes, BigTIFF likewise."""


def is_picture(start: bytes) -> bool:
    """Whether a file begins like a PNG or TIFF.

    Args:
        start: its first 8 bytes or more.
    """
    return start.startswith(_MAGIC)


def is_named_picture(name: str) -> bool:
    """Whether a file's name is a picture's, whatever it holds; not one of macOS's companions of files."""
    name = PurePath(name).name
    return name.lower().endswith(SUFFIXES) and not name.startswith("._")


def describe_picture(path: Path, max_voxels: int = MAX_VOXELS, case: str | None = None) -> Series:
    """The series that a picture is, with its verdict; no pixel is decoded.

    Args:
        path: the file.
        max_voxels: more are refused.
        case: its name; the file's stem where None.
    """
    case = file_case(path) if case is None else case
    try:
        header = read_picture_header(path, case, max_voxels)
    except StudyError as reason:
        return Series(case=case, kind="picture", files=(path,), refused=reason)
    affine, notices = _place(header, case)
    spacing = None if header.spacing is None else (abs(affine[0, 0]), abs(affine[1, 1]), affine[2, 2])
    return Series(
        case=case,
        kind="picture",
        files=(path,),
        shape=header.shape,
        spacing=spacing,
        plane=plane_name(affine),
        affine=affine,
        notices=notices,
    )


def read_picture(
    series: Series, allocate: Callable[..., np.ndarray] = np.empty, tick: Callable[[], None] = lambda: None
) -> Volume:
    """The volume of a picture that `find_series` did not refuse.

    Args:
        series: the picture.
        allocate: makes the array of the voxels from shape and type.
        tick: called once a page.
    Returns:
        array (1, X, Y, Z) with array[0, x, y, z] the pixel of column x and row y of page z, in the file's own type.
    Raises:
        StudyError: the file is cut short, damaged, coloured, transparent, or another one now.
    """
    assert series.affine is not None and series.shape is not None
    path, case = series.files[0], series.case
    header = read_picture_header(path, case, int(np.prod(series.shape)))
    if header.shape != series.shape:
        raise StudyError(f"case {case}: the file changed while it was read. Try again.", "unreadable")
    try:
        stack = allocate(header.shape[::-1], header.dtype)
    except MemoryError:
        raise StudyError(f"case {case}: its pixels do not fit into memory. Crop it.", "too-large") from None
    with cleanly(case), opened(path) as image:
        for place, page in enumerate(header.pages):
            tick()
            image.seek(page)
            pixels = read_page(image, header, case)
            if pixels.shape != stack.shape[1:]:
                raise unreadable(case, "a page has another size than its header says")
            stack[place] = pixels
    array = stack.T
    return Volume(
        array=array[np.newaxis],
        affine=series.affine.copy(),
        case=case,
        is_picture=True,
        notices=(*series.notices, *value_notices(array, case)),
    )


def _place(header: PictureHeader, case: str) -> tuple[np.ndarray, tuple[Notice, ...]]:
    """The affine (4, 4), voxel index -> RAS mm, and what to know of it."""
    if header.spacing is None:
        text = (
            f"case {case}: the picture tells no size of its pixels (a resolution in dpi is a printer's); they are "
            "taken for 1 mm, so that mm and ml of the results count pixels."
        )
        return lps_to_ras(np.eye(4)), (Notice("no-spacing", text),)
    x, y, z = header.spacing
    affine = lps_to_ras(np.diag([x, y, x if z is None else z, 1.0]))
    if z is not None or header.shape[2] == 1:
        return affine, ()
    text = f"case {case}: the distance of the pages is not told; it is taken for the width of a pixel, {x:g} mm."
    return affine, (Notice("no-page-distance", text),)
