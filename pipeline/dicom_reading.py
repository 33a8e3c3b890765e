"""What all that touch pydicom's datasets share: silence, text of an element, and the errors of broken input."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue

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
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def element_text(dataset: Any, keyword: str) -> str:
    """An element's text, values joined by a backslash; empty where it is absent or can not be decoded."""
    try:
        value = dataset.get(keyword)
        parts = list(value) if isinstance(value, (list, tuple, MultiValue)) else [value]
        return "" if value is None else "\\".join(str(part) for part in parts).strip(" \0")
    except UNREADABLE:
        return ""
