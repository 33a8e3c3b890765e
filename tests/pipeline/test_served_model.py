"""A bundle as an MLflow model: what `mlflow models serve` runs labels as `scanloom predict` does."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import mlflow
import nibabel
import numpy as np
import pandas
import pytest
from factories import make_bundle, write_nifti
from scanloom.pipeline.bundle import Bundle, bundle_digest, find_bundle
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.served_model import ServedModel
from scanloom.pipeline.training.mlflow_model import save_model

pytestmark = pytest.mark.filterwarnings("ignore:Operation with range is deprecated")  # of MLflow's own pandas

AFFINE = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, 6], [0, 0, 1.5, -7], [0, 0, 0, 1]])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).normal(100, 20, (10, 11, 12)).astype(np.float32)
    write_nifti(tmp_path / "scan.nii.gz", image, AFFINE)
    return tmp_path / "scan.nii.gz"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "net")


def labels_of(row: pandas.Series, folder: Path) -> nibabel.Nifti1Image:
    (folder / "answer.nii.gz").write_bytes(base64.b64decode(row["labels"]))
    return nibabel.load(folder / "answer.nii.gz")


def test_a_path_and_an_array_with_its_affine_get_the_labels_of_predict(
    bundle: Bundle, scan: Path, tmp_path: Path
) -> None:
    save_model(bundle, tmp_path / "model")
    model = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    by_path = model.predict(pandas.DataFrame({"path": [str(scan)]})).iloc[0]
    image = nibabel.load(scan).get_fdata().tolist()
    by_array = model.predict(pandas.DataFrame({"image": [image], "affine": [AFFINE.tolist()]})).iloc[0]
    (expected,) = predict(bundle, PredictOptions([scan], tmp_path / "out", trust_bundle=True, pages=False))
    assert expected.folder is not None
    truth = nibabel.load(expected.folder / "labels.nii.gz")
    for row in (by_path, by_array):
        assert (row["status"], row["error"]) == ("done", "")
        assert json.loads(row["volumes_ml"]) == expected.volumes_ml
        labels = labels_of(row, tmp_path)
        np.testing.assert_array_equal(np.asarray(labels.dataobj), np.asarray(truth.dataobj))
        np.testing.assert_allclose(labels.affine, AFFINE)


def test_a_bad_row_does_not_stop_the_others(bundle: Bundle, scan: Path) -> None:
    answer = ServedModel(bundle).predict(pandas.DataFrame({"path": ["/nowhere.nii.gz", str(scan)]}))
    assert answer["status"].tolist() == ["refused", "done"]
    assert answer["error"][0].startswith("input") or "nowhere" in answer["error"][0]
    assert (answer["labels"][0], answer["labels"][1] > "") == ("", True)


@pytest.mark.parametrize("row", [{"path": [None]}, {"image": [[[[1.0]]]], "affine": [None]}])
def test_a_row_without_a_scan_is_refused(bundle: Bundle, row: dict[str, list[object]]) -> None:
    with pytest.raises(UsageError, match=r"a row has no path, and no image with its affine\. Give it one of both"):
        ServedModel(bundle).predict(pandas.DataFrame(row))


def test_the_bundle_in_the_model_is_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    save_model(bundle, tmp_path / "model")
    (kept,) = (tmp_path / "model" / "data").iterdir()
    assert bundle_digest(find_bundle(kept)) == bundle_digest(bundle)
