"""What MLflow keeps of a training besides its metrics: what it began with, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle, bundle_digest
from .dataset import read_json
from .dataset_inputs import CONTEXTS, as_csv, dataset_input, split_digest
from .environment import installed_packages
from .options import TrainOptions
from .registry import DIGEST, KEY_METRIC, NOT_HELD_OUT, SPLIT
from .run_folder import CHECKPOINTS
from .tracking import TrackedRun
from .workflow import without_paths

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

MODEL = "model"
"""Artifact folder of the bundle as an MLflow model."""


def log_setup(
    run: TrackedRun,
    bundle: Bundle,
    workflow: ConfigWorkflow,
    options: TrainOptions,
    environment: Mapping[str, str],
    digest: str,
    cases: Sequence[Mapping[str, str]],
) -> None:
    """Config, environment, data and split, with no path of this machine in them.

    Args:
        run: to write to.
        bundle: that trains.
        workflow: with the config as it runs.
        options: of the command line.
        environment: as the training began with it.
        digest: of the dataset.
        cases: rows of `dataset_inputs.case_rows`.
    """
    import yaml

    config = without_paths(workflow.parser.get())
    name = str(read_json(options.dataset.expanduser()).get("name") or "dataset")  # not the folder's: that is of a path
    facts: dict[str, Any] = {"bundle": bundle.name, "bundle_version": bundle.version}
    facts |= {"dataset_sha256": digest, "dataset_cases": len({row["case"] for row in cases})}
    run.log_params({"config": config, **environment, **facts, **_hardware(workflow), "fold": options.fold})
    run.log_params({key: config[key] for key in ("seed", "epochs") if key in config})
    for context in CONTEXTS:
        run.log_dataset(dataset_input(name, cases, context), context)
    run.log_text(yaml.safe_dump(config, sort_keys=False), "config/train.yaml")
    names = {context: [row["case"] for row in cases if row["context"] == context] for context in CONTEXTS}
    run.log_text(json.dumps(names, indent=1), "config/split.json")
    run.log_text(as_csv(cases), "config/cases.csv")
    run.log_text(installed_packages(), "config/packages.txt")


def log_results(
    run: TrackedRun, bundle: Bundle, run_folder: Path, best: float, cases: Sequence[Mapping[str, str]]
) -> None:
    """The trained bundle, as a registered model, too; its last and best checkpoint, metrics.csv."""
    from .mlflow_model import save_model

    run.log_file(bundle.folder, "bundle")
    for checkpoint in ("last.pt", "best.pt"):
        if (run_folder / CHECKPOINTS / checkpoint).exists():
            run.log_file(run_folder / CHECKPOINTS / checkpoint, CHECKPOINTS)
    run.log_file(run_folder / "metrics.csv", "training")
    model = run.new_place() / MODEL
    save_model(bundle, model)
    run.log_file(model, MODEL)
    tags = {KEY_METRIC: f"{best:.6f}", SPLIT: split_digest(cases) or NOT_HELD_OUT, DIGEST: bundle_digest(bundle)}
    run.register(bundle.name, MODEL, tags)


def _hardware(workflow: ConfigWorkflow) -> dict[str, Any]:
    """What it computes on, and how."""
    import torch

    from ..device import describe_device, has_bf16

    parser = workflow.parser
    device = torch.device(parser.get_parsed_content("device"))
    wanted = parser.get_parsed_content("precision") if "precision" in parser else "as the config says"
    precision = ("bf16" if has_bf16(device) else "fp32") if wanted == "auto" else wanted
    return {"device": describe_device(device), "precision": precision}
