"""Bundles of MLflow's registry: models:/NAME@ALIAS or models:/NAME/VERSION, fetched once and checked by digest."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .bundle import Bundle, bundle_digest
from .errors import BundleError
from .training.registry import DIGEST
from .training.tracking import shown_uri, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def fetch_bundle(address: str) -> Path:
    """The folder of a registered bundle, in the cache of this user.

    What the registry says of a bundle makes nobody trust it: `trust` knows it by its digest, as any other.

    Args:
        address: models:/NAME@ALIAS or models:/NAME/VERSION.
    Raises:
        BundleError: it is no such address, there is no such model, or what was fetched is not what was registered.
    """
    found = ADDRESS.fullmatch(address)
    if not found:
        raise BundleError(f"bundle {address}: write it as models:/NAME@ALIAS or models:/NAME/VERSION.")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(tracking_uri())
        version = _version(client, **found.groupdict())
        digest = version.tags.get(DIGEST, "")
        if not re.fullmatch(r"[0-9a-f]{64}", digest):
            raise BundleError(f"bundle {address}: it was not registered by scanloom. Train it with `scanloom train`.")
        kept = _cache() / digest
        if not _is(kept, digest):
            _download(client, version, kept)
    except MlflowException as error:
        reason = str(error).partition("\n")[0].strip().rstrip(".")
        raise BundleError(
            f"bundle {address} can not be had of MLflow store {shown_uri()}: {reason}. Check the name, "
            "MLFLOW_TRACKING_URI, or the working folder."
        ) from error
    if not _is(kept, digest):
        shutil.rmtree(kept, ignore_errors=True)
        raise BundleError(f"bundle {address}: what MLflow keeps is not what was registered. Train or register it anew.")
    return kept


def _version(client: MlflowClient, name: str, alias: str | None, version: str | None) -> Any:
    return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)


def _download(client: MlflowClient, version: Any, target: Path) -> None:
    """Put the bundle that lies in the model's artifacts into the target, as a whole."""
    import mlflow

    target.parent.mkdir(parents=True, exist_ok=True)
    source = client.get_model_version_download_uri(version.name, version.version)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        fetched = Path(
            mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=aside, tracking_uri=tracking_uri())
        )
        for metadata in sorted(fetched.glob("data/*/configs/metadata.json")):
            shutil.rmtree(target, ignore_errors=True)
            metadata.parent.parent.replace(target)
            return
    raise BundleError(
        f"model {version.name} version {version.version} holds no bundle. Train it with `scanloom train`."
    )


def _is(folder: Path, digest: str) -> bool:
    return folder.is_dir() and bundle_digest(Bundle(folder, {})) == digest


def _cache() -> Path:
    """Where fetched bundles are kept: under XDG_CACHE_HOME, by default ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "scanloom" / "bundles"
