"""Checkpoints that a training resumes from: everything that changes as it runs, written atomically after each epoch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver
from monai.handlers import CheckpointSaver

from ..errors import UsageError

LAST = "last.pt"


class RunId:
    """The MLflow run's ID as an object with a state, so that a resumed training goes on in the same run.

    Args:
        value: the ID.
        facts: what a resumed training must have in common with its start, such as its options.
    """

    def __init__(self, value: str = "", facts: Mapping[str, str] | None = None) -> None:
        self.value = value
        self.facts = dict(facts or {})

    def state_dict(self) -> dict[str, Any]:
        """The ID and the facts."""
        return {"value": self.value, "facts": self.facts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self.value, self.facts = state["value"], dict(state.get("facts", {}))


class BestMetric:
    """The best validation so far, so that a resumed training does not replace its weights by worse ones.

    Args:
        evaluator: MONAI's, which remembers it as `state.best_metric`.
        handlers: the evaluator's; of these each CheckpointSaver remembers it, too.
    """

    def __init__(self, evaluator: Engine, handlers: Iterable[Any]) -> None:
        self.evaluator = evaluator
        savers = [handler for handler in handlers if isinstance(handler, CheckpointSaver)]
        self.savers = [saver for saver in savers if saver._key_metric_checkpoint is not None]

    def state_dict(self) -> dict[str, Any]:
        """Value and epoch of the best, and what each saver compares with."""
        state = self.evaluator.state
        return {
            "metric": float(state.best_metric),
            "epoch": int(state.best_metric_epoch),
            "savers": [
                [(float(score), str(file)) for score, file in saver._key_metric_checkpoint._saved]
                for saver in self.savers
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them over."""
        self.evaluator.state.best_metric = state["metric"]
        self.evaluator.state.best_metric_epoch = state["epoch"]
        for saver, saved in zip(self.savers, state["savers"], strict=True):
            saver.load_state_dict({"_saved": saved})


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says of its training: its MLflow run, the facts of its start."""

    run_id: str
    facts: Mapping[str, str]


def save_checkpoints(folder: Path, objects: Mapping[str, Any], trainer: Engine) -> None:
    """Write the objects' states to `folder/last.pt` after each epoch of the trainer."""
    saver = DiskSaver(str(folder), create_dir=True, require_empty=False, atomic=True)
    checkpoint = Checkpoint(dict(objects), saver, filename_pattern=LAST, n_saved=1, include_self=False)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, checkpoint)


def load_checkpoint(folder: Path, objects: Mapping[str, Any]) -> None:
    """Restore the objects' states from `folder/last.pt`.

    Raises:
        UsageError: there is none, it is broken, or it does not belong to this training.
    """
    states = _read(folder)
    try:
        known = {key: each for key, each in objects.items() if key != "best" or key in states}  # older ones have none
        Checkpoint.load_objects(to_load=known, checkpoint=states)
    except Exception as error:
        raise UsageError(
            f"--resume: checkpoint {folder / LAST} does not fit this training ({type(error).__name__}). "
            "Resume with the options it was started with, or start anew in another folder."
        ) from error


def read_progress(folder: Path) -> Progress | None:
    """What the checkpoint in `folder` says of its training; None where there is no checkpoint.

    Raises:
        UsageError: it is broken.
    """
    if not (folder / LAST).is_file():
        return None
    states = _read(folder)
    try:
        return Progress(str(states["run"]["value"]), dict(states["run"].get("facts", {})))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _broken(folder, "it is no checkpoint of scanloom") from None


def read_run_id(folder: Path) -> str:
    """The MLflow run that the checkpoint in `folder` belongs to; empty where there is no checkpoint."""
    progress = read_progress(folder)
    return progress.run_id if progress else ""


def _read(folder: Path) -> Any:
    try:
        return torch.load(folder / LAST, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"--resume: no checkpoint {folder / LAST}. Start without --resume.") from None
    except Exception as error:
        raise _broken(folder, type(error).__name__) from error


def _broken(folder: Path, reason: str) -> UsageError:
    return UsageError(f"--resume: checkpoint {folder / LAST} can not be read ({reason}). Start anew in another folder.")
