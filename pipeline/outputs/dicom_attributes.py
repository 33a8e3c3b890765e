"""What a written DICOM object copies from its source's header: patient, study and equipment, as text that is valid.

Scanners and anonymisers leave values that the standard does not allow. A value that a reader could take for another one
(a date, a code, a number) is copied as it is or not at all; a name or an ID loses the characters that can not be
written and what is longer than its value representation holds. The source's file stays as it is.
Source: DICOM PS3.3 C.7.1.1, C.7.2.1, C.7.2.2, C.7.5.1; PS3.5 6.2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from pydicom.datadict import dictionary_VM, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from ..dicom_reading import element_text

CHARACTER_SET = "ISO_IR 192"
"""UTF-8: holds the text of every source, whatever its own character set."""
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
)
"""Type 2: may be empty, must be there."""
OPTIONAL = (
    "IssuerOfPatientID",
    "PatientComments",
    "StudyDescription",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
"""Of patient and study, copied where there is something valid to copy."""
OF_THE_IMAGES = (
    "Manufacturer",
    "ManufacturerModelName",
    "InstitutionName",
    "StationName",
    "DeviceSerialNumber",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
"""What acquired the images and what was lost in them, for an object that is itself an image."""
DEIDENTIFICATION = ("PatientIdentityRemoved", "DeidentificationMethod")
"""Copied both or neither: the first without the second is not allowed."""

LONGEST = {"SH": 16, "LO": 64, "ST": 1024, "LT": 10240}
"""Characters that the text representations hold."""
PERSON_NAME_GROUP = 64
"""Characters of one of the three component groups of PN."""
SEXES = ("M", "F", "O")
"""Defined values of PatientSex (0010,0040)."""
_NOT_TEXT = re.compile(r"[\x00-\x1f\x7f-\x9f\\]+")
_CODE_STRING = re.compile(r"[A-Z0-9_ ]{1,16}")
_AGE = re.compile(r"[0-9]{3}[DWMY]")


def patient_and_study(source: Dataset) -> Dataset:
    """A new dataset with the source's patient and study, in UTF-8; those of REQUIRED are always there.

    Args:
        source: the header of one instance.
    """
    copied = _copied(source, OPTIONAL)
    copied.SpecificCharacterSet = CHARACTER_SET
    for keyword in REQUIRED:
        setattr(copied, keyword, valid_text(source, keyword))
    if copied.PatientSex not in SEXES:
        copied.PatientSex = ""
    removed = _copied(source, DEIDENTIFICATION)
    if len(removed) == len(DEIDENTIFICATION):
        copied.update(removed)
    return copied


def of_the_images(source: Dataset) -> Dataset:
    """A new dataset with the source's equipment and lossy compression, as far as it tells them."""
    return _copied(source, OF_THE_IMAGES)


def _copied(source: Dataset, keywords: Sequence[str]) -> Dataset:
    copied = Dataset()
    for keyword in keywords:
        text = valid_text(source, keyword)
        if text:
            setattr(copied, keyword, text.split("\\"))
    return copied


def valid_text(source: Dataset, keyword: str) -> str:
    """The value of an element of text, date, time, code, age or decimal, valid for its VR; else empty.

    Several values are told apart by a backslash.
    """
    text = raw_text(source, keyword)
    kind = dictionary_VR(keyword)
    if kind == "PN":
        return "=".join(_cleaned(group, PERSON_NAME_GROUP) for group in text.split("=")[:3])
    if kind in LONGEST:
        return _cleaned(text, LONGEST[kind])
    parts = [text] if dictionary_VM(keyword) == "1" else text.split("\\")
    return text if all(_is_valid(part.strip(), kind) for part in parts) else ""


def raw_text(source: Dataset, keyword: str) -> str:
    """The value as text, without the padding of its ends; empty where it is missing or can not be decoded."""
    return element_text(source, keyword).encode("utf-8", "replace").decode("utf-8")


def _cleaned(text: str, longest: int) -> str:
    return _NOT_TEXT.sub(" ", text).strip()[:longest].strip()


def _is_valid(text: str, kind: str) -> bool:
    try:
        if kind == "CS":
            return _CODE_STRING.fullmatch(text) is not None
        if kind == "AS":
            return _AGE.fullmatch(text) is not None
        if kind == "DA":
            return len(text) == 8 and DA(text) is not None
        if kind == "TM":
            return bool(text) and TM(text) is not None
        return kind == "DS" and len(text) <= 16 and math.isfinite(float(text))
    except (OverflowError, TypeError, ValueError):
        return False
