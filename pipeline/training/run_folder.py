"""The folder of a training: bundle/, checkpoints/, metrics.csv, train.log; with all folds, one such folder a fold."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..atomic import write_whole
from ..bundle import CONFIG_SUFFIXES, NETWORK, Bundle, find_bundle
from ..errors import UsageError
from .csv_table import csv_table
from .store import store_folders

CHECKPOINTS = "checkpoints"

PARENT = "cross_validation.json"
"""File of a run folder with all folds that says which MLflow run is their parent."""

OF_THE_WEIGHTS = ("training", "measured_dice", "eval_metrics", "fingerprint")
"""What a bundle's metadata say of its weights, and not of what is trained anew from it."""


def prepare_run_folder(folder: Path, bundle: Bundle, *, resume: bool) -> None:
    """Make the folder and its checkpoints/.

    Raises:
        UsageError: it holds a training and this is not its resumption, or the reverse, or it can not be written to.
    """
    if folder.resolve().is_relative_to(bundle.source):
        raise UsageError(f"{folder} lies in the bundle {bundle.source}. Choose another folder with -o.")
    _require_store_outside_of_bundles()
    if (folder / "bundle").exists() and not resume:
        raise UsageError(f"{folder} already holds a training. Choose another folder with -o, or pass --resume.")
    if resume and not (folder / "bundle").is_dir():
        raise UsageError(f"--resume: {folder} holds no training. Start without --resume.")
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can not write to {folder}: {error.strerror}. Choose another folder with -o.") from None


def _require_store_outside_of_bundles() -> None:
    for place in store_folders():
        for folder in (place, *place.parents):
            if (folder / "configs" / "metadata.json").is_file():
                raise UsageError(
                    f"MLflow's store would be in the bundle {folder}. "
                    "Work in another folder, and let MLFLOW_TRACKING_URI name another, or none."
                )


def copy_bundle(bundle: Bundle, folder: Path, overrides: Mapping[str, Any]) -> Bundle:
    """The bundle in the run folder, with the network as overridden in every config, and without its weights.

    In a resumed training all but the weights so far is copied again: what runs is the bundle that the user named.
    """
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.name != "models":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    ignored = shutil.ignore_patterns("models", "__pycache__")
    shutil.copytree(bundle.folder, folder, ignore=ignored, dirs_exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    _disown_figures(folder / "docs" / "README.md", bundle)
    network = {key: value for key, value in overrides.items() if key.replace("::", "#").split("#")[0] == NETWORK}
    if network:
        for path in (folder / "configs").iterdir():
            if path.suffix in CONFIG_SUFFIXES:
                _override(path, network)
    return find_bundle(folder)


def finish_bundle(bundle: Bundle, training: Mapping[str, Any], **changes: Any) -> Bundle:
    """Write into the bundle's metadata, as `training`, what made its weights; drop what was measured of others.

    Args:
        bundle: with its weights.
        training: without their digest.
        changes: further entries of the metadata.
    """
    kept = {key: value for key, value in bundle.metadata.items() if key not in OF_THE_WEIGHTS}
    metadata = {**kept, **changes, "training": {**training, "weights_sha256": bundle.weights_sha256}}
    path = bundle.folder / "configs" / "metadata.json"
    write_whole(path, (json.dumps(metadata, indent=2, ensure_ascii=False) + "\n").encode())
    return find_bundle(bundle.folder)


def say_on_card(card: Path, notice: str) -> None:
    """Put a notice at the top of a model card, where there is one."""
    if card.is_file():
        card.write_text(f"> {notice}\n\n{card.read_text(encoding='utf-8')}", encoding="utf-8")


def write_parent_run(folder: Path, run_id: str) -> None:
    """Keep the MLflow run that the folds are children of, for a resumption."""
    write_whole(folder / PARENT, json.dumps({"mlflow_run_id": run_id}).encode())


def read_parent_run(folder: Path) -> str | None:
    """The MLflow run of the folds' parent; None where none began."""
    try:
        return str(json.loads((folder / PARENT).read_text(encoding="utf-8"))["mlflow_run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pool_metrics(folder: Path, folds: int, key_metric: str) -> dict[str, tuple[float, float]]:
    """Write metrics.csv over all folds: each fold's best validation, then their means and spreads.

    Args:
        folder: of the folds.
        folds: their number.
        key_metric: the row of metrics.csv that says which validation was the best.
    Returns:
        Of each metric the mean over the folds, and their standard deviation (of a sample; 0 for one fold).
    """
    rows: list[dict[str, Any]] = []
    for fold in range(folds):
        with (folder / f"fold{fold}" / "metrics.csv").open(newline="", encoding="utf-8") as file:
            entries = [row for row in csv.DictReader(file) if row["metric"].startswith("val/")]
        best = max((row for row in entries if row["metric"] == key_metric), key=lambda row: float(row["value"]))
        rows += [{"fold": fold, **row} for row in entries if row["epoch"] == best["epoch"]]
    pooled = {}
    for name in dict.fromkeys(str(row["metric"]) for row in rows):
        values = [float(row["value"]) for row in rows if row["metric"] == name]
        pooled[name] = mean(values), stdev(values) if len(values) > 1 else 0.0
    for name, figures in pooled.items():
        rows += [
            {"fold": fold, "epoch": "", "metric": name, "value": value}
            for fold, value in zip(("mean", "spread"), figures, strict=True)
        ]
    write_whole(folder / "metrics.csv", csv_table(["fold", "epoch", "metric", "value"], rows).encode())
    return pooled


def _disown_figures(card: Path, bundle: Bundle) -> None:
    """Say on a copied model card that its figures are of other weights."""
    say_on_card(
        card,
        f"Trained anew from the bundle {bundle.name} {bundle.version}: `training` in configs/metadata.json says how. "
        "The figures below are those of the bundle that it started from.",
    )


def _override(path: Path, values: Mapping[str, Any]) -> None:
    """Change a config file on disk, where it has a network; its comments are lost."""
    from monai.bundle import ConfigParser

    config = ConfigParser.load_config_file(str(path))
    if NETWORK in config:
        parser = ConfigParser(config)
        parser.update(dict(values))
        kind = "json" if path.suffix == ".json" else "yaml"
        options: dict[str, Any] = {"indent": 2} if kind == "json" else {"sort_keys": False}
        ConfigParser.export_config_file(parser.get(), str(path), fmt=kind, **options)
