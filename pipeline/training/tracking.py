"""A training as one MLflow run: its own, with a status that is always true.

The store is `MLFLOW_TRACKING_URI`, or `sqlite:///mlflow.db` in the working folder: a bare `mlflow ui` there shows it.
MLflow's client is called with the run's ID throughout: no global "active run" that a second training could append to.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PipelineError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

DEFAULT_STORE = "sqlite:///mlflow.db"
PACKAGES = ("scanloom", "torch", "monai", "numpy", "pytorch-ignite", "nibabel", "pydicom", "mlflow")
PARAM_LENGTH = 6000
"""MLflow refuses longer values of a parameter."""
PARAM_NAME_LENGTH = 250
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""The UI shows such an experiment as runs with metrics, not as traces of a language model."""


os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported, which it is nowhere above


def tracking_uri() -> str:
    """The store in use: MLFLOW_TRACKING_URI, else SQLite in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def shown_uri() -> str:
    """`tracking_uri()` for people: without the password that it may hold."""
    return re.sub(r"//[^/@]*@", "//", tracking_uri())


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

        values: dict[str, str] = {}
        for key, value in _flatten(params):
            values[_unused(_param_name(key), values)] = value[:PARAM_LENGTH]
        flat = [Param(key, value) for key, value in values.items()]
        for start in range(0, len(flat), 100):
            self._client.log_batch(self.run_id, params=flat[start : start + 100])

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One value a name at this step (the epoch)."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(name, value, now, step) for name, value in metrics.items()])

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
        """The version of the model `name` that is this run's artifacts under `folder`; a new one, unless it has one."""
        from mlflow.exceptions import MlflowException

        known = [one for one in self._client.search_model_versions(f"run_id='{self.run_id}'") if one.name == name]
        if known:
            return str(known[0].version)
        try:
            self._client.get_registered_model(name)
        except MlflowException:
            self._client.create_registered_model(name)
        source = f"{self._client.get_run(self.run_id).info.artifact_uri}/{folder}"
        return str(self._client.create_model_version(name, source, run_id=self.run_id).version)

    def set_tag(self, name: str, value: str) -> None:
        """A tag of the run."""
        self._client.set_tag(self.run_id, name, value)

    def end(self, status: str) -> None:
        """Close the run with a status of MLflow's: FINISHED, FAILED or KILLED."""
        self._client.set_terminated(self.run_id, status=status)


@contextmanager
def tracked_run(
    experiment: str, name: str, tags: Mapping[str, str] | None = None, *, resume: str | None = None
) -> Iterator[TrackedRun]:
    """A new run of the experiment (or `resume`, the ID of one to go on with), open while the block lasts.

    Its status becomes FINISHED when the block ends, KILLED on Ctrl-C or SIGTERM, FAILED on any other exception, whose
    class is kept as the tag `error`; the exception goes on.

    Raises:
        UsageError: the store has no run `resume`.
        PipelineError: the store can not be used.
    """
    run = TrackedRun(*_open_run(experiment, name, {**_source_tags(), **(tags or {})}, resume))
    try:
        yield run
    except KeyboardInterrupt:
        run.end("KILLED")
        raise
    except BaseException as error:
        run.set_tag("error", type(error).__name__)
        run.end("FAILED")
        raise
    run.end("FINISHED")


def environment() -> dict[str, str]:
    """What a result depends on besides config and data: versions, platform, the source's commit where there is one."""
    versions = {f"version/{package}": metadata.version(package) for package in PACKAGES}
    return {**versions, "version/python": platform.python_version(), "git_commit": _git_commit()}


def _open_run(experiment: str, name: str, tags: Mapping[str, str], resume: str | None) -> tuple[MlflowClient, str]:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri())
        if resume is None:
            return client, _create_run(client, experiment, name, tags)
        _reopen_run(client, resume)
        return client, resume
    except MlflowException as error:
        reason = str(error).partition("\n")[0].strip().rstrip(".")
        raise PipelineError(
            f"MLflow store {shown_uri()} can not be used: {reason}. Check MLFLOW_TRACKING_URI, or the working folder."
        ) from error


def _reopen_run(client: MlflowClient, run_id: str) -> None:
    """Make the run RUNNING again, without the error that ended it."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_run(run_id).data.tags
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UsageError(
            f"--resume: MLflow store {shown_uri()} has no run {run_id}. "
            "Resume in the working folder, or with the MLFLOW_TRACKING_URI, of its start."
        ) from None
    if "error" in tags:
        client.delete_tag(run_id, "error")
    client.update_run(run_id, status="RUNNING")


def _create_run(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, tags=EXPERIMENT_TAGS)
    return str(client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)


def _source_tags() -> dict[str, str]:
    return {"mlflow.source.name": "scanloom train", "mlflow.source.type": "LOCAL", "mlflow.user": ""}


def _git_commit() -> str:
    """Commit of the source tree that runs, with "+changes" where it differs; "unknown" for an installed package."""
    file = Path(__file__).resolve()
    folder = file.parent
    try:
        _git(folder, "ls-files", "--error-unmatch", file.name)  # not the repository that a virtual environment lies in
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
            yield f"{prefix}{key}", str(value)


def _param_name(key: str) -> str:
    """The name in the characters that MLflow takes, which reads it as a path: no part empty or of dots alone."""
    parts = [re.sub(r"[^\w\-. :]", "_", part) for part in key.split("/")]
    return "/".join(part if part.strip(".") else "_" for part in parts)[:PARAM_NAME_LENGTH].rstrip("/")


def _unused(name: str, used: Mapping[str, str]) -> str:
    """The name, or one like it, where it is taken."""
    free, number = name, 2
    while free in used:
        free, number = f"{name[: PARAM_NAME_LENGTH - 4]}_{number}", number + 1
    return free
