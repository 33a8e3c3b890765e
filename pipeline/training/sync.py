"""What MLflow did not get while a training ran, sent later."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..errors import PipelineError, UsageError
from ..lock import locked
from ..progress import Report
from .delivery import deliver
from .outbox import RECORDS, Outbox, unsent
from .tracking import TRACKING, open_store, shown_uri

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
    with locked(run_folder):
        for folder in kept:
            count = unsent(folder)
            if count:
                _send(folder, count)
                report(f"sent {count} records of run {folder.name} to {shown_uri()}")
            else:
                report(f"run {folder.name}: all was sent before")


def _send(folder: Path, count: int) -> None:
    client = open_store(folder.name)
    outbox = Outbox(folder, partial(deliver, client, folder.name, folder.parent.parent.absolute()))
    left = outbox.close(WAIT_S)
    if left:
        raise PipelineError(
            f"MLflow store {shown_uri()} took {count - left} of {count} records and does not answer. "
            "The rest is kept; run the same command again."
        )
