"""What MLflow did not get while a training ran, sent later."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ..errors import PipelineError, UsageError
from ..lock import locked
from ..progress import Report
from .delivery import deliver
from .outbox import RECORDS, Outbox, Record, milliseconds, unsent
from .store import shown_uri
from .tracking import TRACKING, open_store

WAIT_S = 120.0
"""How long a store may take for one record until it counts as away."""


def send_rest(run_folder: Path, report: Report) -> None:
    """Send the records that are kept in a run folder, or in those of its folds.

    Raises:
        UsageError: no training was tracked there, or the store does not have its run.
        PipelineError: the store is still away; nothing is lost.
        FolderInUseError: the training still runs.
    """
    kept = sorted(path.parent for path in run_folder.glob(f"**/{TRACKING}/*/{RECORDS}"))
    if not kept:
        raise UsageError(f"{run_folder} holds no tracked training. Pass a folder that `scanloom train -o` wrote.")
    for folder in kept:
        with locked(folder.parent.parent):
            count = _send(folder)
        if count:
            report(f"sent {count} records of run {folder.name} to {shown_uri()}")
        else:
            report(f"run {folder.name}: all was sent before")


def _send(folder: Path) -> int:
    """Send what is left of one run, and that it was KILLED where no record says how it ended."""
    client = open_store(folder.name)
    count = unsent(folder)
    outbox = Outbox(folder, partial(deliver, client, folder.name, folder.parent.parent.absolute()))
    if not _has_ended(outbox.records()):
        outbox.put({"kind": "end", "status": "KILLED", "time": milliseconds()})
        count += 1
    left = outbox.close(WAIT_S)
    if left:
        raise PipelineError(
            f"MLflow store {shown_uri()} took {count - left} of {count} records and does not answer. "
            "The rest is kept; run the same command again."
        )
    return count


def _has_ended(records: Sequence[Record]) -> bool:
    kinds = [record["kind"] for record in records if record["kind"] in ("reopen", "end")]
    return kinds[-1:] == ["end"]
