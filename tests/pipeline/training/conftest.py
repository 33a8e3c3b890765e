"""A store of its own for every test, and nothing in the user's folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from factories import write_nifti


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, which takes seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def own_store(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the test; the MLflow store and the record of trusted bundles are its own.

    The store is named in full: in one process MLflow takes two files of one relative name for the same.
    """
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return folder


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Decathlon dataset of six made-up crops; the word PHICANARY stands in its path and in no case's name."""
    folder = tmp_path_factory.mktemp("PHICANARY") / "dataset"
    listed = []
    for number in range(6):
        entry = {kind: f"{kind}s/crop_{number}.nii.gz" for kind in ("image", "label")}
        image, label = make_crop(number)
        write_nifti(folder / entry["image"], image, np.eye(4))
        write_nifti(folder / entry["label"], label, np.eye(4))
        listed.append(entry)
    (folder / "dataset.json").write_text(json.dumps({"training": listed}))
    return folder


def make_crop(seed: int, size: int = 18) -> tuple[np.ndarray, np.ndarray]:
    """Noise with two bright balls, the anterior one labelled 1 and the posterior one 2."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1)
    centers = np.array([[9, 12, 9], [9, 6, 9]]) + random.integers(-1, 2, (2, 3))
    label = np.zeros((size,) * 3, np.uint8)
    for value, center in enumerate(centers, start=1):
        label[np.linalg.norm(grid - center, axis=-1) < 3.2] = value
    image = random.normal(100, 10, label.shape) + 60 * (label > 0) + 20 * (label == 2)
    return image.astype(np.float32), label
