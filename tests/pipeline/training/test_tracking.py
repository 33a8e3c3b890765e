"""A training as one MLflow run: its own, with a true status, in the store in use, with nothing of the user."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Run
from scanloom.pipeline.errors import PipelineError, UsageError
from scanloom.pipeline.training import tracking
from scanloom.pipeline.training.store import tracking_uri

pytestmark = pytest.mark.usefixtures("own_store")


def tracked_run(experiment: str, name: str, tags: dict[str, str] | None = None, **named: Any) -> Any:
    """A run whose outbox is in a folder of the working one."""
    return tracking.tracked_run(experiment, name, Path("RUN"), tags, **named)


def runs_of(experiment: str) -> list[Run]:
    client = MlflowClient(tracking_uri())
    found = client.get_experiment_by_name(experiment)
    return list(client.search_runs([found.experiment_id])) if found else []


def test_the_store_is_sqlite_in_the_working_folder_by_default(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri() == "sqlite:///mlflow.db"
    with tracked_run("experiment", "run") as run:
        run.log_text("text", "note.txt")
    client = MlflowClient(f"sqlite:///{own_store / 'mlflow.db'}")
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert list(own_store.glob("mlruns/**/note.txt"))


def test_the_environment_names_another_store(own_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = f"sqlite:///{shutil.copy(own_store / 'mlflow.db', own_store / 'elsewhere.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    with tracked_run("experiment", "run") as run:
        pass
    assert MlflowClient(elsewhere).get_run(run.run_id).info.status == "FINISHED"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_store / 'mlflow.db'}")
    assert runs_of("experiment") == []


def test_a_store_that_can_not_be_used_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://user:PASSWORD@host")
    expected = r"^MLflow store nonsense://host can not be used: [^\n]*Check MLFLOW_TRACKING_URI"
    with pytest.raises(PipelineError, match=expected), tracked_run("experiment", "run"):
        pass


def test_each_training_is_a_run_of_its_own() -> None:
    with tracked_run("experiment", "same") as one, tracked_run("experiment", "same") as other:
        one.log_params({"who": "one"})
        other.log_params({"who": "other"})
    assert sorted(run.data.params["who"] for run in runs_of("experiment")) == ["one", "other"]


@pytest.mark.parametrize(
    ("error", "status", "tag"),
    [
        (None, "FINISHED", None),
        (RuntimeError("/home/PHICANARY"), "FAILED", "RuntimeError"),
        (SystemExit(3), "FAILED", "SystemExit"),
        (KeyboardInterrupt(), "KILLED", None),
    ],
)
def test_the_status_tells_how_it_ended(error: BaseException | None, status: str, tag: str | None) -> None:
    def work() -> None:
        with tracked_run("experiment", "run") as run:
            assert MlflowClient(tracking_uri()).get_run(run.run_id).info.status == "RUNNING"
            if error:
                raise error

    if error:
        with pytest.raises(type(error)):
            work()
    else:
        work()
    (run,) = runs_of("experiment")
    assert (run.info.status, run.data.tags.get("error")) == (status, tag)
    assert "PHICANARY" not in str(run.to_dictionary())


def test_a_resumed_run_goes_on_and_forgets_its_error() -> None:
    with pytest.raises(RuntimeError), tracked_run("experiment", "run") as run:
        raise RuntimeError
    with tracked_run("experiment", "another name", resume=run.run_id) as resumed:
        resumed.log_metrics({"train/loss": 1.0}, step=2)
    (only,) = runs_of("experiment")
    assert (only.info.run_id, only.info.status, only.info.run_name) == (run.run_id, "FINISHED", "run")
    assert "error" not in only.data.tags


def test_resuming_a_run_of_another_store_is_refused() -> None:
    expected = r"^MLflow store sqlite:///.*mlflow\.db has no run 0123abcd\. Run this in the working folder"
    with pytest.raises(UsageError, match=expected), tracked_run("experiment", "run", resume="0123abcd"):
        pass


def test_params_of_any_name_and_length_are_kept() -> None:
    params: dict[str, Any] = {
        "config": {
            "_target_": "Net",
            "odd?näme": 1,
            "odd!näme": 2,
            "a": {"b": [1, {"c": 2}]},
            "": 3,
            "..": 4,
            "end/": 5,
        },
        "long": "x" * 20_000,
        **{"n" * 300 + str(number): number for number in range(3)},
        **{f"many{number}": number for number in range(230)},
    }
    with tracked_run("experiment", "run") as run:
        run.log_params(params)
    logged = runs_of("experiment")[0].data.params
    assert logged["config/_target_"] == "Net"
    assert (logged["config/odd_näme"], logged["config/odd_näme_2"]) == ("1", "2")
    assert logged["config/a/b"] == "[1, {'c': 2}]"
    assert set(logged["long"]) == {"x"} and len(logged["long"]) == tracking.PARAM_LENGTH
    assert {value for key, value in logged.items() if key.startswith("nnn")} == {"0", "1", "2"}
    assert logged["many229"] == "229"
    assert len(logged) == 7 + 1 + 3 + 230


def test_metrics_keep_their_epochs() -> None:
    with tracked_run("experiment", "run") as run:
        for epoch in (1, 2):
            run.log_metrics({"val/dice/anterior": epoch / 10, "train/loss": -epoch}, step=epoch)
    history = MlflowClient(tracking_uri()).get_metric_history(run.run_id, "val/dice/anterior")
    assert [(entry.step, entry.value) for entry in history] == [(1, 0.1), (2, 0.2)]


def test_files_folders_texts_and_figures_become_artifacts(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file.txt").write_text("inner")
    with tracked_run("experiment", "run") as run:
        run.log_file(folder, "whole")
        run.log_file(folder / "inner" / "file.txt", "single")
        run.log_text("text", "config/text.yaml")
        run.log_figure(Figure(), "validation/figure.png")
    client = MlflowClient(tracking_uri())
    paths = {
        artifact.path
        for name in ("whole/inner", "single", "config", "validation")
        for artifact in client.list_artifacts(run.run_id, name)
    }
    assert paths == {"whole/inner/file.txt", "single/file.txt", "config/text.yaml", "validation/figure.png"}


def test_the_login_name_is_not_in_the_run() -> None:
    with tracked_run("experiment", "run", {"fold": "0"}):
        pass
    run = runs_of("experiment")[0]
    assert run.data.tags["mlflow.user"] == ""
    assert run.info.user_id != getpass.getuser()
    assert run.data.tags["mlflow.source.name"] == "scanloom train"
    assert run.data.tags["fold"] == "0"
    assert "mlflow.source.git.commit" not in run.data.tags
