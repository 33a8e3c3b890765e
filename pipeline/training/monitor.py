"""What a training tells while it runs: MLflow, metrics.csv, train.log and pictures, from MONAI engines' events."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events

from ..progress import Report
from .overlay import overlay_figure
from .tracking import TrackedRun

log = logging.getLogger("scanloom.training")
PICTURED_CASES = 3


class Monitor:
    """Follows a trainer and its evaluator.

    Args:
        run: the MLflow run to write to.
        metrics_file: a CSV file with a row a validated or trained epoch, name and value.
        label_names: names of the labels, for per-label metrics (the evaluator's metrics with one value a label).
        report: told of each epoch and validation.
    """

    def __init__(self, run: TrackedRun, metrics_file: Path, label_names: Sequence[str], report: Report) -> None:
        self.run = run
        self.metrics_file = metrics_file
        self.label_names = tuple(label_names)
        self.report = report
        self._epoch = 0
        self._losses: list[float] = []
        self._started = 0.0
        self._pictures: list[tuple[np.ndarray, np.ndarray, np.ndarray, str]] = []
        self._best = -np.inf

    def attach(self, trainer: Engine, evaluator: Engine, optimizer: Any) -> None:
        """Register with both engines; the learning rate is read from the optimizer."""
        trainer.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: self._losses.append(_loss(e)))
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch, optimizer)
        evaluator.add_event_handler(Events.STARTED, lambda _: self._pictures.clear())
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._keep_picture)
        evaluator.add_event_handler(Events.COMPLETED, self._end_validation)

    def _start_epoch(self, trainer: Engine) -> None:
        self._epoch, self._started = trainer.state.epoch, time.perf_counter()
        self._losses.clear()

    def _end_epoch(self, trainer: Engine, optimizer: Any) -> None:
        seconds = time.perf_counter() - self._started
        metrics = {
            "train/loss": float(np.mean(self._losses)),
            "train/learning_rate": float(optimizer.param_groups[0]["lr"]),
            "train/seconds": seconds,
        }
        self._write(metrics)
        epochs = trainer.state.max_epochs
        line = f"epoch {self._epoch}/{epochs}: loss {metrics['train/loss']:.4f}, {seconds:.0f} s"
        self.report(line, self._epoch / epochs)

    def _keep_picture(self, evaluator: Engine) -> None:
        if len(self._pictures) >= PICTURED_CASES:
            return
        for item in evaluator.state.output:
            name = Path(str(item["image"].meta.get("filename_or_obj", "case"))).name.split(".")[0]
            reference, prediction = (_labels(item[key]) for key in ("label", "pred"))
            self._pictures.append((np.asarray(item["image"][0]), reference, prediction, name))

    def _end_validation(self, evaluator: Engine) -> None:
        metrics = dict(self._validation_metrics(evaluator))
        self._write(metrics)
        self.report(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        key = float(evaluator.state.metrics[evaluator.state.key_metric_name])
        if key > self._best:
            self._best = key
            self.run.set_tag("best_epoch", str(self._epoch))
            self.run.log_metrics({"val/best": key}, self._epoch)
            for image, reference, prediction, name in self._pictures:
                figure = overlay_figure(
                    image, reference, prediction, f"{name}, epoch {self._epoch} (dashed: reference)"
                )
                self.run.log_figure(figure, f"validation/{name}.png")

    def _validation_metrics(self, evaluator: Engine) -> Any:
        for name, value in evaluator.state.metrics.items():
            short = "val/" + name.removeprefix("val_")
            values = np.atleast_1d(np.asarray(value, dtype=float))
            if len(values) == 1 and np.ndim(value) == 0:
                yield short, float(values[0])
            else:
                yield from zip((f"{short}/{label}" for label in self.label_names), values.tolist(), strict=True)

    def _write(self, metrics: dict[str, float]) -> None:
        self.run.log_metrics(metrics, self._epoch)
        new = not self.metrics_file.exists()
        with self.metrics_file.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["epoch", "metric", "value"])
            writer.writerows([self._epoch, name, value] for name, value in metrics.items())


def _loss(trainer: Engine) -> float:
    return float(trainer.state.output["loss"])


def _labels(one_hot: Any) -> np.ndarray:
    """(K, *spatial) one-hot, or (1, *spatial) integers -> (*spatial) integers."""
    array = np.asarray(one_hot)
    return array.argmax(axis=0) if len(array) > 1 else array[0].astype(int)
