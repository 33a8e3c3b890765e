"""A dataset to train on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from factories import write_nifti


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
