"""The engines of a training, made of its config, with all that a checkpoint must hold of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow

from ..atomic import atomic
from ..bundle import Bundle
from ..errors import PipelineError, UsageError
from .checkpoint import BestMetric, Checkpoint, Progress, RandomStates, restore, save_checkpoint
from .guard import stop_where_loss_is_no_number
from .processes import is_first_process
from .workflow import EVALUATOR, TRAINER, parsed, run_workflow

STATEFUL = ("network", "ema", "optimizer", "lr_scheduler", "early_stopping")
"""Ids of a train config whose states go into a checkpoint, where the config has them."""
CHECKPOINTS_AT_ONCE = 5
"""The last, the spare, the best and the one that is being written, and the weights of the bundle."""


class Scaler:
    """The gradient scaler of a trainer with `amp: true`, which MONAI makes anew when the trainer starts.

    Args:
        trainer: not yet run.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._restored: dict[str, Any] = {}
        trainer.add_event_handler(Events.STARTED, self._restore)

    def state_dict(self) -> dict[str, Any]:
        """The scaler's, or what will become it."""
        scaler = self._trainer.scaler
        return dict(scaler.state_dict()) if scaler is not None else self._restored

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Keep it for the start."""
        self._restored = dict(state)

    def _restore(self) -> None:
        if self._restored and self._trainer.scaler is not None:
            self._trainer.scaler.load_state_dict(self._restored)


class Session:
    """Trainer and evaluator of a workflow.

    Args:
        workflow: built, not initialized.
        bundle: that it belongs to.
        overrides: what `--set` said, for errors.
    Raises:
        UsageError: there are not enough cases for a batch, or the settings do not work.
        BundleError: the config can not be made.
    """

    def __init__(self, workflow: ConfigWorkflow, bundle: Bundle, overrides: Mapping[str, Any]) -> None:
        self._workflow, self._bundle, self._overrides = workflow, bundle, overrides
        workflow.initialize()
        _check_batches(self.made("train#dataloader"))
        self.trainer, self.evaluator = self.made(TRAINER), self.made(EVALUATOR)
        self.objects = self._stateful()
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self._validate_at_the_end)
        stop_where_loss_is_no_number(self.trainer)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return int(self.trainer.state.epoch)

    @property
    def best_metric(self) -> float:
        """The key metric of the best validation."""
        return float(self.evaluator.state.best_metric)

    @property
    def weights(self) -> dict[str, Any]:
        """What the network has learned so far, by its moving average where there is one."""
        return dict(self.objects.get("ema", self.objects["network"]).state_dict())

    def made(self, key: str) -> Any:
        """The object that the config describes under this id."""
        return parsed(self._workflow, key, self._bundle, self._overrides)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from it."""
        restore(checkpoint, self.objects)

    def keep_checkpoints(self, folder: Path, progress: Progress) -> None:
        """Write one now and after each epoch.

        Raises:
            PipelineError: the disk has no room for those to come.
        """

        def save() -> int:
            best = self.evaluator.state.best_metric_epoch == self.epoch > 0
            ended = bool(self.trainer.should_terminate)
            now = replace(progress, epoch=self.epoch, ended=ended, threads=torch.get_num_threads())
            return save_checkpoint(folder, self.objects, now, best=best)

        if not is_first_process():
            return
        _require_room(folder, save() * CHECKPOINTS_AT_ONCE)
        self.trainer.add_event_handler(Events.EPOCH_COMPLETED, save)

    def run(self) -> None:
        """Train to the end; a trainer that is at its end would begin again."""
        if self.epoch < self.trainer.state.max_epochs:
            run_workflow(self._workflow)
        self._workflow.finalize()

    def save_weights(self, path: Path) -> None:
        """Write the weights as they are now."""
        with atomic(path) as temporary:
            torch.save(self.weights, temporary)

    def _stateful(self) -> dict[str, Any]:
        objects = {key: self.made(key) for key in STATEFUL if key in self._workflow.parser}
        if "ema" in objects:
            objects["ema"] = objects["ema"].ema_model
        if self.trainer.amp:
            objects["scaler"] = Scaler(self.trainer)
        handlers = self.made("validate#handlers") if "validate#handlers" in self._workflow.parser else []
        best = BestMetric(self.evaluator, handlers)
        return {**objects, "trainer": self.trainer, "best": best, "random": RandomStates()}

    def _validate_at_the_end(self) -> None:
        """Validate after the last epoch, whatever the interval: a short training has weights, too."""
        if self.epoch == self.trainer.state.max_epochs and self.evaluator.state.epoch != self.epoch:
            self.evaluator.run(self.epoch)


def _check_batches(loader: Any) -> None:
    if not len(loader):
        raise UsageError(
            f"{len(loader.dataset)} training cases fill no batch of {loader.batch_size}. "
            "Use a larger dataset, or pass --set batch_size=1."
        )


def _require_room(folder: Path, needs_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needs_bytes:
        raise PipelineError(
            f"{folder}: the training will need {needs_bytes:,} bytes for its checkpoints and {free:,} are free. "
            "Free space there or choose another folder with -o."
        )
