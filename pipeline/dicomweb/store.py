"""Files to a DICOMweb server, each with the server's word for it (STOW-RS, PS3.18 section 10.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom
import requests

from ..dicom_reading import UNREADABLE, quiet_dicom
from ..errors import PipelineError
from ..progress import Report, silent
from .address import StudyAddress
from .server import DICOMwebClient, Server

MAX_ANSWER_BYTES = 64 * 2**20
DUPLICATES = (0x0111, 0xB00E)
"""The server has an instance of this UID already: that of an earlier try, because our UIDs are never used twice.

The second is what Microsoft's server says, which never replaces one.
"""
REASONS = {
    0x0110: "processing failure",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xA700: "out of resources",
    0xA900: "does not fit its SOP class",
    0xB000: "elements coerced",
    0xB006: "elements discarded",
    0xB007: "does not fit its SOP class",
    0xC000: "not understood",
    0xC122: "transfer syntax not supported",
    0xC124: "not authorised",
}
"""FailureReason (0008,1197) and WarningReason (0008,1196), PS3.18 annex I.2 and PS3.4 annex B.2.3."""
FAMILIES = {0xA700: 0xFF00, 0xA900: 0xFF00, 0xC000: 0xF000}
"""First code -> mask of those that mean the same."""


@dataclass(frozen=True)
class Stored:
    """What a server took.

    Attributes:
        instances: how many it holds now, of those that were given.
        warnings: a code and its meaning for each with which the server did not take it as it was.
    """

    instances: int
    warnings: tuple[str, ...] = ()


def store_instances(address: StudyAddress, files: Sequence[Path], *, report: Report = silent) -> Stored:
    """Store DICOM files in the study that they belong to, one after the other. Storing again does no harm.

    Args:
        address: the study; a series in it says nothing here.
        files: of this study.
        report: told of each file.
    Returns:
        What the server says that it holds.
    Raises:
        UsageError: the server wants other credentials or is no DICOMweb.
        PipelineError: a file is none of this study, or the server can not be reached or understood, or refuses one;
            the others are stored first, and the line holds the server's codes.
    """
    server = Server(address, MAX_ANSWER_BYTES)
    warnings: list[str] = []
    refusals: list[str] = []
    for index, file in enumerate(files):
        failure, warning = _store(server, _read(file, address))
        if failure is not None:
            refusals.append(f"{file.name} {failure}")
        elif warning is not None:
            warnings.append(f"{file.name} {warning}")
        report(None, (index + 1) / len(files))
    if refusals:
        what = f"refuses {len(refusals)} of {len(files)} files: {', '.join(refusals)}"
        raise server.error(what, "Ask who runs it for what the codes mean there, and store again.")
    return Stored(len(files), tuple(warnings))


def _read(file: Path, address: StudyAddress) -> pydicom.Dataset:
    """A file of the study."""
    try:
        with quiet_dicom():
            dataset = pydicom.dcmread(file)
            study_uid = dataset.StudyInstanceUID
    except UNREADABLE as error:
        raise PipelineError(f"{file.name}: can not be read as DICOM ({type(error).__name__}). Predict again.") from None
    if study_uid != address.study_uid:
        raise PipelineError(f"{file.name}: is of another study than {address}. Store it with that study's address.")
    return dataset


def _store(server: Server, dataset: pydicom.Dataset) -> tuple[str | None, str | None]:
    """Why the server refuses an instance, and with what warning it takes it; None for neither."""

    def question(client: DICOMwebClient) -> tuple[str | None, str | None]:
        try:
            answer = client.store_instances([dataset], study_instance_uid=server.address.study_uid)
        except requests.HTTPError as error:
            if error.response.status_code != requests.codes.conflict:
                raise
            answer = pydicom.Dataset.from_json(error.response.json())
        return _judge(answer, dataset.SOPInstanceUID)

    return server.ask(question)


def _judge(answer: pydicom.Dataset, instance_uid: str) -> tuple[str | None, str | None]:
    """Failure and warning of an instance by the store's answer, PS3.18 annex I.2."""
    for item in answer.get("FailedSOPSequence") or ():
        if item.ReferencedSOPInstanceUID == instance_uid:
            code = item.get("FailureReason")
            return None if code in DUPLICATES else _reason(code), None
    for item in answer.get("ReferencedSOPSequence") or ():
        if item.ReferencedSOPInstanceUID == instance_uid:
            code = item.get("WarningReason")
            return None, None if code is None else _reason(code)
    return "(the server does not say that it has it)", None


def _reason(code: int | None) -> str:
    """A code in hexadecimal, and what it means where the standard says so."""
    if code is None:
        return "(no reason)"
    family = next((first for first, mask in FAMILIES.items() if code & mask == first), code)
    meaning = REASONS.get(code) or REASONS.get(family)
    return f"({code:04X}H{f' {meaning}' if meaning else ''})"
