"""Versions and the champion, in a real registry."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from scanloom.pipeline.training.registry import NOT_HELD_OUT, Registered, register
from scanloom.pipeline.training.store import tracking_uri


@pytest.fixture
def client(own_store: Path) -> MlflowClient:
    return MlflowClient(tracking_uri())


def new_run(client: MlflowClient) -> str:
    found = client.get_experiment_by_name("experiment")
    experiment = found.experiment_id if found else client.create_experiment("experiment")
    return str(client.create_run(experiment).info.run_id)


def put(client: MlflowClient, run_id: str, metric: float, split: str = "split") -> Registered:
    tags = {"key_metric": f"{metric:.6f}", "validation_split": split, "bundle_sha256": "0" * 64}
    return register(client, run_id, "net", "runs/model", tags)


def champion(client: MlflowClient) -> str:
    return str(client.get_model_version_by_alias("net", "champion").version)


def test_a_better_one_takes_the_alias_a_worse_one_does_not(client: MlflowClient) -> None:
    said = []
    for metric in (0.80, 0.85, 0.85, 0.82):
        said.append(put(client, new_run(client), metric))
    assert [(one.version, one.is_champion) for one in said] == [("1", True), ("2", True), ("3", False), ("4", False)]
    assert champion(client) == "2"
    assert said[0].note == "model net version 1: the first champion"
    assert said[1].note == "model net version 2: the champion, with 0.8500 after 0.8000 of version 1"
    assert said[3].note == "model net version 4: the champion is version 2, with 0.8500; this one has 0.8200"


def test_figures_of_other_cases_are_not_compared(client: MlflowClient) -> None:
    put(client, new_run(client), 0.80, "these cases")
    other = put(client, new_run(client), 0.99, "other cases")
    assert not other.is_champion and champion(client) == "1"
    assert other.note.endswith("of other validation cases, so the two were not compared")


def test_a_figure_of_cases_that_were_trained_on_beats_nobody(client: MlflowClient) -> None:
    put(client, new_run(client), 0.80)
    everything = put(client, new_run(client), 0.99, split=NOT_HELD_OUT)
    assert not everything.is_champion and champion(client) == "1"
    assert everything.note.endswith("; this one has no cases that were held out, so the two were not compared")


def test_a_run_has_one_version_however_often_it_is_registered(client: MlflowClient) -> None:
    run = new_run(client)
    first = put(client, run, 0.8)
    again = put(client, run, 0.9)
    assert (first.version, again.version, again.is_champion) == ("1", "1", True)
    version = client.get_model_version("net", "1")
    assert (version.run_id, version.tags["key_metric"]) == (run, "0.900000")
