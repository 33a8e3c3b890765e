"""What `scanloom bundle list` finds: shipped, trained, trusted and registered bundles."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from factories import make_bundle
from scanloom.pipeline.bundle import SHIPPED
from scanloom.pipeline.bundling.listing import list_bundles
from scanloom.pipeline.cli import app
from scanloom.pipeline.trust import record_trust
from typer.testing import CliRunner


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a record nor a store."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)


def others() -> list[dict[str, Any]]:
    return [row for row in list_bundles() if row["state"] != "shipped"]


def test_the_shipped_ones_are_there() -> None:
    rows = {row["name"]: row for row in list_bundles()}
    row = rows["hippocampus_mr_unet"]
    assert row["state"] == "shipped" and row["bundle"] == "hippocampus_mr_unet" and row["modality"] == "MR"
    assert row["labels"] == ["anterior", "posterior"] and row["score"]["value"] == 0.8901
    assert row["weights_bytes"] == (SHIPPED / "hippocampus_mr_unet" / "models" / "model.pt").stat().st_size
    assert set(rows) == {path.name for path in SHIPPED.iterdir() if (path / "configs" / "metadata.json").is_file()}
    assert others() == []


def test_those_known_here_are_there_once_and_say_what_they_are(tmp_path: Path) -> None:
    one = make_bundle(tmp_path / "one")
    two = make_bundle(tmp_path / "two", seed=1, name="two", task="two things")
    gone = make_bundle(tmp_path / "gone", seed=2)
    for bundle in (one, two, gone, one):
        record_trust(bundle, "trained" if bundle is one else "trusted")
    shutil.rmtree(gone.folder)
    assert [(row["name"], row["state"], row["bundle"]) for row in others()] == [
        ("two", "trusted", str(two.folder)),
        ("tiny", "trained", str(one.folder)),
    ]
    assert others()[0]["task"] == "two things"
    (two.folder / "configs" / "train.yaml").write_text("{}")
    one.config("inference").write_text("{}")
    assert [row["state"] for row in others()] == ["changed", "changed"]


def test_metadata_that_can_not_be_read_leave_a_bundle_out(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "one")
    record_trust(bundle)
    (bundle.folder / "configs" / "metadata.json").write_text("[")
    assert others() == []


def make_store(path: Path) -> None:
    """The tables of MLflow's registry that are read; that MLflow makes these is tested where it writes them."""
    with sqlite3.connect(path) as database:
        database.executescript(
            """
            CREATE TABLE model_versions (name TEXT, version INTEGER);
            CREATE TABLE model_version_tags (name TEXT, version INTEGER, key TEXT, value TEXT);
            CREATE TABLE registered_model_aliases (name TEXT, alias TEXT, version INTEGER);
            INSERT INTO model_versions VALUES ('tiny', 1), ('tiny', 2), ('theirs', 1);
            INSERT INTO model_version_tags VALUES ('tiny', 1, 'bundle_sha256', 'x'), ('tiny', 2, 'bundle_sha256', 'x'),
                                                  ('theirs', 1, 'other', 'x');
            INSERT INTO registered_model_aliases VALUES ('tiny', 'champion', 2);
            """
        )


@pytest.mark.parametrize("named", [False, True])
def test_what_is_registered_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool) -> None:
    make_store(tmp_path / ("other.db" if named else "mlflow.db"))
    if named:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    assert [(row["name"], row["version"], row["bundle"]) for row in others()] == [
        ("tiny", "registered as 1", "models:/tiny/1"),
        ("tiny", "registered as 2", "models:/tiny@champion"),
    ]


def test_what_mlflow_itself_wrote_is_read(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    shutil.copy(empty_store, tmp_path / "mlflow.db")
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_registered_model("tiny")
    client.create_model_version("tiny", "runs/model", tags={"bundle_sha256": "x"})
    client.set_registered_model_alias("tiny", "champion", "1")
    assert [row["bundle"] for row in others()] == ["models:/tiny@champion"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///missing.db", "sqlite:///broken.db"])
def test_a_store_that_is_no_readable_file_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    (tmp_path / "broken.db").write_bytes(b"not a database")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert others() == []
    assert not (tmp_path / "missing.db").exists()


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["bundle", "list"])
    assert shown.exit_code == 0 and "hippocampus_mr_unet" in shown.output and "anterior, posterior" in shown.output
    rows = json.loads(CliRunner().invoke(app, ["bundle", "list", "--json"]).stdout)["bundles"]
    assert rows == list_bundles()
