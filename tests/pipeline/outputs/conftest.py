"""Factories for what the writers take: bundles, volumes and labels, and DICOM series to write on."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.studies.mr_series import write_mr_series
from scanloom.pipeline.volume import Volume

ANTERIOR = {
    "value": 1,
    "name": "anterior",
    "category": {"value": "91723000", "scheme": "SCT", "meaning": "Anatomical Structure"},
    "type": {"value": "5366008", "scheme": "SCT", "meaning": "Hippocampus"},
    "modifier": {"value": "255549009", "scheme": "SCT", "meaning": "Anterior"},
    "color": [230, 159, 0],
}
POSTERIOR = ANTERIOR | {
    "value": 2,
    "name": "posterior",
    "modifier": {"value": "255551008", "scheme": "SCT", "meaning": "Posterior"},
    "color": [86, 180, 233],
}


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """A bundle with weights of a few bytes; two labels where none are given."""

    def make(*label_classes: dict, **metadata) -> Bundle:
        weights = tmp_path / "bundle" / "models" / "model.pt"
        weights.parent.mkdir(parents=True, exist_ok=True)
        weights.write_bytes(b"weights")
        classes = [*label_classes] or [ANTERIOR, POSTERIOR]
        return Bundle(
            tmp_path / "bundle", {"name": "test_bundle", "version": "1.2.3", "label_classes": classes} | metadata
        )

    return make


@pytest.fixture
def bundle(make_bundle: Callable[..., Bundle]) -> Bundle:
    return make_bundle()


@pytest.fixture
def make_volume() -> Callable[..., Volume]:
    """A volume of noise; 1 x 2 x 3 mm voxels where no affine is given."""

    def make(shape=(9, 8, 7), affine=None, **attributes) -> Volume:
        array = np.random.default_rng(0).normal(100, 10, (1, *shape)).astype(np.float32)
        affine = np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine
        return Volume(array, affine, attributes.pop("case", "case_1"), **attributes)

    return make


@pytest.fixture
def make_labels() -> Callable[..., np.ndarray]:
    """Two boxes, the first smaller than the second, neither in the centre, so that no flip keeps them."""

    def make(shape=(9, 8, 7)) -> np.ndarray:
        labels = np.zeros(shape, np.uint8)
        x, y, z = (size // 2 for size in shape)
        labels[1:x, 1:y, 1:z] = 1
        labels[x : x + 3, y - 1 : y + 2, z - 1 : z + 2] = 2
        return labels

    return make


@pytest.fixture
def write_dicom_volume(tmp_path: Path) -> Callable[..., Volume]:
    """Writes a volume as an MR series, changes every file as asked, and reads it by the studies' own reader."""

    def write(volume: Volume, name: str = "series", change: Callable[[Dataset], None] | None = None) -> Volume:
        array = np.rint(volume.array[0]).astype(np.int16)
        for path in write_mr_series(tmp_path / name, array, volume.affine, series_number=3, seed=name):
            if change:
                dataset = pydicom.dcmread(path)
                change(dataset)
                dataset.save_as(path)
        (series,) = find_series(tmp_path / name)
        return read_series(series)

    return write
