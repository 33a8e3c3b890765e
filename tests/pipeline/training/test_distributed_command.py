"""`torchrun … -m scanloom.pipeline.cli train` beside the same command in one process with the double batch."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

NETWORK = ("features=[2,4]", "deep_supervision=0", "dropout=0")  # dropout draws for each process
SETTINGS = (*(f"network_def#{each}" for each in NETWORK), "patch_size=[16,16,16]", "precision=fp32")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")


@dataclass(frozen=True)
class Training:
    """A finished command and its store."""

    folder: Path
    output: str
    client: MlflowClient

    def curve(self, metric: str) -> list[float]:
        with (self.folder / "RUN" / "metrics.csv").open(newline="") as file:
            return [float(row["value"]) for row in csv.DictReader(file) if row["metric"] == metric]


def run(launcher: tuple[str, ...], batch_size: int, crops: Path, store: Path, folder: Path) -> Training:
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(store.read_bytes())
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    settings = [word for each in (*SETTINGS, f"batch_size={batch_size}") for word in ("--set", each)]
    words = ["train", "-b", "hippocampus_mr_unet", "-d", str(crops), "-o", "RUN", "--folds", "3", "--epochs", "3"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "scanloom.pipeline.cli", *words, *settings],
        cwd=folder,
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": uri,
            "XDG_STATE_HOME": str(folder / "state"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return Training(folder, done.stdout, MlflowClient(uri))


@pytest.fixture(scope="module")
def trainings(crops: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Training]:
    folder = tmp_path_factory.mktemp("commands")
    return (
        run((), 4, crops, empty_store, folder / "one"),
        run(TORCHRUN, 2, crops, empty_store, folder / "two"),
    )


def test_the_loss_curves_are_the_same(trainings: tuple[Training, Training]) -> None:
    one, two = trainings
    assert len(one.curve("train/loss")) == 3
    assert two.curve("train/loss") == pytest.approx(one.curve("train/loss"), abs=1e-4)
    assert two.curve("val/mean_dice") == pytest.approx(one.curve("val/mean_dice"), abs=1e-4)


def test_it_is_one_run_and_one_bundle_said_once(trainings: tuple[Training, Training]) -> None:
    two = trainings[1]
    assert two.output == f"{two.folder / 'RUN' / 'bundle'}\n"
    experiment = two.client.get_experiment_by_name("hippocampus_mr_unet")
    (found,) = two.client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    losses = two.client.get_metric_history(found.info.run_id, "train/loss")
    assert len({metric.step for metric in losses}) == len(losses)
