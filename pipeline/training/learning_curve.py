"""The figure of a whole training: loss, validation and learning rate over the epochs."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..bundle import LabelClass

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS, RATE, MEAN_DICE, DICE = "train/loss", "train/learning_rate", "val/mean_dice", "val/dice/"
FIRST_EPOCHS = 0.25
"""Part of the validations that may lie below what is shown: the first would flatten the rest."""

Curve = tuple[list[int], list[float]]
Curves = defaultdict[str, Curve]
"""A name that is not there has no points."""


def learning_curve(metrics_file: Path, labels: Sequence[LabelClass] = ()) -> Figure:
    """Loss and learning rate above, validation Dice below, with the epoch of the best mean marked.

    Args:
        metrics_file: metrics.csv of a run folder, with `epoch`, `metric` and `value`; what is no number is left out.
        labels: whose colours the curves take.
    """
    from matplotlib.figure import Figure

    curves = _read(metrics_file)
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    _draw_training(above, curves)
    _draw_validation(below, curves, labels)
    last = max((epoch for epochs, _ in curves.values() for epoch in epochs), default=0)
    title = f"{last} epochs"
    epochs, values = curves[MEAN_DICE]
    if values:
        best = int(np.argmax(values))
        title += f", best mean Dice {values[best]:.4f} in epoch {epochs[best]}"
        for axes in (above, below):
            axes.axvline(epochs[best], color="0.6", linestyle=":", zorder=0)
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_training(axes: Axes, curves: Curves) -> None:
    axes.plot(*curves[LOSS], color="C0")
    axes.set_ylabel("training loss", color="C0")
    rate = axes.twinx()
    rate.plot(*curves[RATE], color="0.6", linewidth=1)
    rate.set_ylabel("learning rate", color="0.4")
    rate.set_ylim(bottom=0)


def _draw_validation(axes: Axes, curves: Curves, labels: Sequence[LabelClass]) -> None:
    colors = {label.name: tuple(part / 255 for part in label.color) for label in labels}
    shown = {name.removeprefix(DICE): curve for name, curve in curves.items() if name.startswith(DICE)}
    for name, curve in shown.items():
        axes.plot(*curve, color=colors.get(name), linewidth=1, marker=".", label=name)
    if curves[MEAN_DICE][1]:
        axes.plot(*curves[MEAN_DICE], color="k", marker=".", label="mean")
        shown["mean"] = curves[MEAN_DICE]
    lowest = [float(np.quantile(values, FIRST_EPOCHS)) for _, values in shown.values() if values]
    if lowest:
        axes.set_ylim(bottom=max(0.0, min(lowest) - 0.02))
        legend = axes.legend(fontsize=9, loc="lower right")
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.set_ylabel("Dice of the validation cases")
    axes.set_xlabel("epoch")
    axes.grid(alpha=0.3)


def _read(metrics_file: Path) -> Curves:
    curves: Curves = defaultdict(lambda: ([], []))
    with metrics_file.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if isfinite(value := float(row["value"])):
                curves[row["metric"]][0].append(int(row["epoch"]))
                curves[row["metric"]][1].append(value)
    return curves
