"""The folds of a training as one bundle, whose network is the ensemble of theirs."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..atomic import atomic, atomic_folder
from ..bundle import CONFIG_SUFFIXES, NETWORK, Bundle, find_bundle
from ..bundle_network import inference_config, read_weights
from ..errors import BundleError, UsageError
from ..fingerprint import Fingerprint
from .fingerprint import joined
from .run_folder import finish_bundle, read_parent_run, say_on_card

TARGET = "scanloom.networks.Ensemble"
FOLD = re.compile(r"fold(\d+)")


def find_folds(run_folder: Path) -> list[Bundle]:
    """The trained bundles of all folds, in their order.

    Args:
        run_folder: of `scanloom train --all-folds`.
    Raises:
        UsageError: it holds no folds, or not all of them are there and finished.
        BundleError: the folds were trained on different data or for different networks or preprocessing.
    """
    found = {int(match[1]): path for path in run_folder.glob("fold*") if (match := FOLD.fullmatch(path.name))}
    if not found:
        raise UsageError(f"{run_folder} holds no folds. Name the folder of a scanloom train --all-folds.")
    trained = {fold: _trained(path / "bundle", fold) for fold, path in sorted(found.items())}
    bundles = {fold: bundle for fold, bundle in trained.items() if bundle is not None}
    folds = max((int(bundle.metadata["training"]["folds"]) for bundle in bundles.values()), default=len(found))
    missing = [f"fold{fold}" for fold in range(folds) if fold not in bundles]
    if missing:
        raise UsageError(
            f"{run_folder}: not finished: {', '.join(missing)}. Go on with scanloom train --all-folds --resume."
        )
    _require_alike(list(bundles.values()))
    return list(bundles.values())


def make_ensemble(members: Sequence[Bundle], folder: Path, parent_run: str | None = None) -> Bundle:
    """Write one bundle that predicts the mean of the members' probabilities; whole or not at all.

    It is the first member's, but for `network_def` (`scanloom.networks.Ensemble` of all), the weights (all, float32,
    in one file), the metadata and the train config, which it has none of: an ensemble is not trained as one.

    Args:
        members: of `find_folds`.
        folder: of the bundle; must not hold anything.
        parent_run: the MLflow run that the members' runs are children of.
    Raises:
        UsageError: the folder holds something.
        PipelineError: it can not be written.
    """
    with atomic_folder(folder) as part:
        shutil.copytree(members[0].folder, part, ignore=shutil.ignore_patterns("models", "__pycache__", "train.*"))
        for path in (part / "configs").iterdir():
            if path.suffix in CONFIG_SUFFIXES:
                _multiply_network(path, len(members))
        _write_weights(members, part / "models" / "model.pt")
        _write_metadata(members, part, parent_run)
        _write_notice(part / "docs" / "README.md", len(members))
    return find_bundle(folder)


def make_fold_ensemble(run_folder: Path, folder: Path) -> Bundle:
    """`make_ensemble` of `find_folds`, which raise what it raises."""
    return make_ensemble(find_folds(run_folder), folder, read_parent_run(run_folder))


def _trained(folder: Path, fold: int) -> Bundle | None:
    """The bundle of a finished fold: its metadata speak of the weights that are there."""
    if not folder.is_dir():
        return None
    bundle = find_bundle(folder)
    training = bundle.metadata.get("training", {})
    finished = bundle.weights.is_file() and training.get("weights_sha256") == bundle.weights_sha256
    return bundle if finished and training.get("fold") == fold else None


def _require_alike(bundles: Sequence[Bundle]) -> None:
    first, *others = bundles
    for fold, other in enumerate(others, start=1):
        if other.metadata["training"].get("dataset_sha256") != first.metadata["training"].get("dataset_sha256"):
            raise BundleError(f"fold{fold} was trained on another dataset than fold0. Train it again.")
        if _configuration(other) != _configuration(first):
            raise BundleError(f"fold{fold} has another inference config than fold0. Train it again.")


def _configuration(bundle: Bundle) -> Mapping[str, Any]:
    config = dict(inference_config(bundle).get())
    return {key: value for key, value in config.items() if key not in ("bundle_root", "_meta_")}


def _multiply_network(path: Path, count: int) -> None:
    """Put the ensemble of `count` networks in the place of the one in a config file; its comments are lost."""
    config = ConfigParser.load_config_file(str(path))
    if NETWORK not in config:
        return
    config[NETWORK] = {"_target_": TARGET, "members": [copy.deepcopy(config[NETWORK]) for _ in range(count)]}
    kind = "json" if path.suffix == ".json" else "yaml"
    options: dict[str, Any] = {"indent": 2} if kind == "json" else {"sort_keys": False}
    ConfigParser.export_config_file(config, str(path), fmt=kind, **options)


def _write_weights(members: Sequence[Bundle], path: Path) -> None:
    state = {
        f"members.{index}.{name}": value.float() if value.is_floating_point() else value
        for index, member in enumerate(members)
        for name, value in read_weights(member).items()
    }
    with atomic(path, check=lambda written: torch.load(written, weights_only=True)) as temporary:
        torch.save(state, temporary)


def _write_metadata(members: Sequence[Bundle], folder: Path, parent_run: str | None) -> None:
    """Of the first member, with what made each of them; `fold` is none, for all cases were seen by some."""
    made = find_bundle(folder)
    first = members[0].metadata["training"]
    training = {
        "mlflow_run_id": parent_run,
        "fold": None,
        "folds": len(members),
        "dataset_sha256": first.get("dataset_sha256"),
        "members": [dict(member.metadata["training"]) for member in members],
    }
    seen = [member.metadata.get("fingerprint") for member in members]
    known = (
        {"fingerprint": joined([Fingerprint.from_json(each) for each in seen if each]).to_json()} if all(seen) else {}
    )
    finish_bundle(made, training, name=f"{made.name}_ensemble", **known)


def _write_notice(card: Path, count: int) -> None:
    """Say on the model card what the bundle is."""
    say_on_card(
        card,
        f"An ensemble of the networks of {count} folds, the mean of whose probabilities it predicts: `training` in "
        "configs/metadata.json says which runs made them. The figures below are not the ensemble's.",
    )
