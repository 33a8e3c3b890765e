"""A study from a DICOMweb server into a folder, whole or not at all.

QIDO-RS says what there is (PS3.18 section 10.6), WADO-RS gives it (10.4).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydicom

from ..atomic import atomic_folder
from ..dicom_reading import UNREADABLE, quiet_dicom
from ..errors import PipelineError, StudyError
from ..progress import Report, silent
from .address import StudyAddress, is_uid
from .server import DICOMwebClient, Server
from .session import always

MAX_STUDY_BYTES = 32 * 2**30
"""A study of more is refused; the largest CT of a whole body is a tenth of it."""
MAX_LISTED = 100_000
"""Series of a study, or instances of a series; more are refused."""
INSTANCE_UID, MODALITY, SERIES_UID, INSTANCES_OF_SERIES = "00080018", "00080060", "0020000E", "00201209"
ORIGINAL = (("application/dicom", "*"),)
"""The transfer syntax in which the server holds an instance, PS3.18 section 8.7.3.5.2."""
AGAIN = "Try again when the study is complete there, or ask who runs it."


Found = TypeVar("Found")


@dataclass(frozen=True)
class _Series:
    """A series as the server lists it; None is what it does not say."""

    modality: str | None
    instances: int | None


def fetch_study(
    address: StudyAddress,
    folder: Path,
    *,
    modality: str | None = None,
    report: Report = silent,
    max_bytes: int = MAX_STUDY_BYTES,
    go_on: Callable[[], object] = always,
) -> Path:
    """Fetch a study, one instance after the other, in the transfer syntaxes in which the server holds them.

    The files are for their owner alone, and are named by hashes. Memory holds one instance at a time.

    Args:
        address: which study, or which series of it.
        folder: where the files go; not there yet, or empty. After an error it is as it was.
        modality: DICOM Modality (0008,0060); of a study, only the series that have it. None takes all.
        report: told of the study, then after each instance.
        max_bytes: refuse more.
        go_on: called again and again; what it raises ends the fetching.
    Returns:
        The folder.
    Raises:
        UsageError: the server wants other credentials or is no DICOMweb, or the folder can not be made.
        StudyError: the server has no such study, none of this modality, or too much of it.
        PipelineError: the server can not be reached, trusted or understood, or does not give what it lists; or there is
            no room for it.
    """
    server = Server(address, max_bytes, go_on)
    chosen = _choose(server, modality)
    listed = [(uid, instance) for uid, series in chosen.items() for instance in _instances(server, uid, series)]
    report(f"{address}: fetching {len(listed)} instances", 0.0)
    with atomic_folder(folder) as part:
        part.mkdir(mode=0o700, parents=True)
        for index, (series_uid, instance_uid) in enumerate(listed):
            digest = hashlib.sha256(f"{series_uid}/{instance_uid}".encode()).hexdigest()
            _write(server, part / f"{digest[:32]}.dcm", _instance(server, series_uid, instance_uid))
            report(None, (index + 1) / len(listed))
    return folder


def _choose(server: Server, modality: str | None) -> dict[str, _Series]:
    """The series that are meant, by UID."""
    address = server.address

    def page(client: DICOMwebClient, offset: int) -> dict[str, _Series]:
        entries = client.search_for_series(address.study_uid, fields=[INSTANCES_OF_SERIES], offset=offset)
        return {_uid(each, SERIES_UID): _series(each) for each in entries}

    found = _every(server, page)
    if not found:
        raise server.error("has no such study", "Check the UID after /studies.", StudyError)
    if address.series_uid:
        chosen = {uid: each for uid, each in found.items() if uid == address.series_uid}
        missing, remedy = "has no such series in this study", "Check the UID after /series."
    else:
        chosen = {uid: each for uid, each in found.items() if modality is None or each.modality in (None, modality)}
        missing, remedy = f"has no series of modality {modality} in this study", "Choose another study or bundle."
    if not chosen:
        raise server.error(missing, remedy, StudyError)
    return chosen


def _instances(server: Server, series_uid: str, series: _Series) -> list[str]:
    """SOPInstanceUIDs (0008,0018) of a series, as many as the server says that it has."""

    def page(client: DICOMwebClient, offset: int) -> dict[str, None]:
        entries = client.search_for_instances(server.address.study_uid, series_uid, offset=offset)
        return {_uid(each, INSTANCE_UID): None for each in entries}

    found = _every(server, page)
    if len(found) < (1 if series.instances is None else series.instances):
        raise server.error(f"lists {len(found)} of the {series.instances or 'some'} instances of a series", AGAIN)
    return list(found)


def _every(server: Server, page: Callable[[DICOMwebClient, int], dict[str, Found]]) -> dict[str, Found]:
    """All that a search finds, by UID; asks on until nothing new comes, because servers answer in pages."""
    found: dict[str, Found] = {}

    def next_page(client: DICOMwebClient) -> dict[str, Found]:
        return page(client, len(found))

    while new := {uid: what for uid, what in server.ask(next_page).items() if uid not in found}:
        found |= new
        if len(found) > MAX_LISTED:
            raise server.error(f"lists more than {MAX_LISTED:,} series or instances", AGAIN, StudyError)
    return found


def _instance(server: Server, series_uid: str, instance_uid: str) -> pydicom.Dataset:
    """One instance, which is the one that was asked for and nobody else's."""
    study_uid = server.address.study_uid

    def question(client: DICOMwebClient) -> tuple[pydicom.Dataset, bool]:
        dataset = client.retrieve_instance(study_uid, series_uid, instance_uid, media_types=ORIGINAL)
        came = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        return dataset, came == (study_uid, series_uid, instance_uid)

    try:
        dataset, is_it = server.ask(question)
    except StudyError as error:
        if error.code == "too-large":
            raise
        raise server.error("does not give an instance that it lists", AGAIN) from None
    if not is_it:
        raise server.error("gives another instance than the one asked for", "Do not use it; tell who runs it.")
    return dataset


def _write(server: Server, file: Path, dataset: pydicom.Dataset) -> None:
    """Write an instance for its owner alone."""
    try:
        with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as opened, quiet_dicom():
            pydicom.dcmwrite(opened, dataset, enforce_file_format=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise PipelineError(
            f"{server.address}: can not be written to {file.parent.parent} ({reason}). "
            "Free space there, or name another folder in TMPDIR."
        ) from None
    except UNREADABLE as error:
        raise server.error(f"gives an instance that is no DICOM file ({type(error).__name__})", AGAIN) from None


def _series(entry: Mapping[str, Any]) -> _Series:
    count = _value(entry, INSTANCES_OF_SERIES)
    return _Series(_value(entry, MODALITY), None if count is None else int(count))


def _uid(entry: Mapping[str, Any], tag: str) -> str:
    """A UID of DICOM JSON; ValueError where it is none, so that nothing else gets into a URL."""
    uid = _value(entry, tag)
    if not isinstance(uid, str) or not is_uid(uid):
        raise ValueError("no valid UID")
    return uid


def _value(entry: Mapping[str, Any], tag: str) -> Any:
    """First value of an element of DICOM JSON, PS3.18 annex F.2; None where it has none."""
    values = entry.get(tag, {}).get("Value") or [None]
    return values[0]
