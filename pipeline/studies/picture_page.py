"""The pixels of one page, decoded by Pillow, as the numbers that the file stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..errors import StudyError
from .picture_file import coloured

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    from .picture_header import PictureHeader


def read_page(image: ImageFile, header: PictureHeader, case: str) -> np.ndarray:
    """The pixels (rows, columns) of the page that the image is at, of the header's type.

    Raises:
        StudyError: the channels differ, or pixels are transparent.
    """
    image.load()
    return _grey_of_colours(image, case) if header.composed else _grey(image, header, case)


def _grey(image: ImageFile, header: PictureHeader, case: str) -> np.ndarray:
    stored = np.asarray(image)
    if stored.dtype.itemsize == header.dtype.itemsize and header.dtype.kind in "iu":
        pixels = stored.astype(stored.dtype.newbyteorder("="), copy=False).view(header.dtype)  # Pillow's are unsigned
    else:
        pixels = stored.astype(header.dtype)
    if header.stretch > 1:
        pixels = pixels // np.uint8(header.stretch)
    see_through = image.info.get("transparency")
    if image.mode == "1" and see_through is not None:
        see_through = bool(see_through)
    if see_through is not None and np.any(pixels == see_through):
        raise _transparent(case)
    return pixels


def _grey_of_colours(image: ImageFile, case: str) -> np.ndarray:
    has_alpha = "transparency" in image.info or image.mode in ("RGBA", "LA", "La", "PA", "RGBa")
    pixels = np.asarray(image.convert("RGBA" if has_alpha else "RGB"))
    grey = pixels[..., 0]
    if not all(np.array_equal(grey, pixels[..., channel]) for channel in (1, 2)):
        raise coloured(case)
    if has_alpha and not np.all(pixels[..., 3] == 255):
        raise _transparent(case)
    return grey


def _transparent(case: str) -> StudyError:
    return StudyError(
        f"case {case}: a picture with transparent pixels. Write it without transparency (an alpha channel).",
        "transparent",
    )
