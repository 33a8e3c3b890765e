"""The bundles at hand: those that come with the package, those known here, those in the MLflow store beside."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from ..bundle import REGISTERED, SHIPPED, Bundle, file_sha256, open_bundle, shipped_bundles
from ..bundle_files import bundle_files
from ..errors import BundleError
from ..trust import known_bundles
from .facts import labels_of, modality_of, score_of

log = logging.getLogger("scanloom.bundles")

DEFAULT_STORE = "mlflow.db"
SQLITE = re.compile(r"sqlite:///(?P<path>.+)")
VERSIONS = """
    SELECT versions.name, versions.version,
           (SELECT group_concat(alias, ' ') FROM registered_model_aliases AS aliases
            WHERE aliases.name = versions.name AND aliases.version = versions.version)
    FROM model_versions AS versions
    JOIN model_version_tags AS tags ON tags.name = versions.name AND tags.version = versions.version
    WHERE tags.key = 'bundle_sha256'
    ORDER BY versions.name, versions.version
"""
"""The versions that scanloom registered. Source: MLflow's SQL schema, `mlflow.store.model_registry.dbmodels`."""


def list_bundles() -> list[dict[str, Any]]:
    """A row a bundle: name, version, task, modality, labels, bytes of the weights, score, where it is, its trust.

    Weights are not read: a bundle counts as changed here where any other file is another. `bundle_facts` reads all.
    """
    return [*_shipped(), *_known(), *_registered()]


def _shipped() -> Iterator[dict[str, Any]]:
    for name in shipped_bundles():
        yield from _row(SHIPPED / name, name, "shipped")


def _known() -> Iterator[dict[str, Any]]:
    """Those that are recorded as trained or trusted here and still lie where they did."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in known_bundles():
        folder = Path(entry.folder)
        if entry.folder and (folder / "configs" / "metadata.json").is_file():
            state = "changed" if _is_changed(folder, entry.files) else entry.how
            for row in _row(folder, entry.folder, state):
                rows.pop(entry.folder, None)  # of an earlier training into the folder
                rows[entry.folder] = row
    yield from rows.values()


def _row(folder: Path, address: str, state: str) -> Iterator[dict[str, Any]]:
    try:
        bundle = open_bundle(folder)
    except BundleError as error:
        log.debug("left out: %s", error)
        return
    yield {
        "name": bundle.name,
        "version": str(bundle.metadata.get("version", "")),
        "task": str(bundle.metadata.get("task", "")),
        "modality": modality_of(bundle),
        "labels": [label["name"] for label in labels_of(bundle)],
        "weights_bytes": _bytes(bundle),
        "score": score_of(bundle),
        "state": state,
        "bundle": address,
    }


def _bytes(bundle: Bundle) -> int | None:
    return bundle.weights.stat().st_size if bundle.weights.is_file() else None


def _is_changed(folder: Path, recorded: Any) -> bool:
    """Whether a file but the weights is another than was recorded; an old record knows no files."""
    if not recorded:
        return False
    found = dict(bundle_files(folder))
    small = [name for name in recorded if not name.startswith("models/")]
    return set(found) != set(recorded) or any(file_sha256(found[name]).hex() != recorded[name] for name in small)


def _registered() -> Iterator[dict[str, Any]]:
    """Those of an SQLite store, read as the file that it is: MLflow takes seconds to import."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    match = SQLITE.fullmatch(uri) if uri else None
    path = Path(match["path"] if match else DEFAULT_STORE)
    if (uri and not match) or not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            rows = database.execute(VERSIONS).fetchall()
    except sqlite3.Error as error:  # another schema, or locked: what is registered is then not listed
        log.debug("the store %s can not be read: %s", path, error)
        return
    for name, version, aliases in rows:
        address = f"{REGISTERED}{name}@{aliases.split()[0]}" if aliases else f"{REGISTERED}{name}/{version}"
        yield {
            "name": str(name),
            "version": f"registered as {version}",
            "task": "",
            "modality": None,
            "labels": [],
            "weights_bytes": None,
            "score": None,
            "state": "registered",
            "bundle": address,
        }
