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

from ..bundle import LabelClass
from ..progress import Report
from .overlay import overlay_figure
from .tracking import TrackedRun

PICTURED_CASES = 3
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
        self._losses: list[float] = []
        self._started = self._last_step = 0.0
        self._pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray, str, Sequence[float]]] = []

    def attach(self, trainer: Engine, evaluator: Engine, optimizer: Any) -> None:
        """Register with both engines; the learning rate is read from the optimizer."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: self._end_epoch(trainer, optimizer))
        # A validation runs within the trainer's EPOCH_COMPLETED, before our handler there: the loss is told first.
        evaluator.add_event_handler(Events.STARTED, lambda: self._end_epoch(trainer, optimizer))
        evaluator.add_event_handler(Events.STARTED, lambda: self._pictures.clear())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._keep_picture)
        evaluator.add_event_handler(Events.COMPLETED, self._end_validation)

    def _start_epoch(self, trainer: Engine) -> None:
        self._epoch, self._started = trainer.state.epoch, time.perf_counter()
        self._losses.clear()

    def _end_step(self, trainer: Engine) -> None:
        self._losses.append(_loss(trainer))
        self._last_step = time.perf_counter()

    def _end_epoch(self, trainer: Engine, optimizer: Any) -> None:
        """Tell of the epoch's training, once."""
        if not self._losses:
            return
        metrics = {
            "train/loss": float(np.mean(self._losses)),
            "train/learning_rate": float(optimizer.param_groups[0]["lr"]),
            "train/seconds": self._last_step - self._started,
        }
        self._losses.clear()
        self._write(metrics)
        epochs = trainer.state.max_epochs or self._epoch
        line = f"epoch {self._epoch}/{epochs}: loss {metrics['train/loss']:.4f}, {metrics['train/seconds']:.1f} s"
        self.report(line, self._epoch / epochs)

    def _keep_picture(self, evaluator: Engine) -> None:
        for case, item in zip(_items(evaluator.state.batch), _items(evaluator.state.output), strict=False):
            if len(self._pictures) >= PICTURED_CASES:
                return
            reference, prediction = (_labels(item[key]) for key in ("label", "pred"))
            image = np.asarray(item["image"][0])
            spacing = [float(length) for length in getattr(item["image"], "pixdim", np.ones(image.ndim))]
            self._pictures.append((image, reference, prediction, _case_name(case, item), spacing))

    def _end_validation(self, evaluator: Engine) -> None:
        metrics = dict(self._validation_metrics(evaluator))
        self._write(metrics)
        self.report("  validation: " + ", ".join(f"{name[4:]} {value:.4f}" for name, value in metrics.items()))
        if evaluator.state.best_metric_epoch == evaluator.state.epoch:
            self.run.set_tag("best_epoch", str(self._epoch))
            self.run.log_metrics({"val/best": float(evaluator.state.best_metric)}, self._epoch)
            for image, reference, prediction, name, spacing in self._pictures:
                title = f"{name}, epoch {self._epoch}"
                figure = overlay_figure(image, reference, prediction, title, self.labels, spacing)
                self.run.log_figure(figure, f"validation/{name}.png")
        self._pictures.clear()

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
        kept = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
    with metrics_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)


def _items(batch: Any) -> list[Any]:
    """A batch that is decollated or of one dictionary, as a list."""
    return list(batch) if isinstance(batch, list | tuple) else [batch]


def _loss(trainer: Engine) -> float:
    return float(torch.as_tensor(_items(trainer.state.output)[0]["loss"]).detach())


def _case_name(case: Any, item: Any) -> str:
    """The case's name in the dataset, or its file's."""
    if isinstance(case, dict) and isinstance(case.get("case"), str):
        return str(case["case"])
    file = str(getattr(item["image"], "meta", {}).get("filename_or_obj", "case"))
    return Path(file).name.split(".")[0]


def _labels(one_hot: Any) -> np.ndarray:
    """(K, *spatial) one-hot, or (1, *spatial) integers -> (*spatial) integers."""
    array = np.asarray(one_hot)
    return array.argmax(axis=0) if len(array) > 1 else array[0].astype(int)
