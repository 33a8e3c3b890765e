"""What the header of a PNG or TIFF claims, checked against the file's size before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .picture_file import cleanly, opened, unreadable, unsupported
from .picture_spacing import Spacing
from .volume_file import check_voxels

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngImageFile

_DEFLATE_RATIO = 1032
"""The most bytes that one byte of deflate can hold."""


@dataclass(frozen=True)
class PictureHeader:
    """What the header of a picture says.

    Attributes:
        shape: columns, rows and pages.
        dtype: of the pixels.
        pages: which of a TIFF's are read, from 0.
        composed: the pixels are colours, by palette or channels, or carry alpha; grey where these turn out so.
        stretch: what Pillow multiplies grey values of less than 8 bits with; they are divided by it again.
        spacing: x, y and z in mm; None where it is not told, z also where there is only one page.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    pages: tuple[int, ...] = (0,)
    composed: bool = False
    stretch: int = 1
    spacing: Spacing | None = None


def read_picture_header(path: Path, case: str, max_voxels: int) -> PictureHeader:
    """The header of a picture.

    Raises:
        StudyError: it can not be read, claims more than the file can hold or than `max_voxels`, or is of a kind that is
            not read.
    """
    from .picture_tiff import read_tiff_header

    with cleanly(case), opened(path) as image:
        size = path.stat().st_size
        if image.format == "PNG":
            header: PictureHeader = _png(image, path, case, size)  # type: ignore[arg-type]
        else:
            header = read_tiff_header(image, case, size, max_voxels)  # type: ignore[arg-type]
    check_voxels(header.shape, max_voxels, case)
    return header


def check_claim(claimed: int, held: int, ratio: int, case: str) -> None:
    """Accepts a page whose pixels the file can hold.

    Args:
        claimed: bytes of the pixels.
        held: bytes that the file has for them.
        ratio: the most that one byte of them can hold.
        case: for messages.
    """
    if claimed > held * ratio:
        raise unreadable(case, f"{claimed:,} bytes of pixels claimed, the file is too short for them")


def _png(image: PngImageFile, path: Path, case: str, size: int) -> PictureHeader:
    """Source: PNG (third edition), 11.2.1: bit depth and colour type are bytes 24 and 25."""
    with path.open("rb") as file:
        start = file.read(26)
    depth, colour = start[24], start[25]
    if getattr(image, "is_animated", False):
        raise unsupported(case, "of several frames")
    if depth == 16 and colour != 0:
        raise unsupported(case, "of 16 bits with colours or transparency")
    columns, rows = image.size
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    check_claim(rows * (columns * depth * channels // 8), size, _DEFLATE_RATIO, case)
    return PictureHeader(
        shape=(columns, rows, 1),
        dtype=np.dtype(np.uint16 if depth == 16 else np.uint8),
        composed=colour != 0,
        stretch=stretch_of(depth) if colour == 0 else 1,
    )


def stretch_of(bits: int) -> int:
    """What Pillow multiplies grey values of so many bits with."""
    return {1: 255, 2: 85, 4: 17}.get(bits, 1)
