"""The MLflow store in use: `MLFLOW_TRACKING_URI`, or `sqlite:///mlflow.db` in the working folder, `mlflow ui`'s own."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PipelineError, UsageError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

DEFAULT_STORE = "sqlite:///mlflow.db"
SERVERS = ("http://", "https://", "databricks")
"""How the addresses of servers begin."""

MLFLOW_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
"""Where the user's environment does not say otherwise. The outbox tries again what does not answer; a jitter would draw
from Python's random numbers, in whatever thread, and so change those of the training."""

for _name, _value in MLFLOW_SETTINGS.items():  # read when mlflow is imported, which it is nowhere above
    os.environ.setdefault(_name, _value)


def tracking_uri() -> str:
    """The store in use: MLFLOW_TRACKING_URI, else SQLite in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_STORE


def store_folders() -> list[Path]:
    """Where the store in use writes: the working folder, which MLflow keeps artifacts in, and its own; none where a
    server keeps it."""
    uri = tracking_uri()
    if uri.startswith(SERVERS):
        return []
    folder, database = re.fullmatch(r"(?:file:(?://)?)?([^:]+)", uri), _database()
    own = [database.parent] if database else [Path(folder[1])] if folder else []
    return [Path.cwd(), *(path.absolute() for path in own)]


def shown_uri() -> str:
    """`tracking_uri()` for people: without the password that it may hold."""
    return _without_password(tracking_uri())


def require_store() -> None:
    """Return where there is a store to read; MLflow would make an empty database, or try for minutes to make one.

    Raises:
        UsageError: there is no such database file.
    """
    database = _database()
    if database is not None and not database.exists():
        raise UsageError(
            f"no training is recorded here: there is no {database}. "
            "Go to the folder that the training was started in, or set MLFLOW_TRACKING_URI."
        )


@contextmanager
def usable_store() -> Iterator[MlflowClient]:
    """The store's client; what MLflow raises within the block becomes one line.

    Raises:
        PipelineError: that line.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        yield MlflowClient(tracking_uri())
    except MlflowException as error:
        raise PipelineError(
            f"MLflow store {shown_uri()} can not be used: {reason(error)}. "
            "Check MLFLOW_TRACKING_URI, or the working folder."
        ) from error


def reason(error: MlflowException) -> str:
    """What MLflow says, in one line and without a password; of a server that can not be reached no more than that."""
    text = _without_password(str(error).partition("\n")[0].strip().rstrip("."))
    return "it does not answer" if text.startswith("API request to ") and " failed with exception " in text else text


def _database() -> Path | None:
    """The file of the store, where it is SQLite."""
    found = re.fullmatch(r"sqlite:///([^?]+).*", tracking_uri())
    return Path(found[1]) if found else None


def _without_password(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)
