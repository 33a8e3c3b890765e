"""Checkpoints that a training resumes from: everything that changes as it runs, written atomically after each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, DiskSaver

from ..errors import UsageError

LAST = "last.pt"


class RunId:
    """The MLflow run's ID as an object with a state, so that a resumed training goes on in the same run."""

    def __init__(self, value: str = "") -> None:
        self.value = value

    def state_dict(self) -> dict[str, str]:
        """The ID."""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, str]) -> None:
        """Take the ID over."""
        self.value = state["value"]


def save_checkpoints(folder: Path, objects: Mapping[str, Any], trainer: Engine) -> None:
    """Write the objects' states to `folder/last.pt` after each epoch of the trainer."""
    saver = DiskSaver(str(folder), create_dir=True, require_empty=False, atomic=True)
    checkpoint = Checkpoint(dict(objects), saver, filename_pattern=LAST, n_saved=1, include_self=False)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, checkpoint)


def load_checkpoint(folder: Path, objects: Mapping[str, Any]) -> None:
    """Restore the objects' states from `folder/last.pt`.

    Raises:
        UsageError: there is none, or it does not belong to this training.
    """
    path = folder / LAST
    try:
        states = torch.load(path, map_location="cpu", weights_only=True)
        Checkpoint.load_objects(to_load=dict(objects), checkpoint=states)
    except FileNotFoundError:
        raise UsageError(f"--resume: no checkpoint {path}. Start without --resume.") from None
    except Exception as error:
        raise UsageError(
            f"--resume: checkpoint {path} does not fit this training ({type(error).__name__}). "
            "Resume with the options it was started with, or start anew in another folder."
        ) from error


def read_run_id(folder: Path) -> str:
    """The MLflow run that the checkpoint in `folder` belongs to; empty where there is no checkpoint."""
    path = folder / LAST
    if not path.is_file():
        return ""
    return str(torch.load(path, map_location="cpu", weights_only=True)["run"]["value"])
