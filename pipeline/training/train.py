"""The story of a training: a dataset and a bundle's train config -> MLflow run -> weights -> a trained bundle."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..errors import PipelineError, UsageError
from ..progress import Report
from .dataset import dataset_digest, read_dataset, split_dataset
from .interruption import Interruption, interruptible
from .logs import log_to
from .run_folder import copy_bundle, finish_bundle, pool_metrics, prepare_run_folder
from .tracking import TrackedRun, environment, tracked_run
from .workflow import EVALUATOR, TRAINER, build_workflow, parsed, run_workflow, without_paths

if TYPE_CHECKING:
    from ignite.engine import Engine
    from monai.bundle import ConfigWorkflow

log = logging.getLogger("scanloom.training")

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
        UsageError: dataset, fold, setting, run folder or checkpoint do not fit.
        BundleError: the train config lacks what a training needs.
        PipelineError: the training failed; train.log has the trace.
    """
    _check_numbers(options)
    cases = read_dataset(options.dataset)
    split_dataset(options.dataset, options.fold, options.folds)
    _workflow(bundle, options)
    checkpoints = prepare_run_folder(options.run_folder, bundle, resume=options.resume)
    facts = {**_start_options(options), "dataset": dataset_digest(cases)}
    began_with = environment()
    resume = _resumed_run(checkpoints, facts) if options.resume else None
    trained = copy_bundle(bundle, options.run_folder / "bundle", options.overrides)
    tags = {"bundle": bundle.name, "bundle_version": bundle.version, "fold": str(options.fold)}
    if options.parent_run:
        tags["mlflow.parentRunId"] = options.parent_run
    name = f"{bundle.name} fold {options.fold}" if options.fold is not None else f"{bundle.name} all cases"
    with (
        _in_one_line(options.run_folder, report),
        log_to(options.run_folder / "train.log"),
        interruptible() as interruption,
        tracked_run(bundle.name, name, tags, resume=resume) as run,
    ):
        workflow = _workflow(trained, options)
        if resume is None:
            _log_setup(run, workflow, options, began_with, facts["dataset"], len(cases))
        best = _run_workflow(workflow, run, trained, options, report, facts, interruption, resumes=resume is not None)
        trained = _finish_bundle(trained, run, options, began_with, facts["dataset"], best)
        run.log_file(trained.folder, "bundle")
        run.log_file(options.run_folder / "metrics.csv", "training")
        version = run.register(bundle.name, "bundle")
        report(f"trained bundle in {trained.folder}; MLflow run {run.run_id}, model {bundle.name} version {version}")
    return trained


def train_all_folds(bundle: Bundle, options: TrainOptions, report: Report) -> list[Bundle]:
    """Train every fold: a parent MLflow run with a child a fold, folders fold0 to foldN, and the pooled metrics.csv.

    Raises:
        UsageError, BundleError, PipelineError: as `train`.
    """
    _check_numbers(options)
    split_dataset(options.dataset, 0, options.folds)
    _workflow(bundle, options)
    folder = options.run_folder
    if not options.resume and any(folder.glob("fold*/bundle")):
        raise UsageError(f"{folder} already holds a training. Choose another folder with -o, or pass --resume.")
    prepare_run_folder(folder / "fold0", bundle, resume=(folder / "fold0" / "bundle").is_dir())
    trained = []
    with (
        log_to(folder / "train.log"),
        interruptible() as interruption,
        tracked_run(bundle.name, f"{bundle.name} {options.folds} folds", {"bundle": bundle.name}) as parent,
    ):
        parent.log_params({"folds": options.folds})
        for fold in range(options.folds):
            report(f"fold {fold} of {options.folds}")
            own = folder / f"fold{fold}"
            begun = (own / "bundle").is_dir()
            child = replace(options, run_folder=own, fold=fold, parent_run=parent.run_id, resume=begun)
            trained.append(train(bundle, child, report))
            interruption.check()
        means = pool_metrics(folder, options.folds)
        parent.log_metrics(means, step=0)
        parent.log_file(folder / "metrics.csv", "training")
        report("mean over the folds: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items()))
    return trained


def _check_numbers(options: TrainOptions) -> None:
    if options.epochs is not None and options.epochs < 1:
        raise UsageError(f"--epochs {options.epochs}: it must be at least 1.")
    if options.seed is not None and not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed {options.seed}: it must be between 0 and {2**32 - 1}.")


def _workflow(bundle: Bundle, options: TrainOptions) -> ConfigWorkflow:
    """The bundle's train config as a MONAI workflow with the command line's values in it."""
    values = {
        "dataset_dir": str(options.dataset.expanduser().resolve()),
        "fold": options.fold,
        "folds": options.folds,
        "epochs": options.epochs,
        "seed": options.seed,
    }
    given = {key: value for key, value in values.items() if value is not None or key == "fold"}
    return build_workflow(bundle, given, options.overrides, options.device)


def _run_workflow(
    workflow: ConfigWorkflow,
    run: TrackedRun,
    bundle: Bundle,
    options: TrainOptions,
    report: Report,
    facts: Mapping[str, str],
    interruption: Interruption,
    *,
    resumes: bool,
) -> float:
    """Train; returns the best key metric."""
    from ignite.engine import Events

    from .checkpoint import BestMetric, RunId, load_checkpoint, save_checkpoints
    from .monitor import Monitor, forget_after

    def made(key: str) -> Any:
        return parsed(workflow, key, bundle, options.overrides)

    workflow.initialize()
    _check_batches(made("train#dataloader"))
    trainer, evaluator = made(TRAINER), made(EVALUATOR)
    objects = {key: made(key) for key in STATEFUL if key in workflow.parser}
    if "ema" in objects:
        objects["ema"] = objects["ema"].ema_model
    handlers = made("validate#handlers") if "validate#handlers" in workflow.parser else []
    objects |= {"trainer": trainer, "run": RunId(run.run_id, facts), "best": BestMetric(evaluator, handlers)}
    checkpoints, metrics_file = options.run_folder / "checkpoints", options.run_folder / "metrics.csv"
    if resumes:
        load_checkpoint(checkpoints, objects)
        forget_after(metrics_file, trainer.state.epoch)
        report(f"resumed after epoch {trainer.state.epoch}")
    else:
        metrics_file.unlink(missing_ok=True)
    Monitor(run, metrics_file, bundle.labels, report).attach(trainer, evaluator, made("optimizer"))
    trainer.add_event_handler(Events.EPOCH_COMPLETED, _validate_at_the_end, evaluator)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, interruption.check)
    save_checkpoints(checkpoints, objects, trainer)
    report(f"training on {len(made('train#dataset'))} cases, {trainer.state.max_epochs} epochs")
    if trainer.state.epoch < trainer.state.max_epochs:  # a trainer that is at its end would begin again
        run_workflow(workflow)
    workflow.finalize()
    run.log_file(checkpoints, "checkpoints")
    return float(evaluator.state.best_metric)


