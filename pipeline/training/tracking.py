"""A training as one MLflow run: its own, with a status that is always true.

The run is made before the first step; from then on all goes through an `Outbox` in the run folder.
MLflow's client is called with the run's ID throughout: no global "active run" that a second training could append to.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..progress import Report, silent
from .delivery import deliver
from .lost_runs import PROCESS, mark_lost_runs, this_process
from .outbox import REFUSED, Outbox, milliseconds, refused
from .store import require_store, shown_uri, usable_store

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

PARAM_LENGTH = 6000
"""MLflow refuses longer values of a parameter."""
PARAM_NAME_LENGTH = 250
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""The UI shows such an experiment as runs with metrics, not as traces of a language model."""
TRACKING = "tracking"
"""Folder of a run folder with the outboxes of its runs."""
CLOSING_S = 30.0
"""How long the end of a training waits for MLflow."""


class TrackedRun:
    """One MLflow run that a training writes to, by way of its outbox: no call waits for MLflow.

    Args:
        run_id: MLflow's.
        run_folder: of the training; files in it are sent from where they are.
        outbox: takes the records.
    """

    def __init__(self, run_id: str, run_folder: Path, outbox: Outbox) -> None:
        self.run_id = run_id
        self._run_folder = run_folder.absolute()
        self._outbox = outbox
        self._known = {_point(point) for record in outbox.records() for point in record.get("points", ())}
        self._files = sum(1 for record in outbox.records() if record["kind"] == "file")

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters of the run; nested mappings are flattened to `outer/inner`, long values cut to MLflow's limit."""
        values: dict[str, str] = {}
        for key, value in _flatten(params):
            values[_unused(_param_name(key), values)] = value[:PARAM_LENGTH]
        self._outbox.put({"kind": "params", "params": values})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One value a name at this step (the epoch)."""
        self.log_points([(name, float(value), step) for name, value in metrics.items()])

    def log_points(self, points: Sequence[tuple[str, float, int]]) -> None:
        """Values of metrics, each (name, value, step); one that was told before, by a training that is resumed, is not
        told again."""
        new = [list(point) for point in points if _point(point) not in self._known]
        if new:
            self._known.update(map(_point, new))
            self._outbox.put({"kind": "metrics", "points": new, "time": milliseconds()})

    def next_step(self, prefix: str) -> int:
        """The step after the last of the metrics whose names begin so."""
        return max((step + 1 for name, _, step in self._known if name.startswith(prefix)), default=0)

    def log_figure(self, figure: Figure, name: str) -> None:
        """A picture artifact; `name` is its path in the run, ending in .png."""
        with self._staged(name) as path:
            figure.savefig(path)

    def log_text(self, text: str, name: str) -> None:
        """A text artifact."""
        with self._staged(name) as path:
            path.write_text(text, encoding="utf-8")

    def log_file(self, path: Path, folder: str) -> None:
        """A file, or a whole folder, as artifacts under `folder`; one in the run folder must stay there."""
        if path.absolute().is_relative_to(self._run_folder):
            self._put_file(path.absolute(), folder)
            return
        copy = self.new_place() / path.name
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copyfile(path, copy)
        self._put_file(copy, folder)

    def log_dataset(self, dataset: Mapping[str, Any], context: str) -> None:
        """A dataset input: `name`, `digest`, `source_type`, `source`, `schema`, `profile`, as of mlflow.data."""
        self._outbox.put({"kind": "inputs", "dataset": dict(dataset), "context": context})

    def register(self, name: str, folder: str, tags: Mapping[str, str]) -> None:
        """Make this run's artifacts under `folder` a version of the model `name`; see `registry.register`."""
        self._outbox.put({"kind": "register", "name": name, "folder": folder, "tags": dict(tags)})

    def set_tag(self, name: str, value: str) -> None:
        """A tag of the run."""
        self._outbox.put({"kind": "tag", "name": name, "value": value})

    def end(self, status: str) -> None:
        """Close the run with a status of MLflow's: FINISHED, FAILED or KILLED."""
        self._outbox.put({"kind": "end", "status": status, "time": milliseconds()})

    @contextmanager
    def _staged(self, name: str) -> Iterator[Path]:
        """A file in the outbox to write to, which becomes the artifact `name`."""
        path = self.new_place() / Path(name).name
        yield path
        self._put_file(path, str(Path(name).parent) if "/" in name else "")

    def new_place(self) -> Path:
        """A new folder that is there until all is delivered, for files to log."""
        self._files += 1
        place = self._outbox.folder.absolute() / "files" / str(self._files)
        place.mkdir(parents=True, exist_ok=True)
        return place

    def _put_file(self, path: Path, folder: str) -> None:
        self._outbox.put({"kind": "file", "path": str(path.relative_to(self._run_folder)), "folder": folder})


