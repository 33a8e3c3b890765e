"""Runs whose process was killed with -9 and could not say so: found and marked by the next training."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from ..lock import Owner

if TYPE_CHECKING:
    from mlflow import MlflowClient

PROCESS = "scanloom.process"
"""Tag of a run: which process writes to it, as hash of the machine's name, number and start; names nobody."""


def this_process() -> str:
    """This process as a value of the tag."""
    process = psutil.Process()
    return f"{_machine()}:{process.pid}:{process.create_time():.2f}"


def mark_lost_runs(client: MlflowClient, experiment: str, of_folder: Collection[str] = ()) -> list[str]:
    """Give the experiment's runs that are RUNNING, but whose process on this machine is gone, the status KILLED.

    Args:
        client: of the store.
        experiment: its name.
        of_folder: runs of a run folder that this process holds: nobody else writes to them, whatever their machine.
    Returns:
        Their IDs. Other runs of other machines can not be judged, and are left alone.
    """
    found = client.get_experiment_by_name(experiment)
    running = client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'") if found else []
    lost = [
        run.info.run_id for run in running if run.info.run_id in of_folder or _is_gone(run.data.tags.get(PROCESS, ""))
    ]
    for run_id in lost:
        client.set_tag(run_id, "error", "killed")
        client.set_terminated(run_id, status="KILLED")
    return lost


def _is_gone(process: str) -> bool:
    machine, _, rest = process.partition(":")
    number, _, started = rest.partition(":")
    if machine != _machine():
        return False
    return Owner(socket.gethostname(), int(number), float(started)).is_gone()


def _machine() -> str:
    """The machine, or the container: processes of others can not be seen, under whatever name."""
    try:
        container = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        container = ""
    return hashlib.sha256(f"{socket.gethostname()} {container}".encode()).hexdigest()[:12]
