"""A bundle as an MLflow model: what `mlflow models serve` runs labels as `scanloom predict` does."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import mlflow
import nibabel
import numpy as np
import pandas
import pytest
from factories import make_bundle, write_nifti
from ports import free_ports
from scanloom.pipeline.bundle import Bundle, bundle_digest, find_bundle
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.served_model import ServedModel
from scanloom.pipeline.training.mlflow_model import save_model

pytestmark = pytest.mark.filterwarnings("ignore:Operation with range is deprecated")  # of MLflow's own pandas

AFFINE = np.array([[0, -2.0, 0, 5], [1.0, 0, 0, 6], [0, 0, 1.5, -7], [0, 0, 0, 1]])


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Of whole numbers, as most are; in JSON they are of another kind than those with a point."""
    image = np.random.default_rng(0).normal(100, 20, (10, 11, 12)).astype(np.int16)
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
    image = np.asarray(nibabel.load(scan).dataobj).tolist()
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


BAD_ROWS = {
    "a row has no path, and no image with its affine": {"path": ""},
    "a row has no path": {"image": [[[1.0]]]},
    r"image has the shape (2, 1)": {"image": [[1], [2]], "affine": AFFINE.tolist()},
    "image is ragged": {"image": [[[1, 2]], [[1]]], "affine": AFFINE.tolist()},
    "image holds other things than numbers": {"image": [[["a"]]], "affine": AFFINE.tolist()},
    r"affine has the shape (3, 3)": {"image": [[[1]]], "affine": np.eye(3).tolist()},
}


def test_a_row_that_is_no_scan_is_refused_with_the_reason(bundle: Bundle) -> None:
    answer = ServedModel(bundle).predict(pandas.DataFrame(list(BAD_ROWS.values())))
    assert answer["status"].tolist() == ["refused"] * len(BAD_ROWS)
    assert [error for error, start in zip(answer["error"], BAD_ROWS, strict=True) if not error.startswith(start)] == []


def test_scans_of_one_file_name_are_all_labelled(bundle: Bundle, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(scan, tmp_path / "other")
    paths = [str(scan), str(tmp_path / "other" / scan.name), str(scan)]
    answer = ServedModel(bundle).predict(pandas.DataFrame({"path": paths}))
    assert answer["status"].tolist() == ["done"] * 3
    assert answer["labels"].nunique() == 1


def test_the_network_is_loaded_once(bundle: Bundle, scan: Path) -> None:
    model = ServedModel(bundle)
    first = model.predict(pandas.DataFrame({"path": [str(scan)]}))
    bundle.weights.unlink()
    assert model.predict(pandas.DataFrame({"path": [str(scan)]})).equals(first)


def test_the_requirements_are_versions_that_an_index_has(bundle: Bundle, tmp_path: Path) -> None:
    save_model(bundle, tmp_path / "model")
    lines = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert {line.partition("==")[0] for line in lines} >= {"scanloom", "torch", "monai", "mlflow"}
    assert [line for line in lines if "+" in line or "==" not in line] == []


def test_the_bundle_in_the_model_is_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    save_model(bundle, tmp_path / "model")
    (kept,) = (tmp_path / "model" / "data").iterdir()
    assert bundle_digest(find_bundle(kept)) == bundle_digest(bundle)


@pytest.fixture
def rows(bundle: Bundle, scan: Path, tmp_path: Path) -> Path:
    """The saved model's input as JSON: a scan by its path, then by its array."""
    save_model(bundle, tmp_path / "model")
    image = np.asarray(nibabel.load(scan).dataobj).tolist()
    records = [{"path": str(scan)}, {"image": image, "affine": AFFINE.tolist()}]
    (tmp_path / "rows.json").write_text(json.dumps({"dataframe_records": records}))
    return tmp_path / "rows.json"


def mlflow_words(command: str, tmp_path: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "mlflow", "models", command, "-m", str(tmp_path / "model"), *LOCALLY, *words]


LOCALLY = ("--env-manager", "local")
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""MLflow starts its server by the programs on the PATH."""


@pytest.mark.slow
def test_mlflow_models_predict_answers_a_row_a_scan(rows: Path, tmp_path: Path) -> None:
    words = mlflow_words("predict", tmp_path, "-i", str(rows), "-o", str(tmp_path / "answer.json"))
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    assert [row["status"] for row in answer] == ["done", "done"]
    assert answer[0]["labels"] == answer[1]["labels"] > ""


@pytest.mark.slow
def test_mlflow_models_serve_answers_over_http(rows: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    words = mlflow_words("serve", tmp_path, "--port", str(port))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(words, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True)
    try:
        ask(f"http://127.0.0.1:{port}/ping", None, process)
        answer = json.loads(ask(f"http://127.0.0.1:{port}/invocations", rows.read_bytes(), process))["predictions"]
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(240)
    assert [row["status"] for row in answer] == ["done", "done"], (tmp_path / "log").read_text()
    assert answer[0]["labels"] == answer[1]["labels"] > ""


def ask(url: str, body: bytes | None, server: subprocess.Popen[bytes]) -> bytes:
    """The server's answer, as soon as it gives one."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + 120
    while True:
        try:
            with direct.open(request, timeout=120) as response:
                return bytes(response.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from error
        except OSError:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(0.3)
