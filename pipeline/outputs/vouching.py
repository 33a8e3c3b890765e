"""What a report says of the files beside it, so that a later run can tell whether they are still whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import PipelineError


def file_facts(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """File name -> {"bytes", "sha256"} of files as they are on the disk.

    Raises:
        PipelineError: one can not be read.
    """
    return {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}


def whole_report(
    folder: Path, weights_sha256: str, formats: Sequence[str] = (), names: Sequence[str] = ()
) -> dict[str, Any] | None:
    """The folder's report.json, where these weights made every file that it names and each is as it was.

    Args:
        folder: OUT/<case>.
        weights_sha256: of the weights that would run now.
        formats: those asked for; empty for what is usual for such an input.
        names: of further files asked for.
    Returns:
        None where there is no report, it is no whole one or of other weights, a file is missing or changed, or a
        format or another file was not written.
    """
    try:
        report: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        if not answers(report, weights_sha256, formats, names):
            return None
        whole = all(_is_as_it_was(folder / name, facts) for name, facts in report["files"].items())
        return report if whole else None
    except (OSError, ValueError, KeyError, TypeError, PipelineError):
        return None


def answers(
    report: Mapping[str, Any], weights_sha256: str, formats: Sequence[str] = (), names: Sequence[str] = ()
) -> bool:
    """Whether these weights made what the report names, and all that is asked for is among it.

    Arguments are as `whole_report` takes them; the files are not looked at.

    Raises:
        KeyError, TypeError: it is no whole report.
    """
    if report["bundle"]["weights_sha256"] != weights_sha256 or set(report["outputs"]) != set(report["files"]):
        return False
    if not set(formats or report["formats"]["usual"]) <= set(report["formats"]["written"]):
        return False
    return set(names) <= set(report["files"])


def _is_as_it_was(path: Path, facts: dict[str, Any]) -> bool:
    """The size is looked at first: it tells a file that was cut short without reading the others."""
    return path.stat().st_size == facts["bytes"] > 0 and _sha256(path) == facts["sha256"]


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PipelineError(
            f"{path}: was written and can not be read again ({error.strerror or type(error).__name__}). "
            "Run again, and if this comes again choose a folder on another disk with -o."
        ) from None
