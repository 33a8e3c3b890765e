"""Records in a real store: delivered twice, they are there once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from scanloom.pipeline.training.delivery import deliver
from scanloom.pipeline.training.outbox import Record, RefusedError
from scanloom.pipeline.training.store import tracking_uri


@pytest.fixture
def client(own_store: Path) -> MlflowClient:
    return MlflowClient(tracking_uri())


@pytest.fixture
def run_id(client: MlflowClient) -> str:
    return str(client.create_run(client.create_experiment("experiment")).info.run_id)


@pytest.fixture
def twice(client: MlflowClient, run_id: str, tmp_path: Path) -> Callable[[Record], None]:
    def send(record: Record) -> None:
        for _ in range(2):
            deliver(client, run_id, tmp_path, record)

    return send


def test_metrics_are_there_once_a_nan_too(client: MlflowClient, run_id: str, twice: Callable[[Record], None]) -> None:
    points = [["train/step_loss", 1 / step, step] for step in range(1, 2501)]
    twice({"kind": "metrics", "points": points, "time": 1})
    twice({"kind": "metrics", "points": [["val/dice", float("nan"), 1]], "time": 2})
    history = client.get_metric_history(run_id, "train/step_loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, value) for _, value, step in points]
    assert len(client.get_metric_history(run_id, "val/dice")) == 1


def test_params_tags_files_and_status_are_there_once(
    client: MlflowClient, run_id: str, twice: Callable[[Record], None], tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("content")
    twice({"kind": "params", "params": {f"p{number}": "x" for number in range(230)}})
    twice({"kind": "tag", "name": "error", "value": "Oops"})
    twice({"kind": "file", "path": "folder", "folder": "whole"})
    twice({"kind": "file", "path": "folder/file.txt", "folder": ""})
    twice({"kind": "end", "status": "FAILED", "time": 5_000})
    run = client.get_run(run_id)
    assert len(run.data.params) == 230 and run.data.tags["error"] == "Oops"
    assert (run.info.status, run.info.end_time) == ("FAILED", 5_000)
    assert {each.path for each in client.list_artifacts(run_id)} == {"whole", "file.txt"}
    twice({"kind": "reopen"})
    assert client.get_run(run_id).info.status == "RUNNING"
    assert "error" not in client.get_run(run_id).data.tags


def test_a_dataset_is_an_input_once(client: MlflowClient, run_id: str, twice: Callable[[Record], None]) -> None:
    dataset = {"name": "crops", "digest": "d1", "source_type": "code", "source": {"tags": {}}, "profile": {"cases": 3}}
    twice({"kind": "inputs", "dataset": dataset, "context": "training"})
    (found,) = client.get_run(run_id).inputs.dataset_inputs
    assert (found.dataset.name, found.dataset.digest) == ("crops", "d1")
    assert [(tag.key, tag.value) for tag in found.tags] == [("mlflow.data.context", "training")]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"kind": "params", "params": {"p": "changed"}}, "params: "),
        ({"kind": "file", "path": "gone.txt", "folder": ""}, r"file: a file is gone \(.*gone\.txt\)"),
    ],
)
def test_what_can_never_be_delivered_is_refused(
    client: MlflowClient, run_id: str, tmp_path: Path, record: Record, words: str
) -> None:
    deliver(client, run_id, tmp_path, {"kind": "params", "params": {"p": "first"}})
    with pytest.raises(RefusedError, match=words):
        deliver(client, run_id, tmp_path, record)


@contextmanager
def server_that_answers(status: int) -> Iterator[str]:
    """The address of a server that answers so to whatever is asked; to what is read, with an artifact address there."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            run = b'{"run": {"info": {"run_id": "r", "status": "RUNNING", "artifact_uri": "mlflow-artifacts:/1/r"}}}'
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(run)))
            self.end_headers()
            self.wfile.write(run)

        def log_message(self, *words: Any) -> None:
            """Nothing on the screen."""

        do_PUT = do_POST  # noqa: N815 (http.server's name)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(("status", "error"), [(413, RefusedError), (401, Exception), (503, Exception)])
def test_a_file_too_large_for_a_server_does_not_hold_up_the_rest(
    tmp_path: Path, status: int, error: type[Exception]
) -> None:
    (tmp_path / "last.pt").write_bytes(b"weights")
    with server_that_answers(status) as address, pytest.raises(error, match=str(status)) as caught:
        deliver(MlflowClient(address), f"run{status}", tmp_path, {"kind": "file", "path": "last.pt", "folder": ""})
    assert isinstance(caught.value, RefusedError) == (status == 413)


@pytest.mark.parametrize("status", [503, None])
def test_a_server_that_is_away_does_not_change_the_random_numbers_of_the_training(
    tmp_path: Path, status: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # the first comes at once
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    with server_that_answers(status or 503) as address:
        client = MlflowClient(address if status else "http://127.0.0.1:9")
        before = random.getstate()
        with pytest.raises(Exception, match=r"503|refused"):
            deliver(client, "r", tmp_path, {"kind": "metrics", "points": [["loss", 1.0, 1]], "time": 1})
        assert random.getstate() == before
