"""Bundles by their names in MLflow's registry: fetched once, checked, trusted by nobody's word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pytest
from factories import make_bundle, write_nifti
from mlflow import MlflowClient
from scanloom.pipeline.bundle import Bundle, bundle_digest, find_bundle
from scanloom.pipeline.errors import BundleError, PipelineError, UsageError
from scanloom.pipeline.registered_bundle import _cache, fetch_bundle
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.training.mlflow_model import save_model
from scanloom.pipeline.training.registry import register
from scanloom.pipeline.training.store import tracking_uri
from scanloom.pipeline.trust import record_trust, require_trust

CHAMPION = "models:/tiny@champion"
RUN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scanloom" / "bundles"


@pytest.fixture
def bundle(own_store: Path, cache: Path, tmp_path: Path) -> Bundle:
    """Registered as a training does it."""
    made = make_bundle(tmp_path / "bundle", training={"mlflow_run_id": RUN})
    client = MlflowClient(tracking_uri())
    run = client.create_run(client.create_experiment("tiny")).info
    save_model(made, tmp_path / "model")
    client.log_artifacts(run.run_id, str(tmp_path / "model"), "model")
    tags = {"key_metric": "0.8", "validation_split": "split", "bundle_sha256": bundle_digest(made)}
    register(client, run.run_id, "tiny", f"{run.artifact_uri}/model", tags)
    return made


def stored(own_store: Path) -> Path:
    """The bundle in the store."""
    (found,) = own_store.glob("mlruns/*/*/artifacts/model/data/bundle")
    return found


@pytest.mark.parametrize("address", [CHAMPION, "models:/tiny/1"])
def test_an_alias_or_a_version_is_the_bundle_that_was_registered(address: str, bundle: Bundle, cache: Path) -> None:
    found = find_bundle(address)
    assert found.folder == cache / bundle_digest(bundle)
    assert bundle_digest(found) == bundle_digest(bundle)
    assert list(cache.iterdir()) == [found.folder]


def test_it_is_fetched_once(bundle: Bundle, own_store: Path) -> None:
    first = fetch_bundle(CHAMPION)
    shutil.rmtree(stored(own_store))
    assert fetch_bundle(CHAMPION) == first


def test_a_changed_copy_is_fetched_again(bundle: Bundle) -> None:
    weights = find_bundle(CHAMPION).weights
    weights.write_bytes(b"other")
    assert find_bundle(CHAMPION).weights.read_bytes() == bundle.weights.read_bytes()


def test_another_process_may_be_quicker(bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download = mlflow.artifacts.download_artifacts

    def slow(source: str, **words: str) -> str:
        found = download(source, **words)
        shutil.copytree(bundle.folder, cache / bundle_digest(bundle))
        monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # that was before the other came
        return str(found)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", slow)
    assert fetch_bundle(CHAMPION) == cache / bundle_digest(bundle)


def test_the_registrys_word_is_no_trust(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="did not come with scanloom and was not trained here"):
        require_trust(find_bundle(CHAMPION))
    record_trust(bundle)
    require_trust(find_bundle(CHAMPION))


def test_what_was_changed_in_the_store_is_refused_and_not_kept(bundle: Bundle, own_store: Path, cache: Path) -> None:
    (stored(own_store) / "configs" / "inference.yaml").write_text("{}")
    with pytest.raises(BundleError, match=r"^bundle \S+: what MLflow keeps is not what was registered\. Train"):
        fetch_bundle(CHAMPION)
    assert list(cache.iterdir()) == []


def test_a_model_without_a_bundle_is_refused(bundle: Bundle, own_store: Path) -> None:
    shutil.rmtree(stored(own_store))
    with pytest.raises(BundleError, match=r"^bundle \S+: the model holds no bundle\. Train it with"):
        fetch_bundle(CHAMPION)


def test_files_that_are_gone_are_told(bundle: Bundle, own_store: Path) -> None:
    shutil.rmtree(own_store / "mlruns")
    with pytest.raises(BundleError, match=r"^bundle \S+: its files can not be had of MLflow store sqlite:[^\n]+Train"):
        fetch_bundle(CHAMPION)


def test_a_model_of_others_is_refused(bundle: Bundle) -> None:
    client = MlflowClient(tracking_uri())
    client.create_registered_model("theirs")
    client.create_model_version("theirs", "runs/model")
    with pytest.raises(BundleError, match=r"models:/theirs/1: it was not registered by scanloom\. Train it"):
        fetch_bundle("models:/theirs/1")


@pytest.mark.parametrize("address", ["models:/no@champion", "models:/tiny@best", "models:/tiny/7", "models:/no/1"])
def test_what_is_not_there_is_one_line(address: str, bundle: Bundle) -> None:
    words = rf"^bundle {address}: [^\n]* not found in MLflow store sqlite:\S+\. `scanloom ui` shows its models\.$"
    with pytest.raises(BundleError, match=words):
        fetch_bundle(address)


@pytest.mark.parametrize("address", ["models:/", "models:/tiny", "models:/tiny/latest", "models:/../x/1", "models:/a@"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(BundleError, match="write it as models:/NAME@ALIAS or models:/NAME/VERSION"):
        find_bundle(address)


def test_where_there_is_no_store_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UsageError, match=r"there is no mlflow\.db\. Go to the folder"):
        fetch_bundle(CHAMPION)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_one_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:SECRET@127.0.0.1:9")
    with pytest.raises(
        PipelineError, match=r"^MLflow store http://127\.0\.0\.1:9 can not be used: it does not answer\."
    ):
        fetch_bundle(CHAMPION)


def test_a_cache_that_can_not_be_written_is_told(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(BundleError, match=r"can not be kept in \S+: Not a directory\. Make room there, or set XDG_"):
        fetch_bundle(CHAMPION)


def test_the_cache_is_in_the_users_home_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert _cache() == Path.home() / ".cache" / "scanloom" / "bundles"


def test_the_report_names_the_run_that_made_the_weights(bundle: Bundle, tmp_path: Path) -> None:
    write_nifti(tmp_path / "scan.nii.gz", np.ones((8, 8, 8), np.float32), np.eye(4))
    options = PredictOptions([tmp_path / "scan.nii.gz"], tmp_path / "out", trust_bundle=True, pages=False)
    (result,) = predict(find_bundle(CHAMPION), options)
    assert result.folder is not None
    told = json.loads((result.folder / "report.json").read_text())["bundle"]
    assert told["mlflow_run_id"] == RUN
