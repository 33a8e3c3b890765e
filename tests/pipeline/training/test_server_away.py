"""MLflow's server hangs and dies while a training runs: the training goes on, and what was missed is sent later."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import SMALL_TRAINING
from mlflow import MlflowClient
from ports import free_ports
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.errors import PipelineError, UsageError
from scanloom.pipeline.training import sync, tracking
from scanloom.pipeline.training.options import TrainOptions
from scanloom.pipeline.training.outbox import unsent
from scanloom.pipeline.training.sync import send_rest
from scanloom.pipeline.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]


class Server:
    """MLflow's server on a store in a folder, which can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (self.port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--workers", "1"]
        words += ["--artifacts-destination", str(self.folder / "artifacts"), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(600):
            try:
                opener.open(f"{self.address}/health", timeout=1).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise TimeoutError("the server does not start")

    def signal(self, number: signal.Signals) -> None:
        import os

        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


@pytest.fixture
def server(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found = Server(own_store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setattr(tracking, "CLOSING_S", 1.0)
    monkeypatch.setattr(sync, "WAIT_S", 20.0)
    found.start()
    yield found
    found.signal(signal.SIGKILL)


def test_a_training_outlives_its_server_and_sync_sends_the_rest(server: Server, crops: Path, own_store: Path) -> None:
    lines: list[str] = []

    def report(line: str, done: float | None = None) -> None:
        lines.append(line)
        if line.startswith("epoch 1/3"):
            server.signal(signal.SIGSTOP)  # it hangs
        elif line.startswith("epoch 2/3"):
            server.signal(signal.SIGKILL)

    options = TrainOptions(crops, own_store / "RUN", folds=3, epochs=3, device="cpu", overrides=SMALL_TRAINING)
    trained = train(find_bundle("hippocampus_mr_unet"), options, report)
    assert [line.partition(":")[0] for line in lines if line.startswith("epoch")] == [f"epoch {n}/3" for n in (1, 2, 3)]
    run_id = trained.metadata["training"]["mlflow_run_id"]
    assert f"MLflow store {server.address} has not got" in lines[-1] and "`scanloom sync" in lines[-1]
    kept = options.run_folder / "tracking" / run_id
    assert unsent(kept) > 0
    with pytest.raises(PipelineError, match=r"^MLflow store http://127\.0\.0\.1:\d+ can not be used"):
        send_rest(options.run_folder, lambda line, done=None: None)
    assert unsent(kept) > 0

    server.start()
    send_rest(options.run_folder, lambda line, done=None: lines.append(line))
    assert unsent(kept) == 0
    client = MlflowClient(server.address)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    for name, steps in (("train/loss", 3), ("val/mean_dice", 3)):
        assert sorted(metric.step for metric in client.get_metric_history(run_id, name)) == [*range(1, steps + 1)]
    assert {"bundle", "model", "checkpoints", "config"} <= {each.path for each in client.list_artifacts(run_id)}
    assert [one.run_id for one in client.search_model_versions("name='hippocampus_mr_unet'")] == [run_id]
    send_rest(options.run_folder, lambda line, done=None: lines.append(line))
    assert lines[-1] == f"run {run_id}: all was sent before"


def test_a_folder_without_a_training_has_nothing_to_send(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no tracked training\. Pass a folder that `scanloom train -o` wrote"):
        send_rest(tmp_path, lambda line, done=None: None)
