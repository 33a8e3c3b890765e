"""MLflow's model registry: a version a run, and the alias `champion` for the best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHAMPION = "champion"
KEY_METRIC, SPLIT, DIGEST = "key_metric", "validation_split", "bundle_sha256"
"""Tags of a version: its best validation, which cases that was measured on, what the bundle is."""
NOT_HELD_OUT = "none"
"""What `SPLIT` is where the validation's cases were trained on, too: such a figure is compared with none."""


@dataclass(frozen=True)
class Registered:
    """What became of a model in the registry.

    Attributes:
        version: of the model.
        is_champion: whether the alias is its.
        note: one line for the user.
    """

    version: str
    is_champion: bool
    note: str


def register(client: MlflowClient, run_id: str, name: str, source: str, tags: Mapping[str, str]) -> Registered:
    """Make a run's model a version of the registered model `name`; the run's own version where it has one already.

    It becomes the champion where there is none, or where its key metric is better than the champion's on the same
    validation cases: figures of other cases are not compared.

    Args:
        client: of the store.
        run_id: of the run.
        name: of the model, the bundle's.
        source: where the run keeps it, as `<artifact URI>/model`.
        tags: `KEY_METRIC` of the best validation (larger is better), `SPLIT`, the digest of the cases that were held
            out to validate, or `NOT_HELD_OUT`, and `DIGEST` of the bundle.
    """
    version = _version_of(client, run_id, name) or _new_version(client, run_id, name, source)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    wins, why = _compare(_champion(client, name), version, tags)
    if wins:
        client.set_registered_model_alias(name, CHAMPION, version)
    return Registered(version, wins, f"model {name} version {version}: {why}")


def _compare(champion: Any, version: str, tags: Mapping[str, str]) -> tuple[bool, str]:
    if champion is None:
        return True, f"the first {CHAMPION}"
    if str(champion.version) == version:
        return True, f"the {CHAMPION}"
    before = f"the {CHAMPION} is version {champion.version}"
    if tags[SPLIT] == NOT_HELD_OUT:
        return False, f"{before}; this one has no cases that were held out, so the two were not compared"
    if champion.tags.get(SPLIT) != tags[SPLIT]:
        return False, f"{before}, of other validation cases, so the two were not compared"
    key_metric, old = float(tags[KEY_METRIC]), float(champion.tags.get(KEY_METRIC, "-inf"))
    if key_metric > old:
        return True, f"the {CHAMPION}, with {key_metric:.4f} after {old:.4f} of version {champion.version}"
    return False, f"{before}, with {old:.4f}; this one has {key_metric:.4f}"


def _champion(client: MlflowClient, name: str) -> Any:
    """The champion's version, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):  # no such alias
            return None
        raise


def _version_of(client: MlflowClient, run_id: str, name: str) -> str | None:
    known = [one for one in client.search_model_versions(f"run_id='{run_id}'") if one.name == name]
    return str(known[0].version) if known else None


def _new_version(client: MlflowClient, run_id: str, name: str, source: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return str(client.create_model_version(name, source, run_id=run_id).version)
