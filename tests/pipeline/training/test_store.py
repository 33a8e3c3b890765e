"""Which MLflow store is in use, and what is said of one that is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient
from scanloom.pipeline.errors import PipelineError, UsageError
from scanloom.pipeline.training.store import require_store, shown_uri, store_folders, usable_store


def test_a_password_in_the_stores_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:PASSWORD@host/db")
    assert shown_uri() == "postgresql://host/db"


def test_a_server_that_does_not_answer_is_a_short_line_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:PASSWORD@127.0.0.1:9")
    expected = r"^MLflow store http://127\.0\.0\.1:9 can not be used: it does not answer\. Check MLFLOW_"
    with pytest.raises(PipelineError, match=expected) as caught, usable_store() as client:
        client.search_experiments()
    assert "PASSWORD" not in str(caught.value)


def test_mlflow_is_told_to_report_nothing_home_and_to_keep_off_the_screen() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] == "true"


def test_looking_for_a_store_makes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^no training is recorded here: there is no mlflow\.db\. Go to"):
        require_store()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("own_store")
def test_a_store_that_is_there_is_used() -> None:
    require_store()
    with usable_store() as client:
        assert isinstance(client, MlflowClient) and client.get_experiment_by_name("none") is None


@pytest.mark.parametrize(
    ("store", "folders"),
    [
        (None, [".", "."]),
        ("sqlite:////data/mlflow.db", [".", "/data"]),
        ("file:///data/mlruns", [".", "/data/mlruns"]),
        ("mlruns", [".", "mlruns"]),
        ("postgresql://user@host/db", ["."]),
        ("https://mlflow.example", []),
    ],
)
def test_the_folders_that_a_store_writes_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: str | None, folders: list[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if store:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    assert store_folders() == [tmp_path / folder for folder in folders]
