"""What the header of a DICOM file says: the elements that matter here, each as text, and where the pixels lie.

Most files of a study are plain little-endian ones, whose elements are found by walking over them; that is ten times as
fast as parsing every element into an object. Whatever the walk does not know goes to pydicom.
Source: DICOM PS3.5 section 7.1 (elements), PS3.10 section 7.1 (file meta information).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ..dicom_reading import UNREADABLE, element_text, quiet_dicom

TAGS: Mapping[str, int] = {
    "SpecificCharacterSet": 0x00080005,
    "ImageType": 0x00080008,
    "SOPClassUID": 0x00080016,
    "SOPInstanceUID": 0x00080018,
    "StudyDate": 0x00080020,
    "AcquisitionDate": 0x00080022,
    "AcquisitionDateTime": 0x0008002A,
    "AcquisitionTime": 0x00080032,
    "ContentTime": 0x00080033,
    "Modality": 0x00080060,
    "SeriesDescription": 0x0008103E,
    "PatientName": 0x00100010,
    "PatientID": 0x00100020,
    "PatientBirthDate": 0x00100030,
    "OtherPatientIDs": 0x00101000,
    "OtherPatientNames": 0x00101001,
    "PatientBirthName": 0x00101005,
    "PatientMotherBirthName": 0x00101060,
    "SequenceName": 0x00180024,
    "SliceThickness": 0x00180050,
    "KVP": 0x00180060,
    "EchoTime": 0x00180081,
    "InversionTime": 0x00180082,
    "EchoNumbers": 0x00180086,
    "SpacingBetweenSlices": 0x00180088,
    "TriggerTime": 0x00181060,
    "ConvolutionKernel": 0x00181210,
    "DiffusionBValue": 0x00189087,
    "MosaicImages": 0x0019100A,
    "StudyInstanceUID": 0x0020000D,
    "SeriesInstanceUID": 0x0020000E,
    "SeriesNumber": 0x00200011,
    "AcquisitionNumber": 0x00200012,
    "InstanceNumber": 0x00200013,
    "ImagePositionPatient": 0x00200032,
    "ImageOrientationPatient": 0x00200037,
    "FrameOfReferenceUID": 0x00200052,
    "TemporalPositionIdentifier": 0x00200100,
    "StackID": 0x00209056,
    "SamplesPerPixel": 0x00280002,
    "PhotometricInterpretation": 0x00280004,
    "NumberOfFrames": 0x00280008,
    "Rows": 0x00280010,
    "Columns": 0x00280011,
    "PixelSpacing": 0x00280030,
    "BitsAllocated": 0x00280100,
    "BitsStored": 0x00280101,
    "HighBit": 0x00280102,
    "PixelRepresentation": 0x00280103,
    "PixelPaddingValue": 0x00280120,
    "BurnedInAnnotation": 0x00280301,
    "RescaleIntercept": 0x00281052,
    "RescaleSlope": 0x00281053,
    "LossyImageCompression": 0x00282110,
    "ModalityLUTSequence": 0x00283000,
}
"""Keyword -> tag; MosaicImages is Siemens' private NumberOfImagesInMosaic."""

