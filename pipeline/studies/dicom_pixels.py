"""The stored pixels of DICOM image planes, one after the other, each (rows, columns) and whole numbers.

Plain little-endian pixels are read from where the header said that they lie; all others go through pydicom's decoders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..dicom_reading import UNREADABLE, quiet_dicom
from ..errors import StudyError
from .dicom_elements import read_dataset
from .dicom_header import Header

_PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


def stored_planes(planes: Sequence[Header], case: str) -> Iterator[np.ndarray]:
    """The pixels of each plane, in their order; an array is valid until the next is asked for.

    Args:
        planes: of files that were not refused.
        case: for messages.
    Raises:
        StudyError: a file is cut short, no decoder reads it, or it is not what its header said.
    """
    done = 0
    for _, group in groupby(planes, key=lambda plane: plane.path):
        members = list(group)
        where = f"series {case}: slice {done} of {len(planes)}"
        plain = members[0].syntax in _PLAIN and members[0].pixels.allocated in (8, 16, 32)
        yield from _plain_planes(members, where) if plain else _decoded_planes(members, where)
        done += len(members)


def _plain_planes(planes: Sequence[Header], where: str) -> Iterator[np.ndarray]:
    """Pixels of one file, as they lie in it."""
    form, shape = planes[0].pixels, (planes[0].rows, planes[0].columns)
    assert form.at is not None
    plane = np.empty(shape, np.dtype(f"<{'i' if form.signed else 'u'}{form.allocated // 8}"))
    content = plane.data.cast("B")
    try:
        with planes[0].path.open("rb", buffering=0) as file:
            for header in planes:
                file.seek(form.at + (header.frame or 0) * plane.nbytes)
                if file.readinto(content) != plane.nbytes:
                    raise _cut_short(where)
                yield without_unused_bits(plane, form.stored, form.high)
    except OSError as error:
        raise _damaged(where, error) from None


def without_unused_bits(plane: np.ndarray, stored: int, high: int) -> np.ndarray:
    """The pixels without the bits that do not count, which old files use for overlays; changed in place.

    Source: DICOM PS3.5 section 8.1.1.
    """
    allocated = plane.dtype.itemsize * 8
    if high < allocated - 1:
        np.left_shift(plane, allocated - 1 - high, out=plane)
    if stored < allocated:
        np.right_shift(plane, allocated - stored, out=plane)  # of a signed type: the sign comes along
    return plane


def _decoded_planes(planes: Sequence[Header], where: str) -> Iterator[np.ndarray]:
    """Pixels of one file through pydicom, a frame at a time."""
    first = planes[0]
    with quiet_dicom():
        try:
            dataset = read_dataset(first.path)
            for header in planes:
                yield _checked(_decode(dataset, header), header, where)
        except UNREADABLE as error:
            raise _undecodable(first, where, error) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # of a decoder written in Rust, and no Exception
                raise
            raise _undecodable(first, where, error) from None


def _decode(dataset: Any, header: Header) -> np.ndarray:
    from pydicom.pixels import pixel_array

    return np.asarray(pixel_array(dataset, index=header.frame, raw=True))


def _checked(plane: np.ndarray, header: Header, where: str) -> np.ndarray:
    if plane.shape != (header.rows, header.columns):
        raise StudyError(
            f"{where} decodes to {plane.shape}, not to its Rows and Columns. Export it again.", "bad-pixels"
        )
    if plane.dtype.kind not in "iu":
        raise StudyError(
            f"{where} decodes to {plane.dtype} instead of whole numbers. Convert it to NIfTI.", "bad-pixels"
        )
    return plane


def _undecodable(header: Header, where: str, error: BaseException) -> StudyError:
    """The reason in our own words: those of pydicom may quote values."""
    if header.syntax in _PLAIN:
        return _damaged(where, error)
    name = UID(header.syntax).name if re.fullmatch(r"[\d.]+", header.syntax) else "(not a UID)"
    return StudyError(
        f"{where}: no installed decoder reads its transfer syntax {name} ({type(error).__name__}). "
        "Convert the series to an uncompressed one (dcmconv, gdcmconv --raw), or copy it again if it is damaged.",
        "undecodable",
    )


def _cut_short(where: str) -> StudyError:
    return StudyError(f"{where} ends before its last pixel. Copy or export the series again.", "truncated")


def _damaged(where: str, error: BaseException) -> StudyError:
    text = f"{where} can not be read ({type(error).__name__}): the file is damaged. Copy or export the series again."
    return StudyError(text, "unreadable")
