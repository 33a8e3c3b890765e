"""One DICOM image's header, reduced to what grouping and geometry need; read without its pixels."""

from __future__ import annotations

import hashlib
import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError

from .description import safe_description

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
    OverflowError,
    RecursionError,
    RuntimeError,
    struct.error,
    zlib.error,
    BytesLengthException,
    InvalidDicomError,
)
"""What pydicom and its decoders raise on broken input."""

_NOT_SCANS = (
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, segmentations, registrations, fiducials
    "1.2.840.10008.5.1.4.1.1.481",  # RT objects
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.30",  # parametric maps
    "1.2.840.10008.5.1.4.1.1.104",  # encapsulated documents
    "1.2.840.10008.5.1.4.1.1.88",  # structured reports
    "1.2.840.10008.5.1.4.1.1.4.2",  # spectroscopy
)

_MODALITIES = frozenset(
    ["CT", "MR", "PT", "NM", "CR", "DX", "DR", "MG", "US", "XA", "XC", "RF", "OP", "OPT", "SC", "OT"]
)

_PATIENT = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "OtherPatientNames",
    "OtherPatientIDs",
    "PatientBirthName",
    "PatientMotherBirthName",
)

_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "Modality",
    "SeriesNumber",
    "InstanceNumber",
    "SeriesDescription",
    "SpecificCharacterSet",
    "ImageType",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "SliceThickness",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "LossyImageCompression",
    *_PATIENT,
]


@dataclass(frozen=True)
class Header:
    """What one DICOM file says about its image; lengths in mm, places in LPS. Its repr tells nothing of the patient."""

    path: Path = field(repr=False)
    sop_class: str
    sop_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    patient: str = field(repr=False)
    modality: str
    series_number: int | None
    instance_number: int | None
    description: str
    image_type: tuple[str, ...]
    rows: int
    columns: int
    pixel_spacing: np.ndarray | None
    orientation: np.ndarray | None
    position: np.ndarray | None
    thickness: float | None
    samples: int
    photometric: str
    frames: int
    bits_allocated: int
    has_rescale: bool
    lossy: bool
    syntax: str


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Within it pydicom warns and logs nothing: its messages quote values, which may be the patient's."""
    logger = logging.getLogger("pydicom")
    disabled = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = disabled


def read_header(path: Path) -> Header | None:
    """The header of an image, or None for a DICOM object that is no scan (report, segmentation, DICOMDIR, …).

    Args:
        path: a file that looks like DICOM, with or without the preamble of a Part 10 file.
    Raises:
        UNREADABLE: the file breaks off or is no DICOM.
    """
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        sop_class = _text(dataset, "SOPClassUID") or str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
        if sop_class.startswith(_NOT_SCANS):
            return None
        if not _integer(dataset, "Rows"):
            if not sop_class or "Image Storage" in pydicom.uid.UID(sop_class).name:
                raise ValueError("an image without Rows")
            return None
        return _header(path, dataset, sop_class)


def _header(path: Path, dataset: Any, sop_class: str) -> Header:
    return Header(
        path=path,
        sop_class=sop_class,
        sop_uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        frame_of_reference=_text(dataset, "FrameOfReferenceUID"),
        patient=hashlib.sha256(_patient_key(dataset).encode(errors="replace")).hexdigest(),
        modality=_modality(dataset),
        series_number=_integer(dataset, "SeriesNumber"),
        instance_number=_integer(dataset, "InstanceNumber"),
        description=safe_description(
            _text(dataset, "SeriesDescription"), [_text(dataset, keyword) for keyword in _PATIENT]
        ),
        image_type=tuple(_text(dataset, "ImageType").upper().split("\\")),
        rows=_integer(dataset, "Rows") or 0,
        columns=_integer(dataset, "Columns") or 0,
        pixel_spacing=_numbers(dataset, "PixelSpacing", 2),
        orientation=_numbers(dataset, "ImageOrientationPatient", 6),
        position=_numbers(dataset, "ImagePositionPatient", 3),
        thickness=_number(dataset, "SliceThickness"),
        samples=_integer(dataset, "SamplesPerPixel") or 1,
        photometric=_text(dataset, "PhotometricInterpretation").upper(),
        frames=_frames(dataset),
        bits_allocated=_integer(dataset, "BitsAllocated") or 0,
        has_rescale="RescaleSlope" in dataset or "RescaleIntercept" in dataset,
        lossy=_text(dataset, "LossyImageCompression") == "01",
        syntax=str(dataset.file_meta.get("TransferSyntaxUID", "")),
    )


def _text(dataset: Any, keyword: str) -> str:
    """The element's text, values joined by a backslash; empty where it is absent or can not be decoded."""
    try:
        value = dataset.get(keyword)
        parts = [value] if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__") else list(value)
        return "" if value is None else "\\".join(str(part) for part in parts).strip(" \0")
    except UNREADABLE:
        return ""


def _numbers(dataset: Any, keyword: str, count: int) -> np.ndarray | None:
    """(count,) finite floats, or None where the element is absent, of another length or nonsense."""
    try:
        values = np.array([float(part) for part in _text(dataset, keyword).split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.all(np.isfinite(values)) else None


def _number(dataset: Any, keyword: str) -> float | None:
    values = _numbers(dataset, keyword, 1)
    return None if values is None else float(values[0])


def _integer(dataset: Any, keyword: str) -> int | None:
    value = _number(dataset, keyword)
    return int(value) if value is not None and value == int(value) else None


def _frames(dataset: Any) -> int:
    """NumberOfFrames, 1 where it is absent; 0 where it is there but nonsense."""
    return (_integer(dataset, "NumberOfFrames") or 0) if _text(dataset, "NumberOfFrames") else 1


def _modality(dataset: Any) -> str:
    """Modality, "OT" where it is not one of DICOM's; it is shown and names folders, so it may be no free text."""
    modality = _text(dataset, "Modality").upper()
    return modality if modality in _MODALITIES else "OT"


def _patient_key(dataset: Any) -> str:
    """What tells two patients apart: the ID; the name where there is none (its spelling varies with character sets)."""
    return _text(dataset, "PatientID") or _text(dataset, "PatientName")


def _patient_texts(dataset: Any) -> list[str]:
    return [_text(dataset, keyword) for keyword in _PATIENT]
