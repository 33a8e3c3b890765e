"""`scanloom ui`: MLflow on the store in use, and a clear line where it can not be."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from ports import free_ports
from scanloom.pipeline.errors import PipelineError, UsageError
from scanloom.pipeline.training.tracking import tracked_run
from scanloom.pipeline.training.ui import serve_ui

pytestmark = pytest.mark.usefixtures("own_store")


def test_a_port_in_use_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"can not listen on 127\.0\.0\.1 port {port}: Address already in use\. "):
            serve_ui("127.0.0.1", port, print)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("no.such.host.invalid", 5000)])
def test_an_address_that_can_not_be_is_refused(host: str, port: int) -> None:
    with pytest.raises(UsageError, match=rf"can not listen on {host} port {port}: .*\. Choose another with --port"):
        serve_ui(host, port, print)


def test_a_folder_without_trainings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no training is recorded here: there is no mlflow\.db\. Go to"):
        serve_ui("127.0.0.1", 5000, print)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_server_of_the_users_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:PASSWORD@mlflow.example")
    said: list[str] = []
    serve_ui("127.0.0.1", 5000, said.append)
    assert said == ["the runs are on the MLflow server https://mlflow.example; open it in a browser"]


@pytest.mark.slow
def test_a_store_that_mlflow_does_not_know_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
    with pytest.raises(PipelineError, match=r"^MLflow does not answer\. [^\n]*Check the store nonsense://host\.$"):
        serve_ui("127.0.0.1", free_ports(1)[0], lambda line: None)


@pytest.mark.slow
def test_it_shows_the_runs_and_artifacts_and_ends_with_its_children(own_store: Path) -> None:
    with tracked_run("experiment", "the run", own_store / "RUN") as run:
        run.log_text("picture", "validation/case.txt")
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-m", "scanloom.pipeline.cli", "ui", "--port", str(port)], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("starting MLflow on the store sqlite:///")
    assert process.stderr.readline() == f"MLflow is on http://127.0.0.1:{port}; Ctrl-C ends it\n"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/api/2.0/mlflow/runs/get?run_id={run.run_id}", timeout=240) as answer:
        assert json.load(answer)["run"]["info"]["run_name"] == "the run"
    address = f"http://127.0.0.1:{port}/get-artifact?path=validation/case.txt&run_uuid={run.run_id}"
    with opener.open(address, timeout=240) as answer:
        assert answer.read() == b"picture"
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=240)
    assert (process.returncode, rest) == (0, "")
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
