"""How each kind of record of an outbox reaches MLflow; delivering one twice is as delivering it once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .outbox import Record, RefusedError

if TYPE_CHECKING:
    from mlflow import MlflowClient

AT_ONCE = {"params": 100, "metrics": 1000}
"""Most entries that MLflow takes in one request."""
FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")
"""Error codes of MLflow that another attempt would get, too."""
FINAL_STATUSES = (400, 405, 411, 413, 414, 415, 422)
"""The same of a server before MLflow's, such as one that takes no large file (413)."""


def deliver(client: MlflowClient, run_id: str, run_folder: Path, record: Record) -> str | None:
    """Tell MLflow what the record says of the run.

    Args:
        client: of the store.
        run_id: of the run.
        run_folder: that paths in records are relative to.
        record: one of `TrackedRun`'s.
    Returns:
        A line for the user, where there is something to say.
    Raises:
        RefusedError: MLflow will never take it.
        Exception: whatever a store that is away raises.
    """
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    try:
        return _KINDS[record["kind"]](client, run_id, run_folder, record)
    except FileNotFoundError as error:
        raise RefusedError(f"{record['kind']}: a file is gone ({error.filename})") from error
    except MlflowException as error:
        if error.error_code in FINAL:
            raise RefusedError(f"{record['kind']}: {str(error).partition(chr(10))[0]}") from error
        raise
    except HTTPError as error:
        if error.response is not None and error.response.status_code in FINAL_STATUSES:
            raise RefusedError(f"{record['kind']}: HTTP status {error.response.status_code}") from error
        raise


def _params(client: MlflowClient, run_id: str, folder: Path, record: Record) -> None:
    from mlflow.entities import Param

    params = [Param(key, value) for key, value in record["params"].items()]
    for part in _parts(params, AT_ONCE["params"]):
        client.log_batch(run_id, params=part)


def _metrics(client: MlflowClient, run_id: str, folder: Path, record: Record) -> None:
    """With the time of their making, by which MLflow knows one that it has already."""
    from mlflow.entities import Metric

    points = [Metric(name, value, record["time"], step) for name, value, step in record["points"]]
    for part in _parts(points, AT_ONCE["metrics"]):
        client.log_batch(run_id, metrics=part)


def _tag(client: MlflowClient, run_id: str, folder: Path, record: Record) -> None:
    client.set_tag(run_id, record["name"], record["value"])


def _file(client: MlflowClient, run_id: str, folder: Path, record: Record) -> None:
    path = folder / record["path"]
    if path.is_dir():
        client.log_artifacts(run_id, str(path), record["folder"])
    else:
        client.log_artifact(run_id, str(path), record["folder"] or None)


def _inputs(client: MlflowClient, run_id: str, folder: Path, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(**{key: _text(value) for key, value in record["dataset"].items()})
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])])


def _register(client: MlflowClient, run_id: str, folder: Path, record: Record) -> str:
    from .registry import register

    source = f"{client.get_run(run_id).info.artifact_uri}/{record['folder']}"
    return register(client, run_id, record["name"], source, record["tags"]).note


def _reopen(client: MlflowClient, run_id: str, folder: Path, record: Record) -> None:
    """RUNNING again, without the error that ended it."""
    if "error" in client.get_run(run_id).data.tags:
        client.delete_tag(run_id, "error")
    client.update_run(run_id, status="RUNNING")


def _end(client: MlflowClient, run_id: str, folder: Path, record: Record) -> None:
    client.set_terminated(run_id, status=record["status"], end_time=record["time"])


_KINDS = {
    "params": _params,
    "metrics": _metrics,
    "tag": _tag,
    "file": _file,
    "inputs": _inputs,
    "register": _register,
    "reopen": _reopen,
    "end": _end,
}


def _parts(entries: list[Any], size: int) -> list[list[Any]]:
    return [entries[start : start + size] for start in range(0, len(entries), size)]


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
