"""Runs whose process is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from scanloom.pipeline.training import tracking
from scanloom.pipeline.training.lost_runs import PROCESS, mark_lost_runs, this_process
from scanloom.pipeline.training.store import tracking_uri

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture
def client() -> MlflowClient:
    return MlflowClient(tracking_uri())


def start_run(client: MlflowClient, process: str | None) -> str:
    found = client.get_experiment_by_name("experiment")
    experiment = found.experiment_id if found else client.create_experiment("experiment")
    return str(client.create_run(experiment, tags={PROCESS: process} if process else {}).info.run_id)


def ended_process() -> str:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = psutil.Process(child.pid).create_time()
    child.communicate()
    machine = this_process().partition(":")[0]
    return f"{machine}:{child.pid}:{began:.2f}"


def test_a_run_whose_process_is_gone_is_marked_killed(client: MlflowClient) -> None:
    lost = start_run(client, ended_process())
    assert mark_lost_runs(client, "experiment") == [lost]
    run = client.get_run(lost)
    assert (run.info.status, run.data.tags["error"]) == ("KILLED", "killed")
    assert mark_lost_runs(client, "experiment") == []


def test_runs_that_go_on_or_are_of_others_are_left_alone(client: MlflowClient) -> None:
    elsewhere = "0" * 12 + ended_process()[12:]
    for process in (this_process(), elsewhere, None):
        start_run(client, process)
    assert mark_lost_runs(client, "experiment") == []


def test_an_experiment_that_is_not_there_has_none(client: MlflowClient) -> None:
    assert mark_lost_runs(client, "no such") == []


def test_the_next_run_of_the_experiment_marks_them_and_says_who_it_is(client: MlflowClient) -> None:
    lost = start_run(client, ended_process())
    with tracking.tracked_run("experiment", "next", Path("RUN")) as run:
        assert client.get_run(lost).info.status == "KILLED"
        assert client.get_run(run.run_id).data.tags[PROCESS] == this_process()


def test_a_run_of_the_same_folder_is_lost_whatever_machine_it_was_on(client: MlflowClient) -> None:
    with tracking.tracked_run("experiment", "first", Path("RUN")) as first:
        pass
    client.update_run(first.run_id, status="RUNNING")
    client.set_tag(first.run_id, PROCESS, "0" * 12 + ":1:1.0")
    with tracking.tracked_run("experiment", "elsewhere", Path("OTHER")):
        assert client.get_run(first.run_id).info.status == "RUNNING"
    with tracking.tracked_run("experiment", "next", Path("RUN")):
        assert client.get_run(first.run_id).info.status == "KILLED"


def test_a_process_is_known_within_its_container_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_process()
    monkeypatch.setattr(Path, "readlink", lambda path: "pid:[1] of another")
    assert this_process().partition(":")[0] != here.partition(":")[0]


def test_a_resumed_run_that_was_killed_is_running_again(client: MlflowClient) -> None:
    lost = start_run(client, ended_process())
    with tracking.tracked_run("experiment", "again", Path("RUN"), resume=lost):
        assert client.get_run(lost).info.status == "RUNNING"
    run = client.get_run(lost)
    assert run.info.status == "FINISHED" and "error" not in run.data.tags
