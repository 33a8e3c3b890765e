"""The pages of a TIFF: one grey picture of one size each, or refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StudyError
from .picture_file import unreadable, unsupported
from .picture_header import PictureHeader, check_claim, stretch_of
from .picture_spacing import TiffText, read_tiff_text
from .volume_file import check_voxels

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _DESCRIPTION = 254, 258, 259, 262, 270
_STRIPS, _STRIP_BYTES, _SAMPLES, _TILES, _TILE_BYTES, _EXTRA, _FORMAT = 273, 279, 277, 324, 325, 338, 339
_RESOLUTION = 282, 283

_RATIOS = {1: 1, 5: 4096, 8: 1032, 32946: 1032, 32773: 64}
"""Compressions that are read (none, LZW, deflate twice, PackBits), and the most bytes that a byte of each can hold."""

_TYPES = {
    (1, 1): "u1", (2, 1): "u1", (4, 1): "u1", (8, 1): "u1", (8, 2): "i1", (12, 1): "u2", (16, 1): "u2", (16, 2): "i2",
    (32, 1): "u4", (32, 2): "i4", (32, 3): "f4",
}  # fmt: skip
"""(bits, SampleFormat) of grey pixels, and their type."""

_REDUCED = 1
"""Bit of NewSubfileType: a smaller version of another page."""


@dataclass(frozen=True)
class _Page:
    """What all pages that are read must have in common."""

    size: tuple[int, int]
    dtype: str
    composed: bool
    stretch: int


def read_tiff_header(image: TiffImageFile, case: str, file_bytes: int, max_voxels: int) -> PictureHeader:
    """The header of a TIFF; smaller versions of its pages are passed over.

    Raises:
        StudyError: it is of a kind that is not read, or claims more than the file holds.
    """
    text = _text(image)
    first: _Page | None = None
    pages: list[int] = []
    number = 0
    while _is_at(image, number):
        tags = image.tag_v2
        if not int(tags.get(_SUBFILE, 0)) & _REDUCED:
            page = _page(image, case, file_bytes)
            first = first or page
            if page != first:
                raise StudyError(
                    f"case {case}: a TIFF of pages that differ in size or type. Write those that are meant to a file "
                    "of their own.",
                    "several-pictures",
                )
            pages.append(number)
            check_voxels((*page.size, len(pages)), max_voxels, case)
        number += 1
    if first is None:
        raise unreadable(case, "it holds smaller versions of pictures only")
    _check_stack(text, len(pages), case)
    return PictureHeader(
        shape=(*first.size, len(pages)),
        dtype=np.dtype(first.dtype),
        pages=tuple(pages),
        composed=first.composed,
        stretch=first.stretch,
        spacing=text.spacing,
    )


def _is_at(image: TiffImageFile, number: int) -> bool:
    """Whether there is such a page, which the image then shows."""
    try:
        image.seek(number)
    except EOFError:
        return False
    return True


def _text(image: TiffImageFile) -> TiffText:
    x, y = (_positive(image.tag_v2.get(tag)) for tag in _RESOLUTION)
    return read_tiff_text(str(image.tag_v2.get(_DESCRIPTION, "")), x, y)


def _positive(value: Any) -> float | None:
    """A resolution, where it is one."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if np.isfinite(number) and number > 0 else None


def _page(image: TiffImageFile, case: str, file_bytes: int) -> _Page:
    tags = image.tag_v2
    compression, photometric = int(tags.get(_COMPRESSION, 1)), int(tags.get(_PHOTOMETRIC, 1))
    if compression not in _RATIOS:
        raise unsupported(case, f"of TIFF compression {compression}")
    if photometric == 0:
        raise unsupported(case, "whose 0 is white (PhotometricInterpretation 0)")
    if photometric not in (1, 2, 3):
        raise unsupported(case, f"of PhotometricInterpretation {photometric}")
    samples = int(tags.get(_SAMPLES, 1))
    bits, kinds = _each(tags.get(_BITS, (1,))), _each(tags.get(_FORMAT, (1,)))
    if 0 in _each(tags.get(_EXTRA, ())):
        raise unsupported(case, "of several channels")
    composed = photometric != 1 or samples > 1
    dtype = "u1" if composed and max(bits) <= 8 else None if composed else _TYPES.get((bits[0], kinds[0]))
    if dtype is None:
        raise unsupported(case, f"of {samples} x {bits[0]} bits, SampleFormat {kinds[0]},")
    if compression != 1 and tags.prefix.startswith(b"MM") and (bits[0] == 32 or dtype == "i2"):
        raise unsupported(case, "that is compressed in big-endian order")  # Pillow 13 gives its bytes in wrong order
    columns, rows = image.size
    held = _each(tags.get(_STRIP_BYTES, tags.get(_TILE_BYTES, ())))
    starts = _each(tags.get(_STRIPS, tags.get(_TILES, ())))
    if len(held) != len(starts) or any(at + length > file_bytes for at, length in zip(starts, held, strict=True)):
        raise unreadable(case, "its pixels lie beyond the end of the file")
    check_claim(rows * (columns * bits[0] * samples // 8), sum(held), _RATIOS[compression], case)
    return _Page((columns, rows), dtype, composed, 1 if composed else stretch_of(bits[0]))


def _each(values: Any) -> tuple[int, ...]:
    """The whole numbers of a tag, which Pillow gives alone where there is one."""
    return tuple(int(value) for value in (values if isinstance(values, tuple) else (values,)))


def _check_stack(text: TiffText, pages: int, case: str) -> None:
    """Refuses what its description says is more than the pages of one stack."""
    if text.channels > 1 or (text.times > 1 and text.slices > 1):
        raise StudyError(
            f"case {case}: a TIFF of {text.channels} channels and {text.times} times. Write the stack that is meant to "
            "a file of its own.",
            "several-stacks",
        )
    if text.planes not in (None, pages):
        raise StudyError(
            f"case {case}: {pages} pages, where the description tells of {text.planes}. Write the whole stack to one "
            "plain TIFF.",
            "missing-pages",
        )
