"""A case's DICOM objects go back to the server that its study came from, once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..atomic import write_whole
from ..bundle import file_sha256
from ..dicomweb import StudyAddress
from ..errors import PipelineError

RECEIPT = "stored.json"
"""In the case's folder: which run stored it where, and what; nothing while it does."""


def store_case(folder: Path, names: Sequence[str], address: StudyAddress, run: str) -> list[dict[str, str]]:
    """Store the DICOM objects among a case's files, unless the receipt says that just these are there already.

    Args:
        folder: OUT/<case>.
        names: of its files.
        address: of its study.
        run: of the job.
    Returns:
        What a user should know of it, as a report's warnings.
    Raises:
        PipelineError: the server did not take them all; or there is nothing to store.
    """
    files = [folder / name for name in names if name.endswith(".dcm")]
    if not files:
        raise PipelineError(f"case {folder.name}: no DICOM object was written, so --store has nothing to send.")
    sums = {file.name: file_sha256(file).hex() for file in files}
    earlier = _receipt_of(folder)
    if (earlier.get("service"), earlier.get("files")) == (address.service, sums):
        return []
    from ..dicomweb import store_instances

    _write_receipt(folder, run, address, {})
    stored = store_instances(address, files)
    _write_receipt(folder, run, address, sums)
    return [{"code": "stored", "message": warning} for warning in stored.warnings]


def is_being_stored(folder: Path, run: str) -> bool:
    """Whether an earlier attempt of the same run began to store the case: what is made anew would be there twice."""
    return _receipt_of(folder).get("run") == run


def _write_receipt(folder: Path, run: str, address: StudyAddress, files: Mapping[str, str]) -> None:
    receipt = {"run": run, "service": address.service, "files": files}
    write_whole(folder / RECEIPT, (json.dumps(receipt, indent=2) + "\n").encode())


def _receipt_of(folder: Path) -> dict[str, Any]:
    """The receipt that is there; empty where there is none that can be read."""
    try:
        receipt = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return receipt if isinstance(receipt, dict) else {}
