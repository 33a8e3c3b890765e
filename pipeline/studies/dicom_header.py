"""One DICOM image plane, reduced to what grouping, geometry and pixels need; read without its pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.uid import UID

from .description import safe_description
from .dicom_elements import Elements, read_elements

ENHANCED = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}"
    for end in ("2.1", "2.2", "4.1", "4.3", "4.4", "128.1", "130", "6.2", "7.4", "7.2", "7.3", "7.1")
)
"""SOP classes with functional groups: enhanced and legacy converted CT, MR, PET; multi-frame captures."""

VARIES = (
    "StackID",
    "ImageType",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "DiffusionBValue",
    "DiffusionDirection",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "ConvolutionKernel",
    "SequenceName",
    "AcquisitionNumber",
    "AcquisitionDateTime",
    "AcquisitionTime",
    "ContentTime",
)
"""What can tell images of one place apart, the most telling first."""

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

_INTEGERS = ("SeriesNumber", "AcquisitionNumber", "InstanceNumber", "EchoNumbers")
_DECIMALS = ("SliceThickness", "SpacingBetweenSlices", "KVP", "EchoTime", "InversionTime", "TriggerTime")
_DATES = ("StudyDate", "AcquisitionDate", "PatientBirthDate")

_LOSSY_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2.4.{end}" for end in ("50", "51", "81", "91", "93", "112", "203", "205", "100", "102")
)


@dataclass(frozen=True)
class PixelFormat:
    """How a file stores the pixels of a plane.

    Attributes:
        allocated: bits a pixel takes.
        stored: bits of them that count.
        high: the highest of those.
        signed: whether they are two's complement.
        at: where PixelData's value begins in the file; None where it is not told.
        length: of that value in bytes; None where it is not told.
    """

    allocated: int
    stored: int
    high: int
    signed: bool
    at: int | None
    length: int | None


@dataclass(frozen=True)
class Header:
    """What one DICOM file says about one image plane; mm, places in LPS. Its repr tells nothing of the patient.

    Attributes:
        patient: hash of what tells two patients apart.
        birth_date: hash of PatientBirthDate; empty where it is absent or no date.
        frame: of a multi-frame file, from 0; None where the file is a single-frame one.
        frames: that the file holds; 0 where that is nonsense.
        slope: RescaleSlope; None where it is absent, NaN where it is nonsense. The intercept alike.
        padding: PixelPaddingValue as stored.
        nonsense: keywords whose value is there and is none; what places the plane is not among them.
        varies: keyword of VARIES -> value, for those that are there.
    """

    path: Path = field(repr=False)
    sop_class: str
    sop_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    patient: str = field(repr=False)
    birth_date: str = field(repr=False)
    modality: str
    series_number: int | None
    instance_number: int | None
    description: str
    rows: int
    columns: int
    pixel_spacing: np.ndarray | None
    orientation: np.ndarray | None
    position: np.ndarray | None
    thickness: float | None
    samples: int
    photometric: str
    frame: int | None
    frames: int
    pixels: PixelFormat
    slope: float | None
    intercept: float | None
    padding: int | None
    lookup: bool
    mosaic: bool
    lossy: bool
    burned_in: bool
    syntax: str
    nonsense: tuple[str, ...]
    varies: Mapping[str, str] = field(repr=False)

    @property
    def is_multi_frame(self) -> bool:
        """Whether the geometry of its frames is in functional groups, or nowhere."""
        return self.frames != 1 or self.sop_class in ENHANCED


def read_headers(path: Path) -> list[Header]:
    """The header of each image plane in a file; none for a DICOM object that is no scan (report, segmentation, …).

    Args:
        path: a file that looks like DICOM, with or without the preamble of a Part 10 file.
    Raises:
        UNREADABLE: the file breaks off or is no DICOM.
    """
    elements = read_elements(path)
    sop_class = elements["SOPClassUID"]
    if sop_class.startswith(_NOT_SCANS):
        return []
    if not _integer(elements["Rows"]):
        if not sop_class or "Image Storage" in UID(sop_class).name:
            raise ValueError("an image without Rows")
        return []
    header = _header(path, elements)
    if not header.is_multi_frame:
        return [header]
    from .dicom_frames import frame_headers

    return frame_headers(header)


def _header(path: Path, elements: Elements) -> Header:
    return Header(
        path=path,
        sop_class=elements["SOPClassUID"],
        sop_uid=elements["SOPInstanceUID"],
        study_uid=elements["StudyInstanceUID"],
        series_uid=elements["SeriesInstanceUID"],
        frame_of_reference=elements["FrameOfReferenceUID"],
        patient=_hashed(_patient_key(elements)),
        birth_date=_birth_date(elements),
        modality=_modality(elements),
        series_number=_integer(elements["SeriesNumber"]),
        instance_number=_integer(elements["InstanceNumber"]),
        description=safe_description(elements["SeriesDescription"], [elements[keyword] for keyword in _PATIENT]),
        rows=_integer(elements["Rows"]) or 0,
        columns=_integer(elements["Columns"]) or 0,
        pixel_spacing=numbers(elements["PixelSpacing"], 2),
        orientation=numbers(elements["ImageOrientationPatient"], 6),
        position=numbers(elements["ImagePositionPatient"], 3),
        thickness=number(elements["SliceThickness"]),
        samples=_integer(elements["SamplesPerPixel"]) or 1,
        photometric=elements["PhotometricInterpretation"].upper(),
        frame=None,
        frames=_frames(elements["NumberOfFrames"]),
        pixels=_pixel_format(elements),
        slope=rescale_number(elements["RescaleSlope"]),
        intercept=rescale_number(elements["RescaleIntercept"]),
        padding=_integer(elements["PixelPaddingValue"]),
        lookup=bool(elements["ModalityLUTSequence"]),
        mosaic="MOSAIC" in elements["ImageType"].upper() or (_integer(elements["MosaicImages"]) or 0) > 1,
        lossy=elements["LossyImageCompression"] == "01" or elements.syntax in _LOSSY_SYNTAXES,
        burned_in=elements["BurnedInAnnotation"].upper() == "YES",
        syntax=elements.syntax,
        nonsense=_nonsense(elements),
        varies={keyword: elements[keyword] for keyword in VARIES if elements[keyword]},
    )


def numbers(text: str, count: int) -> np.ndarray | None:
    """(count,) finite floats, or None where the text is empty, of another length or nonsense."""
    try:
        values = np.array([float(part) for part in text.split("\\")])
    except ValueError:
        return None
    return values if len(values) == count and np.all(np.isfinite(values)) else None


def number(text: str) -> float | None:
    """The one finite number that the text is."""
    values = numbers(text, 1)
    return None if values is None else float(values[0])


def rescale_number(text: str) -> float | None:
    """As `number`, but NaN where the text is there and is none: a value that can not be guessed."""
    if not text:
        return None
    value = number(text)
    return float("nan") if value is None else value


def _integer(text: str) -> int | None:
    value = number(text) if text else None
    return int(value) if value is not None and value == int(value) else None


def _nonsense(elements: Elements) -> tuple[str, ...]:
    """Keywords of numbers and dates whose text is neither."""
    whole = [keyword for keyword in _INTEGERS if elements[keyword] and _integer(elements[keyword]) is None]
    broken = [keyword for keyword in _DECIMALS if elements[keyword] and number(elements[keyword]) is None]
    return (*whole, *broken, *(keyword for keyword in _DATES if not _is_date(elements[keyword])))


def _is_date(text: str) -> bool:
    """Whether it is a DA (PS3.5 table 6.2-1), with dots as ACR-NEMA wrote it, or empty."""
    digits = text.replace(".", "")
    if not digits:
        return True
    return len(digits) == 8 and digits.isdigit() and digits[4:6] <= "12" and digits[6:] <= "31"


def _frames(text: str) -> int:
    """NumberOfFrames, 1 where it is absent; 0 where it is there but nonsense."""
    return (_integer(text) or 0) if text else 1


def _pixel_format(elements: Elements) -> PixelFormat:
    allocated = _integer(elements["BitsAllocated"]) or 0
    stored = _integer(elements["BitsStored"]) or allocated
    high = _integer(elements["HighBit"])
    at, length = elements.pixels or (None, None)
    return PixelFormat(
        allocated=allocated,
        stored=stored,
        high=stored - 1 if high is None else high,
        signed=elements["PixelRepresentation"] == "1",
        at=at,
        length=None if length == 0xFFFFFFFF else length,
    )


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _birth_date(elements: Elements) -> str:
    date = elements["PatientBirthDate"]
    return _hashed(date) if date and _is_date(date) else ""


def _modality(elements: Elements) -> str:
    """Modality, "OT" where it is not one of DICOM's; it is shown and names folders, so it may be no free text."""
    modality = elements["Modality"].upper()
    return modality if modality in _MODALITIES else "OT"


def _patient_key(elements: Elements) -> str:
    """What tells two patients apart: the ID; the name where there is none (its spelling varies with character sets)."""
    return elements["PatientID"] or elements["PatientName"]
