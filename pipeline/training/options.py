"""What the command line says of a training, and what of it a resumed training must say again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..bundle import Bundle
from ..errors import UsageError


@dataclass(frozen=True)
class TrainOptions:
    """What the command line says of a training.

    Attributes:
        dataset: a Medical Decathlon or nnU-Net raw folder.
        run_folder: gets bundle/, checkpoints/, metrics.csv and train.log.
        fold: the fold held out; None trains on all cases.
        folds: number of folds.
        epochs, seed: override the config's where not None.
        device: "auto", "cpu", "cuda", "cuda:1", …; with several processes "auto" gives each a GPU of its own.
        deterministic: the same seed gives the same weights; None: on a processor yes, on a GPU, where it costs, no.
        resume: go on from the last checkpoint in `run_folder`.
        overrides: further ids of the config and their values.
        teacher: a trusted bundle that the network learns from, too.
        parent_run: the MLflow run that this one is a child of.
    """

    dataset: Path
    run_folder: Path
    fold: int | None = 0
    folds: int = 5
    epochs: int | None = None
    seed: int | None = None
    device: str = "auto"
    deterministic: bool | None = None
    resume: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    teacher: Bundle | None = None
    parent_run: str | None = None

    def check(self) -> None:
        """Refuse numbers that can not be.

        Raises:
            UsageError: they can not be.
        """
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs}: it must be at least 1.")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise UsageError(f"--seed {self.seed}: it must be between 0 and {2**32 - 1}.")

    def of_the_start(self) -> dict[str, str]:
        """The options that a training must be resumed with, in words."""
        return {
            "--fold": str(self.fold),
            "--folds": str(self.folds),
            "--epochs": str(self.epochs or "not given"),
            "--seed": str("not given" if self.seed is None else self.seed),
            "--deterministic": str("not given" if self.deterministic is None else self.deterministic),
            "--teacher": self.teacher.weights_sha256[:12] if self.teacher else "none",
            "--set": " ".join(f"{key}={value}" for key, value in sorted(self.overrides.items())) or "not given",
        }


def require_same_start(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse to resume a training with other options, or on another dataset, than it began with.

    Raises:
        UsageError: the first difference.
    """
    for name, value in now.items():
        old = before.get(name, value)
        if old != value and name == "dataset":
            raise UsageError(
                "--resume: the dataset is not the one of this training's start. Restore it, or start anew."
            )
        if old != value:
            raise UsageError(f"--resume: this training began with {name} {old}, not {value}. Resume with the same.")