@contextmanager
def tracked_run(
    experiment: str,
    name: str,
    run_folder: Path,
    tags: Mapping[str, str] | None = None,
    *,
    resume: str | None = None,
    report: Report = silent,
) -> Iterator[TrackedRun]:
    """A new run of the experiment (or `resume`, the ID of one to go on with), open while the block lasts.

    Its status becomes FINISHED when the block ends, KILLED on Ctrl-C or SIGTERM, FAILED on any other exception, whose
    class is kept as the tag `error`; the exception goes on. Runs of the experiment whose process is gone (kill -9), and
    others of this run folder, which must be ours alone, are marked KILLED first. What MLflow has not got by the end
    stays in `run_folder`, and the report says so.

    Raises:
        UsageError: the store has no run `resume`.
        PipelineError: the store can not be used.
    """
    before = {path.name for path in run_folder.glob(f"{TRACKING}/*") if path.name != resume}
    client, run_id = _open_run(experiment, name, {**_source_tags(), **(tags or {})}, resume, before)
    run_folder.mkdir(parents=True, exist_ok=True)
    outbox = Outbox(outbox_folder(run_folder, run_id), partial(deliver, client, run_id, run_folder))
    run = TrackedRun(run_id, run_folder, outbox)
    if resume is not None:
        outbox.put({"kind": "reopen"})
    try:
        yield run
    except KeyboardInterrupt:
        run.end("KILLED")
        raise
    except BaseException as error:
        run.set_tag("error", type(error).__name__)
        run.end("FAILED")
        raise
    else:
        run.end("FINISHED")
    finally:
        _close(outbox, run_folder, report)


def outbox_folder(run_folder: Path, run_id: str) -> Path:
    """Where the outbox of that run is."""
    return run_folder / TRACKING / run_id


def _close(outbox: Outbox, run_folder: Path, report: Report) -> None:
    """Wait for the rest, and say what MLflow has not got."""
    left = outbox.close(CLOSING_S)
    for note in outbox.notes:
        report(note)
    if left:
        report(
            f"MLflow store {shown_uri()} has not got {left} records of this run; they are kept in {outbox.folder}. "
            f"`scanloom sync {run_folder}` sends them when it is back."
        )
    elif not (lost := refused(outbox.folder)):
        shutil.rmtree(outbox.folder / "files", ignore_errors=True)
    else:
        report(
            f"MLflow refused {lost} records of this run; they are in {outbox.folder / REFUSED}, the why in train.log"
        )


def open_store(run_id: str) -> MlflowClient:
    """The store in use, which has this run.

    Raises:
        UsageError: it has not, or there is none.
        PipelineError: it can not be used.
    """
    require_store()
    with usable_store() as client:
        _require_run(client, run_id)
    return client


def _open_run(
    experiment: str, name: str, tags: Mapping[str, str], resume: str | None, of_folder: Collection[str]
) -> tuple[MlflowClient, str]:
    with usable_store() as client:
        mark_lost_runs(client, experiment, of_folder)
        if resume is None:
            return client, _create_run(client, experiment, name, {**tags, PROCESS: this_process()})
        _require_run(client, resume)
        client.update_run(resume, status="RUNNING")
        client.set_tag(resume, PROCESS, this_process())
        return client, resume


def _require_run(client: MlflowClient, run_id: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UsageError(
            f"MLflow store {shown_uri()} has no run {run_id}. "
            "Run this in the working folder, or with the MLFLOW_TRACKING_URI, of the training's start."
        ) from None


def _create_run(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    found = client.get_experiment_by_name(experiment)
    experiment_id = found.experiment_id if found else client.create_experiment(experiment, tags=EXPERIMENT_TAGS)
    return str(client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id)


def _source_tags() -> dict[str, str]:
    return {"mlflow.source.name": "scanloom train", "mlflow.source.type": "LOCAL", "mlflow.user": ""}


def _point(point: Sequence[Any]) -> tuple[str, str, int]:
    """A metric's value as a key; a NaN is not equal to itself."""
    return str(point[0]), repr(float(point[1])), int(point[2])


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
