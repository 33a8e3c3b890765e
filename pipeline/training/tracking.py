"""A training as one MLflow run: its own, with a status that is always true.

The store is `MLFLOW_TRACKING_URI`, or `sqlite:///mlflow.db` in the working folder: a bare `mlflow ui` there shows it.
MLflow's client is called with the run's ID throughout: no global "active run" that a second training could append to.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

DEFAULT_STORE = "sqlite:///mlflow.db"
PACKAGES = ("scanloom", "torch", "monai", "numpy", "pytorch-ignite", "nibabel", "pydicom", "mlflow")
PARAM_LENGTH = 6000
"""MLflow refuses longer values of a parameter."""
PARAM_NAME_LENGTH = 250


def tracking_uri() -> str:
    """The store in use: MLFLOW_TRACKING_URI, else SQLite in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


class TrackedRun:
    """One MLflow run that a training writes to.

    Attributes:
        run_id: MLflow's.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self._client = client

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters of the run; nested mappings are flattened to `outer/inner`, long values cut to MLflow's limit."""
        from mlflow.entities import Param

        flat = [Param(key, value[:PARAM_LENGTH]) for key, value in _flatten(params)]
        for start in range(0, len(flat), 100):
            self._client.log_batch(self.run_id, params=flat[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One value a name at this step (the epoch)."""
        for name, value in metrics.items():
            self._client.log_metric(self.run_id, name, value, step=step)

    def log_figure(self, figure: Figure, name: str) -> None:
        """A picture artifact; `name` is its path in the run, ending in .png."""
        self._client.log_figure(self.run_id, figure, name)

    def log_text(self, text: str, name: str) -> None:
        """A text artifact."""
        self._client.log_text(self.run_id, text, name)

    def log_file(self, path: Path, folder: str) -> None:
        """A file, or a whole folder, as artifacts under `folder`."""
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def register(self, name: str, folder: str) -> str:
        """Register the artifacts under `folder` as the next version of the model `name`; returns the version."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(name)
        except MlflowException:
            self._client.create_registered_model(name)
        source = f"{self._client.get_run(self.run_id).info.artifact_uri}/{folder}"
        return str(self._client.create_model_version(name, source, run_id=self.run_id).version)

    def set_tag(self, name: str, value: str) -> None:
        """A tag of the run."""
        self._client.set_tag(self.run_id, name, value)


@contextmanager
def tracked_run(
    experiment: str, name: str, tags: Mapping[str, str] | None = None, *, resume: str | None = None
) -> Iterator[TrackedRun]:
    """A new run of the experiment (or `resume`, the ID of one to go on with), open while the block lasts.

    Its status becomes FINISHED when the block ends, KILLED on Ctrl-C or SIGTERM, FAILED on any other exception, whose
    class is kept as the tag `error`; the exception goes on.
    """
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri())
    run = TrackedRun(client, resume or _create_run(client, experiment, name, {**_source_tags(), **(tags or {})}))
    client.update_run(run.run_id, status="RUNNING")
    try:
        yield run
    except KeyboardInterrupt:
        client.set_terminated(run.run_id, status="KILLED")
        raise
    except BaseException as error:
        run.set_tag("error", type(error).__name__)
        client.set_terminated(run.run_id, status="FAILED")
        raise
    client.set_terminated(run.run_id, status="FINISHED")


def environment() -> dict[str, str]:
    """What a result depends on besides config and data: versions, platform, the source's commit where there is one."""
    versions = {f"version/{package}": metadata.version(package) for package in PACKAGES}
    return {**versions, "version/python": platform.python_version(), "git_commit": _git_commit()}


def _create_run(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment)
    return str(client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)


def _source_tags() -> dict[str, str]:
    return {"mlflow.source.name": "scanloom train", "mlflow.source.type": "LOCAL", "mlflow.user": ""}


def _git_commit() -> str:
    """Commit of the source tree that runs, with "+changes" where it differs; "unknown" for an installed package."""
    folder = Path(__file__).resolve().parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(folder, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def _flatten(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield re.sub(r"[^\w\-. :/]", "_", prefix + key)[:PARAM_NAME_LENGTH], str(value)
