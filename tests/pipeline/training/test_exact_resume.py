"""Killed with -9 at any moment and resumed, a training ends with the weights of one that was not, to the last bit."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

MOMENTS = ("step", "validation", "writing", "last.pt", "new.pt", "best")


@pytest.fixture(scope="module")
def trainings(crops: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    store = folder / "mlflow.db"
    store.write_bytes(empty_store.read_bytes())
    script = Path(__file__).with_name("trainings_killed.py")
    done = subprocess.run(
        [sys.executable, str(script), str(crops), str(folder), *MOMENTS],
        env={**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}", "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_as_never_killed(trainings: Path, moment: str) -> None:
    whole, resumed = (
        torch.load(trainings / name / "checkpoints" / "last.pt", weights_only=True) for name in ("whole", moment)
    )
    for part in ("network", "ema"):
        assert all(torch.equal(whole[part][key], resumed[part][key]) for key in whole[part]), part
    moments = (states["optimizer"]["state"] for states in (whole, resumed))
    for one, other in zip(*(each.values() for each in moments), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    shipped = [(trainings / name / "bundle/models/model.pt").read_bytes() for name in ("whole", moment)]
    assert shipped[0] == shipped[1]


@pytest.mark.parametrize("moment", MOMENTS)
def test_its_metrics_are_those_of_one_training(trainings: Path, moment: str) -> None:
    def rows(name: str) -> list[tuple[str, ...]]:
        with (trainings / name / "metrics.csv").open(newline="") as file:
            return [tuple(row.values()) for row in csv.DictReader(file) if "second" not in row["metric"]]

    assert rows(moment) == rows("whole")


def test_each_is_one_run_that_finished(trainings: Path) -> None:
    client = MlflowClient(f"sqlite:///{trainings / 'mlflow.db'}")
    (experiment,) = (found for found in client.search_experiments() if found.name != "Default")
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * (len(MOMENTS) + 1)
    for run in runs:
        losses = client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted({metric.step for metric in losses}) == [1, 2, 3, 4]
