"""Cross-validation: a training a fold, as children of one MLflow run, and the pooled metrics."""

from __future__ import annotations

from dataclasses import replace

from ..bundle import Bundle
from ..errors import UsageError
from ..lock import locked
from ..progress import Report
from .dataset import require_fold
from .dataset_check import Read
from .interruption import interruptible
from .logs import log_to
from .look import Calibrate, Looked, look_into
from .options import TrainOptions
from .processes import is_first_process
from .run_folder import pool_metrics, prepare_run_folder, read_parent_run, write_parent_run
from .tracking import tracked_run
from .train import planned_workflow, train
from .workflow import key_metric


def train_all_folds(
    bundle: Bundle,
    options: TrainOptions,
    report: Report,
    read: Read | None = None,
    calibrate: Calibrate | None = None,
) -> list[Bundle]:
    """Train every fold: a parent MLflow run with a child a fold, folders fold0 to foldN, and the pooled metrics.csv.

    Raises:
        UsageError, DatasetError, BundleError, PipelineError: as `train`.
    """
    options.check()
    require_fold(options.dataset, 0, options.folds)
    workflow = planned_workflow(bundle, options)
    from .distributed import joined_processes

    with joined_processes():
        if is_first_process():
            looked = look_into(bundle, workflow, options, report, read, calibrate)
            return _lead_all_folds(bundle, options, looked, key_metric(workflow), report)
        own = [
            replace(options, run_folder=options.run_folder / f"fold{fold}", fold=fold) for fold in range(options.folds)
        ]
        return [train(bundle, each, report) for each in own]


def _lead_all_folds(bundle: Bundle, options: TrainOptions, looked: Looked, metric: str, report: Report) -> list[Bundle]:
    """All folds as the only process, or the first of several, sees them."""
    folder = options.run_folder
    if not options.resume and any(folder.glob("fold*/bundle")):
        raise UsageError(f"{folder} already holds a training. Choose another folder with -o, or pass --resume.")
    prepare_run_folder(folder / "fold0", bundle, resume=(folder / "fold0" / "bundle").is_dir())
    resume = read_parent_run(folder) if options.resume else None
    name, tags = f"{bundle.name} {options.folds} folds", {"bundle": bundle.name}
    trained = []
    with (
        locked(folder),
        log_to(folder / "train.log"),
        interruptible() as interruption,
        tracked_run(bundle.name, name, folder, tags, resume=resume, report=report) as parent,
    ):
        write_parent_run(folder, parent.run_id)
        parent.log_params({"folds": options.folds})
        for fold in range(options.folds):
            report(f"fold {fold} of {options.folds}")
            own = folder / f"fold{fold}"
            begun = (own / "bundle").is_dir()
            child = replace(options, run_folder=own, fold=fold, parent_run=parent.run_id, resume=begun)
            trained.append(train(bundle, child, report, looked=looked))
            interruption.check()
        pooled = pool_metrics(folder, options.folds, metric)
        parent.log_metrics({name: mean for name, (mean, _) in pooled.items()}, step=0)
        parent.log_file(folder / "metrics.csv", "training")
        for name, (mean, spread) in pooled.items():
            report(f"{name}: mean over the folds {mean:.4f}, spread {spread:.4f}")
    return trained
