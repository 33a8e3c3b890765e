"""A case's DICOM objects go back to the server that its study came from, once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..atomic import write_whole
from ..bundle import file_sha256
from ..dicomweb import StudyAddress
from ..errors import PipelineError

RECEIPT = "stored.json"
"""In the case's folder: what was stored, and where."""


def store_case(folder: Path, names: Sequence[str], address: StudyAddress) -> list[dict[str, str]]:
    """Store the DICOM objects among a case's files, unless the receipt says that just these are there already.

    Args:
        folder: OUT/<case>.
        names: of its files.
        address: of its study.
    Returns:
        What a user should know of it, as a report's warnings.
    Raises:
        PipelineError: the server did not take them all; or there is nothing to store.
    """
    files = [folder / name for name in names if name.endswith(".dcm")]
    if not files:
        raise PipelineError(f"case {folder.name}: no DICOM object was written, so --store has nothing to send.")
    receipt = {"service": address.service, "files": {file.name: file_sha256(file).hex() for file in files}}
    if _receipt_of(folder) == receipt:
        return []
    from ..dicomweb import store_instances

    stored = store_instances(address, files)
    write_whole(folder / RECEIPT, (json.dumps(receipt, indent=2) + "\n").encode())
    return [{"code": "stored", "message": warning} for warning in stored.warnings]


def _receipt_of(folder: Path) -> object:
    """The receipt of an earlier run; None where there is none that can be read."""
    try:
        receipt: object = json.loads((folder / RECEIPT).read_text(encoding="utf-8"))
        return receipt
    except (OSError, ValueError):
        return None