def _validate_at_the_end(trainer: Engine, evaluator: Any) -> None:
    """Validate after the last epoch, whatever the interval: a short training has weights, too."""
    if trainer.state.epoch == trainer.state.max_epochs and evaluator.state.epoch != trainer.state.epoch:
        evaluator.run(trainer.state.epoch)


def _check_batches(loader: Any) -> None:
    if not len(loader):
        raise UsageError(
            f"{len(loader.dataset)} training cases fill no batch of {loader.batch_size}. "
            "Use a larger dataset, or pass --set batch_size=1."
        )


def _log_setup(
    run: TrackedRun,
    workflow: ConfigWorkflow,
    options: TrainOptions,
    began_with: Mapping[str, str],
    digest: str,
    number_of_cases: int,
) -> None:
    """Config, environment, data and split of this run, with no path of this machine in them."""
    import torch
    import yaml

    from ..device import describe_device

    device = torch.device(workflow.parser.get_parsed_content("device"))
    config = without_paths(workflow.parser.get())
    split = split_dataset(options.dataset, options.fold, options.folds)
    run.log_params({"config": config, **began_with})
    run.log_params({"dataset_sha256": digest, "dataset_cases": number_of_cases, "device": describe_device(device)})
    run.log_text(yaml.safe_dump(config, sort_keys=False), "config/train.yaml")
    names = {"training": [i["case"] for i in split.training], "validation": [i["case"] for i in split.validation]}
    run.log_text(json.dumps(names, indent=1), "config/split.json")


def _start_options(options: TrainOptions) -> dict[str, str]:
    """The options that a training must be resumed with."""
    return {
        "--fold": str(options.fold),
        "--folds": str(options.folds),
        "--epochs": str(options.epochs or "not given"),
        "--seed": str("not given" if options.seed is None else options.seed),
        "--set": " ".join(f"{key}={value}" for key, value in sorted(options.overrides.items())) or "not given",
    }


def _resumed_run(checkpoints: Path, facts: Mapping[str, str]) -> str | None:
    """The MLflow run to go on with; None where the training ended before its first checkpoint.

    Raises:
        UsageError: the training began with other options or another dataset.
    """
    from .checkpoint import read_progress

    progress = read_progress(checkpoints)
    if progress is None:
        return None
    for name, now in facts.items():
        before = progress.facts.get(name, now)
        if before != now and name == "dataset":
            raise UsageError(
                "--resume: the dataset is not the one of this training's start. Restore it, or start anew."
            )
        if before != now:
            raise UsageError(f"--resume: this training began with {name} {before}, not {now}. Resume with the same.")
    return progress.run_id or None


def _finish_bundle(
    bundle: Bundle,
    run: TrackedRun,
    options: TrainOptions,
    began_with: Mapping[str, str],
    digest: str,
    best: float,
) -> Bundle:
    """Write into the bundle's metadata which run made its weights."""
    training = {
        "mlflow_run_id": run.run_id,
        "fold": options.fold,
        "folds": options.folds,
        "dataset_sha256": digest,
        "best_validation_metric": best,
        "git_commit": began_with["git_commit"],
    }
    return finish_bundle(bundle, training)


@contextmanager
def _in_one_line(run_folder: Path, report: Report) -> Iterator[None]:
    """Say of an unforeseen error what to do about it (its trace is in train.log), and leave nothing half begun."""
    try:
        yield
    except BaseException as error:
        again = "the same command with --resume goes on from the last epoch"
        if not any((run_folder / "checkpoints").iterdir()):
            again = "the same command starts again"
            shutil.rmtree(run_folder / "bundle", ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            report(f"stopped; {again}")
        if isinstance(error, PipelineError) or not isinstance(error, Exception):
            raise
        raise PipelineError(
            f"training stopped by {type(error).__name__}; the trace is in {run_folder / 'train.log'}. "
            f"When its cause is mended, {again}."
        ) from error
