"""What a node must know of an instance that it is sent: its UIDs, and that it came whole."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from io import BytesIO

from pydicom.filereader import data_element_generator
from pydicom.uid import UID

from ..dicom_reading import UNREADABLE

CLASS, INSTANCE, STUDY = 0x00080016, 0x00080018, 0x0020000D
_UID = re.compile(r"[0-9.]{1,64}")
UNDEFINED_LENGTH = 0xFFFFFFFF
_LONG_BYTES = 1024
"""Values longer than this are passed over."""


class NotAnInstanceError(Exception):
    """The bytes are no data set with the UIDs that an instance has; the message says nothing of what they hold."""


class OtherInstanceError(NotAnInstanceError):
    """The data set is not the SOP instance that was announced."""


@dataclass(frozen=True)
class InstanceName:
    """How an instance is called in the spool: by hashes of its UIDs.

    Attributes:
        study: 32 hex digits for StudyInstanceUID (0020,000D).
        instance: 32 hex digits for SOPInstanceUID (0008,0018).
        sop_class: SOPClassUID (0008,0016).
    """

    study: str
    instance: str
    sop_class: str


def uid_hash(uid: str) -> str:
    """32 hex digits of the UID's SHA-256."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def study_name(study: str) -> str:
    """A study in log lines, by its hash."""
    return f"study-{study[:8]}"


def name_instance(encoded: BytesIO, transfer_syntax: UID, sop_class: str, sop_instance: str) -> InstanceName:
    """The names of an instance, once every element of it has been found to be whole.

    Args:
        encoded: the data set without preamble and file meta information, not deflated.
        transfer_syntax: how it is encoded.
        sop_class: that the sender announced.
        sop_instance: likewise.
    Raises:
        OtherInstanceError: its UIDs are not those announced.
        NotAnInstanceError: it is cut off, is no data set, or its UIDs are missing or malformed.
    """
    found = _read_uids(encoded, transfer_syntax)
    if set(found) != {CLASS, INSTANCE, STUDY} or not all(_UID.fullmatch(uid) for uid in found.values()):
        raise NotAnInstanceError("the data set has no study, SOP class or SOP instance UID")
    if (found[CLASS], found[INSTANCE]) != (sop_class, sop_instance):
        raise OtherInstanceError("the data set is not the announced SOP instance")
    return InstanceName(uid_hash(found[STUDY]), uid_hash(found[INSTANCE]), found[CLASS])


def _read_uids(encoded: BytesIO, transfer_syntax: UID) -> dict[int, str]:
    """The three UIDs, by tag. pydicom takes a cut off end for the end, so lengths are compared with what is there."""
    found: dict[int, str] = {}
    end = 0
    encoded.seek(0)
    try:
        for element in data_element_generator(
            encoded, transfer_syntax.is_implicit_VR, transfer_syntax.is_little_endian, defer_size=_LONG_BYTES
        ):
            end, value = encoded.tell(), element.value
            if isinstance(value, bytes) and len(value) != element.length != UNDEFINED_LENGTH:
                raise EOFError
            if element.tag in (CLASS, INSTANCE, STUDY):
                found[element.tag] = value.decode("ascii").strip(" \0") if isinstance(value, bytes) else ""
    except UNREADABLE:
        raise NotAnInstanceError("the data set can not be read") from None
    if end != encoded.getbuffer().nbytes:
        raise NotAnInstanceError("the data set is cut off")
    return found
