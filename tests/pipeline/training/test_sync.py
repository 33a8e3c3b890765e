"""What a killed training left to be sent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient
from scanloom.pipeline.lock import FolderInUseError, locked
from scanloom.pipeline.training.outbox import unsent
from scanloom.pipeline.training.store import tracking_uri
from scanloom.pipeline.training.sync import send_rest
from scanloom.pipeline.training.tracking import tracked_run

pytestmark = pytest.mark.usefixtures("own_store")

KILLED = """
import os, signal
from pathlib import Path
from scanloom.pipeline.training import delivery, tracking

def away(*words):
    raise ConnectionError

tracking.deliver = away
with tracking.tracked_run("experiment", "killed", Path("RUN")) as run:
    run.log_metrics({"train/loss": 1.0}, step=1)
    run.log_text("text", "note.txt")
    print(run.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed() -> str:
    """The run of a process that was killed with -9 before MLflow got anything of it."""
    done = subprocess.run([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    return done.stdout.strip()


def send(folder: str) -> list[str]:
    said: list[str] = []
    send_rest(Path(folder), lambda line, done=None: said.append(line))
    return said


def test_what_a_killed_training_left_is_sent_and_its_run_is_killed(killed: str) -> None:
    client = MlflowClient(tracking_uri())
    assert client.get_run(killed).info.status == "RUNNING" and unsent(Path("RUN/tracking") / killed) == 2
    assert send("RUN") == [f"sent 3 records of run {killed} to {tracking_uri()}"]
    assert client.get_run(killed).info.status == "KILLED"
    assert [metric.value for metric in client.get_metric_history(killed, "train/loss")] == [1.0]
    assert [each.path for each in client.list_artifacts(killed)] == ["note.txt"]
    assert send("RUN") == [f"run {killed}: all was sent before"]


def test_the_next_training_of_that_store_marks_it_and_resuming_it_sends_the_rest(killed: str) -> None:
    client = MlflowClient(tracking_uri())
    with tracked_run("experiment", "next", Path("OTHER")) as other:
        assert client.get_run(killed).info.status == "KILLED"
    assert other.run_id != killed and not client.get_run(other.run_id).data.metrics
    with tracked_run("experiment", "again", Path("RUN"), resume=killed) as run:
        run.log_metrics({"train/loss": 1.0}, step=1)  # the step that it was killed after, once more
        run.log_metrics({"train/loss": 0.5}, step=2)
    assert client.get_run(killed).info.status == "FINISHED"
    losses = client.get_metric_history(killed, "train/loss")
    assert sorted((metric.step, metric.value) for metric in losses) == [(1, 1.0), (2, 0.5)]


def test_a_training_that_runs_sends_its_own() -> None:
    with (
        tracked_run("experiment", "run", Path("RUN/fold1")),
        locked(Path("RUN/fold1")),
        pytest.raises(FolderInUseError, match=r"^RUN/fold1: another run is writing there"),
    ):
        send("RUN")