NATIVE = frozenset([ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
"""Transfer syntaxes whose PixelData is the pixels themselves."""

_WANTED = {tag: keyword for keyword, tag in TAGS.items()}
_SYNTAX = 0x00020010
_DICOM_SYNTAX = "1.2.840.10008.1.2"
_MEDIA_CLASS = 0x00020002
_PIXEL_DATA = 0x7FE00010
_FLOAT_PIXELS = (0x7FE00008, 0x7FE00009)
_START = 16_384
"""Bytes that a header rarely exceeds; one read of this size gets both header and kind of most files."""
_LONGEST_WALK = 2**20
_SHORT = frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations with a length of 16 bits; those of 32 are the others. Source: PS3.5 tables 7.1-1 and 7.1-2."""
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_NUMBERS = {b"US": "<H", b"SS": "<h", b"UL": "<I", b"SL": "<i", b"FL": "<f", b"FD": "<d"}


@dataclass(frozen=True)
class Elements:
    """What a file's header says.

    Attributes:
        texts: keyword -> value as text, several values joined by a backslash; what is absent or nonsense is left out.
        syntax: TransferSyntaxUID (0002,0010); of a file without it, that of the encoding found.
        pixels: where PixelData's value lies in the file, and its length in bytes (0xFFFFFFFF where it is not told);
            None where there is none, or only inside a deflated stream.
    """

    texts: Mapping[str, str]
    syntax: str
    pixels: tuple[int, int] | None

    def __getitem__(self, keyword: str) -> str:
        return self.texts.get(keyword, "")


def read_elements(path: Path) -> Elements:
    """The elements of a file that looks like DICOM, with or without the preamble of a Part 10 file.

    Raises:
        UNREADABLE: the file breaks off or is no DICOM.
    """
    with path.open("rb") as file:
        start = file.read(_START)
        walked = _walk(start, file)
        if walked is not None:
            return walked
        file.seek(0)
        with quiet_dicom():
            return _parse(file)


def read_dataset(path: Path | BinaryIO, **options: Any) -> Any:
    """pydicom's dataset; one without file meta information gets the transfer syntax that it was read with.

    Raises:
        UNREADABLE: the file breaks off or is no DICOM.
    """
    dataset = pydicom.dcmread(path, force=True, **options)
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return dataset


class _UnknownError(Exception):
    """The walk has met something that pydicom should read."""


def _walk(start: bytes, file: BinaryIO) -> Elements | None:
    """The elements of a little-endian Part 10 file; None where it is another, or anything is unusual."""
    if start[128:132] != b"DICM":
        return None
    try:
        meta, at = _walk_meta(start)
        syntax = meta[_SYNTAX]
        if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian) or not syntax.startswith(_DICOM_SYNTAX):
            return None
        return _walk_dataset(start, file, at, syntax, meta.get(_MEDIA_CLASS, ""))
    except (_UnknownError, KeyError, IndexError, struct.error, UnicodeDecodeError):
        return None


def _walk_meta(start: bytes) -> tuple[dict[int, str], int]:
    """The file meta information, always explicit little-endian, and where the dataset begins."""
    meta, at = {}, 132
    while start[at : at + 2] == b"\x02\x00":
        tag, _, begin, length = _element(start, at, explicit=True)
        if tag in (_SYNTAX, _MEDIA_CLASS):
            meta[tag] = start[begin : begin + length].decode("ascii").strip(" \0")
        at = begin + length
    return meta, at


def _walk_dataset(start: bytes, file: BinaryIO, at: int, syntax: str, sop_class: str) -> Elements:
    texts: dict[str, str] = {}
    explicit, last = syntax != ImplicitVRLittleEndian, 0
    size = os.fstat(file.fileno()).st_size
    while at < size:
        if at + 12 > len(start):
            start = _read_on(start, file, at + 12)
        tag, kind, begin, length = _element(start, at, explicit)
        if tag <= last:
            raise _UnknownError  # out of order, or repeated
        last = tag
        if tag in _FLOAT_PIXELS:
            raise _UnknownError
        if tag == _PIXEL_DATA:
            return _elements(texts, sop_class, syntax, (begin, length))
        if tag > _PIXEL_DATA or length == 0xFFFFFFFF or begin + length > size:
            raise _UnknownError
        if tag in _WANTED:
            if begin + length > len(start):
                start = _read_on(start, file, begin + length)
            texts[_WANTED[tag]] = _text(start[begin : begin + length], kind, _WANTED[tag])
        at = begin + length
    return _elements(texts, sop_class, syntax, None)


def _elements(texts: dict[str, str], sop_class: str, syntax: str, pixels: tuple[int, int] | None) -> Elements:
    told = {name: text for name, text in texts.items() if text}
    return Elements({"SOPClassUID": sop_class} | told, str(syntax), pixels)


def _read_on(start: bytes, file: BinaryIO, needed: int) -> bytes:
    if needed > _LONGEST_WALK:
        raise _UnknownError
    file.seek(len(start))
    longer = start + file.read(max(needed - len(start), 4 * _START))
    if len(longer) < needed:
        raise _UnknownError
    return longer


def _element(start: bytes, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, value representation (empty in implicit files), where the value begins, and its length."""
    group, number = struct.unpack_from("<HH", start, at)
    if not explicit:
        return group << 16 | number, b"", at + 8, struct.unpack_from("<I", start, at + 4)[0]
    kind = start[at + 4 : at + 6]
    if kind in _SHORT:
        return group << 16 | number, kind, at + 8, struct.unpack_from("<H", start, at + 6)[0]
    if kind in _LONG:
        return group << 16 | number, kind, at + 12, struct.unpack_from("<I", start, at + 8)[0]
    raise _UnknownError


_IMPLICIT = {
    0x0028: b"US",
    "DiffusionBValue": b"FD",
    "MosaicImages": b"US",
}
_DECIMAL = frozenset(
    (
        *("PhotometricInterpretation", "NumberOfFrames", "PixelSpacing", "BurnedInAnnotation"),
        *("RescaleIntercept", "RescaleSlope", "LossyImageCompression"),
    )
)
"""The wanted elements of group 0028 that hold text; the others are unsigned 16-bit numbers."""


def _text(value: bytes, kind: bytes, keyword: str) -> str:
    if keyword == "ModalityLUTSequence":
        return "present"
    if not kind:
        kind = _IMPLICIT.get(keyword) or (b"" if keyword in _DECIMAL else _IMPLICIT.get(TAGS[keyword] >> 16, b""))
    form = _NUMBERS.get(kind)
    if form is not None:
        width = struct.calcsize(form)
        if len(value) % width:
            raise _UnknownError
        return "\\".join(str(number) for (number,) in struct.iter_unpack(form, value))
    if kind in _LONG and kind not in (b"UC", b"UT", b"UR"):
        raise _UnknownError
    if b"\x1b" in value:
        raise _UnknownError  # another character set
    return value.decode("ascii").strip(" \0")


def _parse(file: BinaryIO) -> Elements:
    """The elements as pydicom reads them, whatever the encoding."""
    dataset = read_dataset(file, stop_before_pixels=True, specific_tags=list(TAGS.values()))
    texts = {keyword: element_text(dataset, keyword) for keyword in TAGS}
    texts["ModalityLUTSequence"] = "present" if "ModalityLUTSequence" in dataset else ""
    texts["MosaicImages"] = _private_text(dataset, TAGS["MosaicImages"])
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    media_class = str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    return _elements(texts, media_class, syntax, _pixels(file, syntax))


def _private_text(dataset: Any, tag: int) -> str:
    """A private element's value; one of unknown representation is taken for unsigned 16-bit numbers."""
    try:
        value = dataset[tag].value if tag in dataset else ""
        return str(int.from_bytes(value, "little")) if isinstance(value, bytes) else str(value)
    except UNREADABLE:
        return ""


def _pixels(file: BinaryIO, syntax: str) -> tuple[int, int] | None:
    """Where PixelData lies: pydicom has stopped before its tag."""
    if syntax == DeflatedExplicitVRLittleEndian:
        return None
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    at = file.tell()
    head = file.read(12)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) != (_PIXEL_DATA >> 16, _PIXEL_DATA & 0xFFFF):
        return None
    if head[4:6] in (b"OW", b"OB", b"UN"):
        return at + 12, struct.unpack(f"{order}I", head[8:12])[0]
    return at + 8, struct.unpack(f"{order}I", head[4:8])[0]
