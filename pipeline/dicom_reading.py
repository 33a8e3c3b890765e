"""What all that touch pydicom's datasets share: silence, text of an element, and the errors of broken input."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue

from .silent_loggers import silent_loggers

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    LookupError,
    NotImplementedError,
    ArithmeticError,
    RecursionError,
    RuntimeError,
    AssertionError,
    MemoryError,
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)
"""What pydicom and its decoders raise on broken input."""


@contextmanager
def quiet_dicom() -> Iterator[None]:
    """Within it pydicom and highdicom warn and log nothing: their messages quote values, which may be the patient's."""
    with warnings.catch_warnings(), silent_loggers("highdicom", "pydicom"):
        warnings.simplefilter("ignore")
        yield


def element_text(dataset: Any, keyword: str) -> str:
    """An element's text, values joined by a backslash; empty where it is absent or can not be decoded."""
    try:
        value = dataset.get(keyword)
        parts = list(value) if isinstance(value, (list, tuple, MultiValue)) else [value]
        return "" if value is None else "\\".join(str(part) for part in parts).strip(" \0")
    except UNREADABLE:
        return ""
