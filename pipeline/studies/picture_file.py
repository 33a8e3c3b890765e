"""Picture files opened by Pillow, by their content, and its errors in our words.

The format's own class is opened, not `Image.open`: that would try every format that Pillow knows, and warn of large
pictures, whose size is checked here.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StudyError

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

PNG = b"\x89PNG\r\n\x1a\n"
_DAMAGE = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    AssertionError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises of damaged files."""


@contextmanager
def opened(path: Path) -> Iterator[ImageFile]:
    """The picture, at its first page; no pixel is decoded yet."""
    from PIL.PngImagePlugin import PngImageFile
    from PIL.TiffImagePlugin import TiffImageFile

    with path.open("rb") as file:
        is_png = file.read(len(PNG)) == PNG
        file.seek(0)
        yield PngImageFile(file) if is_png else TiffImageFile(file)


@contextmanager
def cleanly(case: str) -> Iterator[None]:
    """What goes wrong with a file in one line; Pillow's own words may hold values of it.

    Raises:
        StudyError: the file is damaged, or of a kind that Pillow does not know.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except _DAMAGE as error:
        if isinstance(error, SyntaxError) and "unknown" in str(error):
            raise unsupported(case, "of a pixel type, or layout, that Pillow does not know,") from None
        raise unreadable(case, f"{type(error).__name__}: it is cut short, damaged, or no PNG or TIFF") from None


def unreadable(case: str, why: str) -> StudyError:
    """For a file that is damaged."""
    return StudyError(f"case {case}: the picture can not be read ({why}). Copy the file again.", "unreadable")


def unsupported(case: str, what: str) -> StudyError:
    """For a picture that another program can read."""
    return StudyError(
        f"case {case}: a picture {what} is not read. Write it as a plain grey PNG or TIFF.", "unsupported"
    )


def coloured(case: str) -> StudyError:
    """For a picture whose channels differ."""
    return StudyError(f"case {case}: a colour picture: convert to grey.", "colour")
