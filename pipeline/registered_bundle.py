"""Bundles of MLflow's registry: models:/NAME@ALIAS or models:/NAME/VERSION, fetched once and checked by digest."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .bundle import Bundle, bundle_digest
from .errors import BundleError
from .training.registry import DIGEST
from .training.store import reason, require_store, shown_uri, tracking_uri, usable_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def fetch_bundle(address: str) -> Path:
    """The folder of a registered bundle, in the cache of this user.

    What the registry says of a bundle makes nobody trust it: `trust` knows it by its digest, as any other.

    Args:
        address: models:/NAME@ALIAS or models:/NAME/VERSION.
    Raises:
        BundleError: it is no such address, there is no such model, what was fetched is not what was registered, or it
            can not be kept.
        UsageError: the working folder has no store.
        PipelineError: the store can not be used.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise BundleError(f"bundle {address}: write it as models:/NAME@ALIAS or models:/NAME/VERSION.")
    require_store()
    with usable_store() as client:
        version = _version(client, address, **found.groupdict())
        digest = version.tags.get(DIGEST, "")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise BundleError(f"bundle {address}: it was not registered by scanloom. Train it with `scanloom train`.")
        kept = _cache() / digest
        if not _is(kept, digest):
            _fetch(client, version, address, kept)
        return kept


def _version(client: MlflowClient, address: str, name: str, alias: str | None, version: str | None) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # the second for an alias
            raise
        raise BundleError(
            f"bundle {address}: {reason(error)} in MLflow store {shown_uri()}. `scanloom ui` shows its models."
        ) from error


def _fetch(client: MlflowClient, version: ModelVersion, address: str, target: Path) -> None:
    """Put the bundle that lies in the model's artifacts into the target, which is called as its digest."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as aside:
            _place(_bundle_in(_download(client, version, address, aside), address), address, target)
    except OSError as error:
        raise BundleError(
            f"bundle {address} can not be kept in {target.parent}: {error.strerror or type(error).__name__}. "
            "Make room there, or set XDG_CACHE_HOME to another folder."
        ) from error


def _download(client: MlflowClient, version: ModelVersion, address: str, folder: str) -> Path:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        source = client.get_model_version_download_uri(version.name, version.version)
        return Path(mlflow.artifacts.download_artifacts(source, dst_path=folder, tracking_uri=tracking_uri()))
    except (MlflowException, OSError) as error:
        raise BundleError(
            f"bundle {address}: its files can not be had of MLflow store {shown_uri()}: {reason(error)}. "
            "Train it anew, or take another version."
        ) from error


def _bundle_in(model: Path, address: str) -> Path:
    for metadata in model.glob("data/*/configs/metadata.json"):
        return metadata.parent.parent
    raise BundleError(f"bundle {address}: the model holds no bundle. Train it with `scanloom train`.")


def _place(bundle: Path, address: str, target: Path) -> None:
    """Move what was fetched to the target, where it is what was registered."""
    if not _is(bundle, target.name):
        raise BundleError(f"bundle {address}: what MLflow keeps is not what was registered. Train or register it anew.")
    shutil.rmtree(target, ignore_errors=True)
    try:
        bundle.replace(target)
    except OSError:
        if not _is(target, target.name):  # else another process was quicker
            raise


def _is(folder: Path, digest: str) -> bool:
    return folder.is_dir() and bundle_digest(Bundle(folder, {})) == digest


def _cache() -> Path:
    """Where fetched bundles are kept: under XDG_CACHE_HOME, by default ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "scanloom" / "bundles"
