"""The story of a training: a dataset and a bundle's train config -> MLflow run -> weights -> a trained bundle."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle, find_bundle
from ..errors import BundleError, UsageError
from ..progress import Report
from .dataset import dataset_digest, read_dataset, split_dataset
from .tracking import TrackedRun, environment, tracked_run

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

log = logging.getLogger("scanloom.training")

PATHS = ("bundle_root", "dataset_dir", "output_dir")
"""Ids of a train config that hold paths of this machine: never tracked."""
TRAINER, EVALUATOR = "train#trainer", "validate#evaluator"
STATEFUL = ("network", "ema", "optimizer", "lr_scheduler")
"""Ids of a train config whose states go into a checkpoint, where the config has them."""


@dataclass(frozen=True)
class TrainOptions:
    """What the command line says of a training.

    Attributes:
        dataset: a Medical Decathlon or nnU-Net raw folder.
        run_folder: gets bundle/, checkpoints/, metrics.csv and train.log.
        fold: the fold held out; None trains on all cases.
        folds: number of folds.
        epochs, seed: override the config's where not None.
        device: "auto", "cpu", "cuda", "cuda:1", …
        resume: go on from the last checkpoint in `run_folder`.
        overrides: further ids of the config and their values.
        parent_run: the MLflow run that this one is a child of.
    """

    dataset: Path
    run_folder: Path
    fold: int | None = 0
    folds: int = 5
    epochs: int | None = None
    seed: int | None = None
    device: str = "auto"
    resume: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    parent_run: str | None = None


def train(bundle: Bundle, options: TrainOptions, report: Report) -> Bundle:
    """Train the bundle's network on one fold, as one MLflow run.

    Args:
        bundle: whose train config runs.
        options: see `TrainOptions`.
        report: told of each epoch and validation.
    Returns:
        The trained bundle, complete, in `run_folder/bundle`.
    Raises:
        UsageError: dataset, fold, run folder or checkpoint do not fit.
        BundleError: the train config lacks what a training needs.
    """
    cases = read_dataset(options.dataset)
    split_dataset(options.dataset, options.fold, options.folds)
    checkpoints = options.run_folder / "checkpoints"
    _prepare_run_folder(options)
    trained = _copy_bundle(bundle, options.run_folder / "bundle")
    resume = _resumed_run(checkpoints) if options.resume else None
    tags = {"bundle": bundle.name, "bundle_version": bundle.version, "fold": str(options.fold)}
    if options.parent_run:
        tags["mlflow.parentRunId"] = options.parent_run
    with _log_to(options.run_folder / "train.log"), _interrupted_by_sigterm():
        name = f"{bundle.name} fold {options.fold}" if options.fold is not None else f"{bundle.name} all cases"
        with tracked_run(bundle.name, name, tags, resume=resume) as run:
            workflow = _workflow(trained, options)
            digest = dataset_digest(cases)
            if resume is None:
                _log_setup(run, workflow, options, digest, len(cases))
            best = _run_workflow(workflow, run, trained, options, report)
            trained = _finish_bundle(trained, run, options, digest, best)
            run.log_file(trained.folder, "bundle")
            run.log_file(options.run_folder / "metrics.csv", "training")
            version = run.register(bundle.name, "bundle")
            report(
                f"trained bundle in {trained.folder}; MLflow run {run.run_id}, model {bundle.name} version {version}"
            )
    return trained


def train_all_folds(bundle: Bundle, options: TrainOptions, report: Report) -> list[Bundle]:
    """Train every fold: a parent MLflow run with a child a fold, folders fold0 to foldN, and the pooled metrics.csv.

    Raises:
        UsageError, BundleError: as `train`.
    """
    read_dataset(options.dataset)
    options.run_folder.mkdir(parents=True, exist_ok=True)
    trained = []
    with tracked_run(bundle.name, f"{bundle.name} {options.folds} folds", {"bundle": bundle.name}) as parent:
        parent.log_params({"folds": options.folds})
        for fold in range(options.folds):
            report(f"fold {fold} of {options.folds}")
            folder = options.run_folder / f"fold{fold}"
            resumable = options.resume and (folder / "checkpoints").is_dir()
            child = replace(options, run_folder=folder, fold=fold, parent_run=parent.run_id, resume=resumable)
            trained.append(train(bundle, child, report))
        means = _pool_metrics(options.run_folder, options.folds)
        parent.log_metrics(means, step=0)
        report(", ".join(f"{name} {value:.4f}" for name, value in means.items()))
    return trained


def _workflow(bundle: Bundle, options: TrainOptions) -> ConfigWorkflow:
    """The bundle's train config as a MONAI workflow with the command line's values in it."""
    from monai.bundle import ConfigWorkflow

    given = {"epochs": options.epochs, "seed": options.seed}
    overrides = {
        "bundle_root": str(bundle.folder),
        "output_dir": str(bundle.folder / "models"),
        "dataset_dir": str(options.dataset.expanduser().resolve()),
        "fold": options.fold,
        "folds": options.folds,
        **{key: value for key, value in given.items() if value is not None},
        **options.overrides,
    }
    if options.device != "auto":
        overrides["device"] = f"$torch.device('{options.device}')"
    config = bundle.config("train")
    workflow = ConfigWorkflow(
        str(config),
        meta_file=str(config.parent / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **overrides,
    )
    for needed in (TRAINER, EVALUATOR):
        if needed.replace("#", "::") not in workflow.parser and needed not in workflow.parser:
            raise BundleError(f"bundle {bundle.name}: {config.name} has no {needed}. Name the engine so.")
    return workflow


def _run_workflow(
    workflow: ConfigWorkflow,
    run: TrackedRun,
    bundle: Bundle,
    options: TrainOptions,
    report: Report,
) -> float:
    """Train; returns the best key metric."""
    from .checkpoint import RunId, load_checkpoint, save_checkpoints
    from .monitor import Monitor

    workflow.initialize()
    parser = workflow.parser
    trainer, evaluator = parser.get_parsed_content(TRAINER), parser.get_parsed_content(EVALUATOR)
    objects = {key: parser.get_parsed_content(key) for key in STATEFUL if key in parser}
    if "ema" in objects:
        objects["ema"] = objects["ema"].ema_model
    objects |= {"trainer": trainer, "run": RunId(run.run_id)}
    checkpoints = options.run_folder / "checkpoints"
    if options.resume:
        load_checkpoint(checkpoints, objects)
        report(f"resumed after epoch {trainer.state.epoch}")
    monitor = Monitor(run, options.run_folder / "metrics.csv", [label.name for label in bundle.labels], report)
    monitor.attach(trainer, evaluator, parser.get_parsed_content("optimizer"))
    save_checkpoints(checkpoints, objects, trainer)
    report(f"training on {len(parser.get_parsed_content('train#dataset'))} cases, {trainer.state.max_epochs} epochs")
    workflow.run()
    workflow.finalize()
    run.log_file(checkpoints, "checkpoints")
    return float(evaluator.state.best_metric)


def _log_setup(
    run: TrackedRun, workflow: ConfigWorkflow, options: TrainOptions, digest: str, number_of_cases: int
) -> None:
    """Config, environment, data and split of this run, with no path of this machine in them."""
    import yaml

    config = {key: value for key, value in workflow.parser.get().items() if key not in (*PATHS, "_meta_")}
    split = split_dataset(options.dataset, options.fold, options.folds)
    run.log_params({"config": config, **environment()})
    run.log_params({"dataset_sha256": digest, "dataset_cases": number_of_cases, "device": _device_name(workflow)})
    run.log_text(yaml.safe_dump(config, sort_keys=False), "config/train.yaml")
    names = {"training": [i["case"] for i in split.training], "validation": [i["case"] for i in split.validation]}
    run.log_text(json.dumps(names, indent=1), "config/split.json")


def _device_name(workflow: ConfigWorkflow) -> str:
    import torch

    device = torch.device(workflow.parser.get_parsed_content("device"))
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"


def _prepare_run_folder(options: TrainOptions) -> None:
    folder = options.run_folder
    if (folder / "bundle").exists() and not options.resume:
        raise UsageError(f"{folder} already holds a training. Choose another folder with -o, or pass --resume.")
    if options.resume and not (folder / "checkpoints").is_dir():
        raise UsageError(f"--resume: {folder} holds no checkpoints. Start without --resume.")
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can not write to {folder}: {error.strerror}. Choose another folder with -o.") from None


def _copy_bundle(bundle: Bundle, folder: Path) -> Bundle:
    """The bundle without its weights, in a folder of this run; left as it is where a resumed run has it already."""
    if not folder.exists():
        shutil.copytree(bundle.folder, folder, ignore=shutil.ignore_patterns("models", "__pycache__"))
        (folder / "models").mkdir()
    return find_bundle(folder)


def _resumed_run(checkpoints: Path) -> str | None:
    from .checkpoint import read_run_id

    return read_run_id(checkpoints) or None


def _finish_bundle(bundle: Bundle, run: TrackedRun, options: TrainOptions, digest: str, best: float) -> Bundle:
    """Write into the bundle's metadata which run made its weights."""
    metadata = {
        **bundle.metadata,
        "training": {
            "mlflow_run_id": run.run_id,
            "fold": options.fold,
            "folds": options.folds,
            "dataset_sha256": digest,
            "best_validation_metric": best,
            "weights_sha256": bundle.weights_sha256,
            "git_commit": environment()["git_commit"],
        },
    }
    path = bundle.folder / "configs" / "metadata.json"
    aside = path.with_suffix(".tmp")
    aside.write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
    aside.replace(path)
    return find_bundle(bundle.folder)


def _pool_metrics(folder: Path, folds: int) -> dict[str, float]:
    """Write metrics.csv over all folds (each fold's best validation) and return the means over them."""
    rows = []
    for fold in range(folds):
        with (folder / f"fold{fold}" / "metrics.csv").open(newline="", encoding="utf-8") as file:
            entries = [row for row in csv.DictReader(file) if row["metric"].startswith("val/")]
        best = max((row for row in entries if row["metric"] == "val/mean_dice"), key=lambda row: float(row["value"]))
        rows += [{"fold": fold, **row} for row in entries if row["epoch"] == best["epoch"]]
    with (folder / "metrics.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["fold", "epoch", "metric", "value"])
        writer.writeheader()
        writer.writerows(rows)
    names = dict.fromkeys(row["metric"] for row in rows)
    return {name: sum(float(row["value"]) for row in rows if row["metric"] == name) / folds for name in names}


@contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Everything that the training's libraries log, into a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO) if level else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that the run's status becomes KILLED."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
