"""Checkpoints that a training resumes from: everything that changes as it runs, after each epoch.

Written aside, flushed, read again and renamed. Kept are the last one, the one before it as a spare, and that of the
best validation.
"""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.handlers import CheckpointSaver

from ..atomic import atomic
from ..errors import UsageError

LAST, SPARE, BEST = "last.pt", "previous.pt", "best.pt"
ABOUT = "about"


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
            saver.load_state_dict({"_saved": [tuple(each) for each in saved]})


class RandomStates:
    """The random states of Python, NumPy and torch on every device."""

    def state_dict(self) -> dict[str, Any]:
        """All of them, as tensors and plain values."""
        version, words, gauss = random.getstate()
        kind, keys, position, has_gauss, cached = np.random.get_state()
        return {
            "python": [version, list(words), gauss],
            "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from them; those of GPUs only where there are as many."""
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        kind, keys, *rest = state["numpy"]
        np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
        torch.set_rng_state(state["torch"])
        if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["cuda"])


@dataclass(frozen=True)
class Progress:
    """What a checkpoint says of its training.

    Attributes:
        run_id: the MLflow run, which a resumed training goes on in.
        facts: what a resumed training must have in common with its start, such as its options.
        epoch: epochs done.
        ended: nothing is left to do, though there may be epochs left: the training stopped early.
        threads: of the processor that it was computed with; with another number the last bits may differ.
    """

    run_id: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    epoch: int = 0
    ended: bool = False
    threads: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read.

    Attributes:
        progress: what it says of the training.
        states: of the objects, by their names.
        notice: one line, where it is not the one that should have been read.
    """

    progress: Progress
    states: Mapping[str, Any] = field(repr=False)
    notice: str = ""


def save_checkpoint(folder: Path, objects: Mapping[str, Any], progress: Progress, *, best: bool = False) -> int:
    """Write the objects' states as the last checkpoint; the one that was becomes the spare.

    Args:
        folder: checkpoints/ of a run folder.
        objects: each with `state_dict` and `load_state_dict`.
        progress: kept with them.
        best: keep it as the best one, too.
    Returns:
        Its size in bytes.
    Raises:
        PipelineError: it can not be written; those from before are still there.
    """
    states = {name: each.state_dict() for name, each in objects.items()}
    new, last = folder / "new.pt", folder / LAST
    with atomic(new, check=_require_whole) as temporary:
        torch.save({**states, ABOUT: asdict(progress)}, temporary)
    if last.exists():
        last.replace(folder / SPARE)
    new.replace(last)
    if best:
        _copy(last, folder / BEST)
    return last.stat().st_size


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The last checkpoint in `folder`; where it is broken, the spare, or the best one; None where there is none.

    Raises:
        UsageError: none of those that are there can be read.
    """
    broken: list[str] = []
    for name in (LAST, SPARE, BEST):
        if not (folder / name).is_file():
            continue
        try:
            _require_whole(folder / name)
            states = torch.load(folder / name, map_location="cpu", weights_only=True)
            progress = Progress(**states.pop(ABOUT))
        except Exception as error:  # whatever a reader raises at a broken file
            broken.append(f"{name} can not be read ({type(error).__name__})")
            continue
        missed = f"checkpoint {' and '.join(broken)}; {name} is of epoch {progress.epoch}" if broken else ""
        return Checkpoint(progress, states, missed)
    if broken:
        raise UsageError(
            f"--resume: in {folder} checkpoint {' and '.join(broken)}. Restore one, or start anew in another folder."
        )
    return None


def restore(checkpoint: Checkpoint, objects: Mapping[str, Any]) -> None:
    """Give the objects their states back.

    Raises:
        UsageError: the checkpoint does not belong to this training.
    """
    try:
        for name, each in objects.items():
            each.load_state_dict(checkpoint.states[name])
    except Exception as error:
        raise UsageError(
            f"--resume: the checkpoint does not fit this training ({type(error).__name__}). "
            "Resume with the options it was started with, or start anew in another folder."
        ) from error


def _require_whole(path: Path) -> None:
    """Raise where a byte of the file is not as it was written: torch's files are zip archives with check sums."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged:
        raise zipfile.BadZipFile(damaged)


def _copy(path: Path, target: Path) -> None:
    """The file under a second name, which stays with these bytes when the first name gets others."""
    aside = target.with_name("new-" + target.name)
    aside.unlink(missing_ok=True)
    try:
        os.link(path, aside)
    except OSError:  # a disk without links
        shutil.copyfile(path, aside)
    aside.replace(target)
