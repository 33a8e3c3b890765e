"""The story of a training: a dataset and a bundle's train config -> MLflow run -> weights -> a trained bundle."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..bundle import Bundle, find_bundle
from ..errors import PipelineError
from ..fingerprint import Fingerprint
from ..lock import locked
from ..progress import Report, silent
from .dataset import joint_digest, read_dataset, require_fold, split_dataset
from .dataset_check import Read
from .dataset_inputs import case_rows
from .environment import environment
from .interruption import Interruption, interruptible
from .logs import log_to
from .look import Calibrate, Looked, look_into, trained_fingerprint
from .options import TrainOptions, require_same_start
from .processes import is_first_process, own_device
from .record import log_results, log_setup
from .run_folder import CHECKPOINTS, copy_bundle, finish_bundle, prepare_run_folder
from .system_metrics import system_metrics
from .tracking import TrackedRun, tracked_run
from .workflow import build_workflow

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

    from .checkpoint import Checkpoint, Progress
    from .monitor import Monitor
    from .session import Session

log = logging.getLogger("scanloom.training")


def train(
    bundle: Bundle,
    options: TrainOptions,
    report: Report,
    read: Read | None = None,
    calibrate: Calibrate | None = None,
    looked: Looked | None = None,
) -> Bundle:
    """Train the bundle's network on one fold, as one MLflow run.

    Of several processes that `torchrun` started, the first writes, tracks and tells; the others compute with it.

    Args:
        bundle: whose train config runs.
        options: see `TrainOptions`.
        report: told of each epoch and validation.
        read: of scans, to look into every file of the dataset first; None leaves that out.
        calibrate: tells what the trained network makes of held-out cases; None leaves that out.
        looked: what an earlier look at this dataset has seen.
    Returns:
        The trained bundle, complete, in `run_folder/bundle`.
    Raises:
        UsageError: dataset, fold, setting, run folder or checkpoint do not fit.
        DatasetError: images or labels can not be trained on; it lists all of them.
        BundleError: the train config lacks what a training needs.
        PipelineError: the training failed; train.log has the trace.
    """
    options.check()
    require_fold(options.dataset, options.fold, options.folds)
    workflow = planned_workflow(bundle, options)
    from .distributed import joined_processes

    with joined_processes():
        if not is_first_process():
            return _follow(options)
        looked = looked or look_into(bundle, workflow, options, report, read, calibrate)
        prepare_run_folder(options.run_folder, bundle, resume=options.resume)
        with locked(options.run_folder):
            return _lead(bundle, options, looked, report)


def _lead(bundle: Bundle, options: TrainOptions, looked: Looked, report: Report) -> Bundle:
    """A training as its only process, or the first of several, sees it."""
    from .checkpoint import Progress, read_checkpoint
    from .distributed import told_by_the_first

    folder = options.run_folder
    digest = joint_digest(read_dataset(options.dataset), looked.digests)
    facts = {**options.of_the_start(), "dataset": digest}
    began_with = environment()
    checkpoint = read_checkpoint(folder / CHECKPOINTS) if options.resume else None
    if checkpoint is not None:
        require_same_start(checkpoint.progress.facts, facts)
    trained = copy_bundle(bundle, folder / "bundle", options.overrides)
    tags = {"bundle": bundle.name, "bundle_version": bundle.version, "fold": str(options.fold)}
    if options.parent_run:
        tags["mlflow.parentRunId"] = options.parent_run
    name = f"{bundle.name} fold {options.fold}" if options.fold is not None else f"{bundle.name} all cases"
    resume = checkpoint.progress.run_id if checkpoint is not None else None
    with (
        _in_one_line(folder, report),
        log_to(folder / "train.log"),
        interruptible() as interruption,
        tracked_run(bundle.name, name, folder, tags, resume=resume, report=report) as run,
        system_metrics(run),
    ):
        workflow = planned_workflow(trained, options)
        cases = case_rows(split_dataset(options.dataset, options.fold, options.folds), looked.digests)
        if checkpoint is None:
            log_setup(run, trained, workflow, options, began_with, digest, cases)
        progress = Progress(run.run_id, facts)
        told_by_the_first(checkpoint is not None)
        best = _train(workflow, trained, options, checkpoint, progress, report, run, interruption)
        fingerprint = trained_fingerprint(looked, trained, options, report)
        trained = _finish_bundle(trained, run, options, began_with, digest, best, fingerprint)
        log_results(run, trained, folder, best, cases)
        report(f"trained bundle in {trained.folder}; MLflow run {run.run_id}")
    return trained


def _follow(options: TrainOptions) -> Bundle:
    """A training as another of several processes sees it."""
    from .checkpoint import Progress, read_checkpoint
    from .distributed import told_by_the_first

    resumes = told_by_the_first(None)
    trained = find_bundle(options.run_folder / "bundle")
    checkpoint = read_checkpoint(options.run_folder / CHECKPOINTS) if resumes else None
    with interruptible() as interruption:
        _train(planned_workflow(trained, options), trained, options, checkpoint, Progress(), silent, None, interruption)
    return trained


def planned_workflow(bundle: Bundle, options: TrainOptions) -> ConfigWorkflow:
    """The bundle's train config as a MONAI workflow with the command line's values in it."""
    values = {
        "dataset_dir": str(options.dataset.expanduser().resolve()),
        "fold": options.fold,
        "folds": options.folds,
        "epochs": options.epochs,
        "seed": options.seed,
    }
    given = {key: value for key, value in values.items() if value is not None or key == "fold"}
    return build_workflow(bundle, given, options.overrides, own_device(options.device), options.teacher)


def _train(
    workflow: ConfigWorkflow,
    bundle: Bundle,
    options: TrainOptions,
    checkpoint: Checkpoint | None,
    progress: Progress,
    report: Report,
    run: TrackedRun | None,
    interruption: Interruption,
) -> float:
    """Train to the end, from the checkpoint where there is one; returns the best key metric."""
    from ignite.engine import Events

    from .determinism import determinism
    from .distributed import train_together
    from .session import Session

    session = Session(workflow, bundle, options.overrides)
    if checkpoint is not None:
        session.resume(checkpoint)
        _tell_of_resumption(checkpoint, report)
    monitor = None if run is None else _attach_monitor(session, run, bundle, options, report)
    session.trainer.add_event_handler(Events.ITERATION_COMPLETED, interruption.check)
    train_together(session.trainer)
    device = session.trainer.state.device
    wanted = device.type == "cpu" if options.deterministic is None else options.deterministic
    with determinism(wanted):
        session.keep_checkpoints(options.run_folder / CHECKPOINTS, progress)
        report(f"training on {len(session.made('train#dataset'))} cases, {session.trainer.state.max_epochs} epochs")
        if checkpoint is None or not checkpoint.progress.ended:
            session.run()
    if monitor is not None:
        monitor.finish()
    if run is not None and options.fold is None:  # no case is held out to choose an epoch by
        session.save_weights(bundle.weights)
    return session.best_metric


def _tell_of_resumption(checkpoint: Checkpoint, report: Report) -> None:
    import torch

    before, now = checkpoint.progress.threads, torch.get_num_threads()
    if checkpoint.notice:
        report(checkpoint.notice)
    if before != now:
        report(f"resumed with {now} threads, {before} before: the last bits of the weights may differ")
    report(f"resumed after epoch {checkpoint.progress.epoch}")


def _attach_monitor(
    session: Session, run: TrackedRun, bundle: Bundle, options: TrainOptions, report: Report
) -> Monitor:
    """Let the run, metrics.csv and the report follow the engines."""
    from .monitor import Monitor, forget_after

    metrics_file = options.run_folder / "metrics.csv"
    forget_after(metrics_file, session.epoch)
    monitor = Monitor(run, metrics_file, bundle.labels, report)
    monitor.attach(session.trainer, session.evaluator, session.made("optimizer"))
    return monitor


def _finish_bundle(
    bundle: Bundle,
    run: TrackedRun,
    options: TrainOptions,
    began_with: Mapping[str, str],
    digest: str,
    best: float,
    fingerprint: Fingerprint | None,
) -> Bundle:
    """Write into the bundle's metadata which run made its weights, and what their training data are like."""
    training = {
        "mlflow_run_id": run.run_id,
        "fold": options.fold,
        "folds": options.folds,
        "dataset_sha256": digest,
        "best_validation_metric": best,
        "git_commit": began_with["git_commit"],
    }
    if options.teacher is not None:
        training["teacher_weights_sha256"] = options.teacher.weights_sha256
    return finish_bundle(bundle, training, **({"fingerprint": fingerprint.to_json()} if fingerprint else {}))


@contextmanager
def _in_one_line(run_folder: Path, report: Report) -> Iterator[None]:
    """Say of an unforeseen error what to do about it (its trace is in train.log), and leave nothing half begun."""
    try:
        yield
    except BaseException as error:
        again = _what_to_do(run_folder, error)
        if isinstance(error, KeyboardInterrupt):
            report(f"stopped; {again}")
        if isinstance(error, PipelineError) or not isinstance(error, Exception):
            raise
        raise PipelineError(
            f"training stopped by {type(error).__name__}; the trace is in {run_folder / 'train.log'}. "
            f"When its cause is mended, {again}."
        ) from error


def _what_to_do(run_folder: Path, error: BaseException) -> str:
    """How to go on; what no epoch has come of is removed, but for what shows why a loss is no number."""
    from .checkpoint import read_checkpoint
    from .guard import LossError

    found = read_checkpoint(run_folder / CHECKPOINTS)
    if isinstance(error, LossError) or (found is not None and found.progress.epoch):
        return "the same command with --resume goes on from the last epoch"
    for folder in ("bundle", CHECKPOINTS):
        shutil.rmtree(run_folder / folder, ignore_errors=True)
    return "the same command starts again"
