"""Trains, kills itself with -9 at given moments, resumes; a process of its own for each, all forked from this one.

    python trainings_killed.py DATASET FOLDER MOMENT…

Leaves FOLDER/whole, which was never killed, and FOLDER/<moment> for each moment.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scanloom.pipeline.bundle import find_bundle
from scanloom.pipeline.training import checkpoint
from scanloom.pipeline.training.options import TrainOptions
from scanloom.pipeline.training.step import AutocastInferer
from scanloom.pipeline.training.train import train

SMALL = {
    "network_def#features": [2, 4],
    "network_def#deep_supervision": 0,
    "network_def#dropout": 0.2,  # so that torch's random state matters
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "roi_size": [16, 16, 16],
    "val_interval": 1,
}


def at_call(number: int, of: Callable[..., Any]) -> Callable[..., Any]:
    """The function, but for its call of that number, which kills the process."""
    calls = iter(range(1, 10**9))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return of(*arguments, **named)

    return call


def arm(moment: str) -> None:
    """Prepare to be killed: in the third step, in a validation, or at one of the steps of writing a checkpoint."""
    if moment == "step":
        AutocastInferer.__call__ = at_call(3, AutocastInferer.__call__)  # type: ignore[method-assign]
    elif moment == "validation":
        from monai.inferers import SlidingWindowInferer

        SlidingWindowInferer.__call__ = at_call(3, SlidingWindowInferer.__call__)
    elif moment == "writing":
        torch.save = at_call(5, torch.save)
    elif moment in ("last.pt", "new.pt"):
        rename, calls = Path.replace, iter(range(1, 10**9))

        def replace(path: Path, target: Any) -> Path:
            if path.name == moment and next(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        Path.replace = replace  # type: ignore[method-assign, assignment]
    elif moment == "best":
        checkpoint._copy = at_call(2, checkpoint._copy)


def in_a_child(work: Callable[[], object]) -> int:
    """The exit status of a forked process, negative where a signal ended it."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(dataset: Path, folder: Path, moments: list[str]) -> None:
    bundle = find_bundle("hippocampus_mr_unet")

    def run(name: str, *, resume: bool = False, killed: bool = False) -> int:
        options = TrainOptions(dataset, folder / name, folds=3, epochs=4, device="cpu", resume=resume, overrides=SMALL)
        return in_a_child(
            lambda: (arm(name) if killed else None, train(bundle, options, lambda line, done=None: print(name, line)))
        )

    if run("whole") != 0:
        raise SystemExit("the training failed")
    for moment in moments:
        if run(moment, killed=True) != -signal.SIGKILL:
            raise SystemExit(f"{moment}: it was not killed")
        if run(moment, resume=True) != 0:
            raise SystemExit(f"{moment}: it did not resume")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
