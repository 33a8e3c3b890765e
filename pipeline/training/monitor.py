"""What a training tells while it runs: MLflow, metrics.csv and pictures, from MONAI engines' events."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from ..atomic import write_whole
from ..bundle import LabelClass
from ..progress import Report
from .csv_table import csv_table
from .guard import loss_of
from .learning_curve import learning_curve
from .overlay import draw
from .per_case import Named, best_median_worst, per_case_csv, validated_cases
from .processes import process_count
from .tracking import TrackedRun

COLUMNS = ("epoch", "metric", "value")


class Monitor:
    """Follows a trainer and its evaluator.

    Args:
        run: the MLflow run to write to.
        metrics_file: a CSV file with a row a metric and epoch.
        labels: of the bundle, in the order of their values: for metrics with one value a label, and the pictures.
        report: told of each epoch and validation.
    """

    def __init__(self, run: TrackedRun, metrics_file: Path, labels: Sequence[LabelClass], report: Report) -> None:
        self.run = run
        self.metrics_file = metrics_file
        self.labels = tuple(labels)
        self.report = report
        self._epoch = 0
        self._losses: list[tuple[int, float]] = []
        self._samples = 0
        self._started = self._last_step = 0.0
        self._cases: list[Named] = []

    def attach(self, trainer: Engine, evaluator: Engine, optimizer: Any) -> None:
        """Register with both engines; the learning rate is read from the optimizer."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._end_epoch(trainer, optimizer))
        # A validation runs within the trainer's EPOCH_COMPLETED, before our handler there: the loss is told first.
        evaluator.add_event_handler(Events.STARTED, lambda: self._end_epoch(trainer, optimizer))
        evaluator.add_event_handler(Events.STARTED, lambda: self._cases.clear())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._keep_cases)
        evaluator.add_event_handler(Events.COMPLETED, self._end_validation)

    def finish(self) -> None:
        """Log the learning curve of the whole training."""
        if self.metrics_file.exists():
            self.run.log_figure(learning_curve(self.metrics_file, self.labels), "training/learning_curve.png")

    def _start_epoch(self, trainer: Engine) -> None:
        self._epoch, self._started = trainer.state.epoch, time.perf_counter()
        self._losses.clear()
        self._samples = 0

    def _end_step(self, trainer: Engine) -> None:
        self._losses.append((trainer.state.iteration, loss_of(trainer)))
        self._samples += _batch_size(trainer.state.batch) * process_count()
        self._last_step = time.perf_counter()

    def _end_epoch(self, trainer: Engine, optimizer: Any) -> None:
        """Tell of the epoch's training, once."""
        if not self._losses:
            return
        seconds = self._last_step - self._started
        metrics = {
            "train/loss": float(np.mean([loss for _, loss in self._losses])),
            "train/learning_rate": float(optimizer.param_groups[0]["lr"]),
            "train/seconds": seconds,
            "train/samples_per_second": self._samples / seconds if seconds > 0 else 0.0,
        }
        self.run.log_points([("train/step_loss", loss, step) for step, loss in self._losses])
        self._losses.clear()
        self._write(metrics)
        epochs = trainer.state.max_epochs or self._epoch
        line = f"epoch {self._epoch}/{epochs}: loss {metrics['train/loss']:.4f}, {seconds:.1f} s"
        self.report(line, self._epoch / epochs)

    def _keep_cases(self, evaluator: Engine) -> None:
        """Of each case the slices of its picture and its Dice; the volumes go."""
        batch, output = evaluator.state.batch, evaluator.state.output
        self._cases.extend(validated_cases(batch, output, self.labels, len(self._cases)))

    def _end_validation(self, evaluator: Engine) -> None:
        metrics = dict(self._validation_metrics(evaluator))
        self._write(metrics)
        self.report("  validation: " + ", ".join(f"{name[4:]} {value:.4f}" for name, value in metrics.items()))
        if evaluator.state.best_metric_epoch == evaluator.state.epoch:
            self.run.set_tag("best_epoch", str(self._epoch))
            self.run.log_metrics({"val/best": float(evaluator.state.best_metric)}, self._epoch)
            self._log_cases()
            self.finish()
        self._cases.clear()

    def _log_cases(self) -> None:
        """The Dice of every case, and pictures of the best, the median and the worst."""
        self.run.log_text(per_case_csv(self._cases, self.labels), "validation/per_case.csv")
        for which, (name, picture) in best_median_worst(self._cases).items():
            title = f"{which}: {name}, epoch {self._epoch}, mean Dice {picture.mean_dice:.3f}"
            self.run.log_figure(draw(picture, title, self.labels), f"validation/{which}.png")

    def _validation_metrics(self, evaluator: Engine) -> Iterator[tuple[str, float]]:
        names = [label.name for label in self.labels]
        for name, value in evaluator.state.metrics.items():
            short = "val/" + name.removeprefix("val_")
            values = np.asarray(value, dtype=float)
            if values.ndim == 0:
                yield short, float(values)
            else:
                ends = names if values.size == len(names) else map(str, range(values.size))
                yield from zip((f"{short}/{end}" for end in ends), values.ravel().tolist(), strict=True)

    def _write(self, metrics: dict[str, float]) -> None:
        self.run.log_metrics(metrics, self._epoch)
        new = not self.metrics_file.exists()
        with self.metrics_file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(COLUMNS)
            writer.writerows([self._epoch, name, value] for name, value in metrics.items())


def forget_after(metrics_file: Path, epoch: int) -> None:
    """Drop the rows of epochs after this one from metrics.csv: a resumed training writes them again."""
    if not metrics_file.exists():
        return
    with metrics_file.open(newline="", encoding="utf-8") as file:
        whole = [row for row in csv.DictReader(file) if row.get("value")]  # a kill may have cut the last one off
    kept = [row for row in whole if int(row["epoch"]) <= epoch]
    write_whole(metrics_file, csv_table(COLUMNS, kept).encode())


def _batch_size(batch: Any) -> int:
    """Samples in a training batch, collated or decollated."""
    if isinstance(batch, list | tuple):
        return len(batch)
    sizes = (
        [len(value) for value in batch.values() if isinstance(value, torch.Tensor)] if isinstance(batch, dict) else []
    )
    return sizes[0] if sizes else 1
