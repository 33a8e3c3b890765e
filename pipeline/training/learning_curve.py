"""The figure of a whole training: loss, validation and learning rate over the epochs."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSS, RATE, MEAN_DICE, DICE = "train/loss", "train/learning_rate", "val/mean_dice", "val/dice/"


def learning_curve(metrics_file: Path, title: str) -> Figure:
    """Loss and learning rate above, validation Dice below with the best epoch marked.

    Args:
        metrics_file: metrics.csv of a run folder, with `epoch`, `metric` and `value`.
        title: one line above.
    """
    from matplotlib.figure import Figure

    curves = _read(metrics_file)
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    figure.suptitle(title, fontsize=11)
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(*curves[LOSS], color="C0", label="loss")
    above.set_ylabel("loss")
    rate = above.twinx()
    rate.plot(*curves[RATE], color="0.6", linewidth=1, label="learning rate")
    rate.set_ylabel("learning rate", color="0.4")
    rate.set_ylim(bottom=0)
    for name, (epochs, values) in curves.items():
        if name == MEAN_DICE:
            below.plot(epochs, values, color="k", marker=".", label="mean")
        elif name.startswith(DICE):
            below.plot(epochs, values, linewidth=1, marker=".", label=name.removeprefix(DICE))
    epochs, values = curves[MEAN_DICE]
    if values:
        best = max(range(len(values)), key=values.__getitem__)
        below.axvline(epochs[best], color="0.6", linestyle=":")
        below.set_title(f"best mean {values[best]:.4f} in epoch {epochs[best]}", fontsize=9)
        below.legend(fontsize=9, loc="lower right")
        # The first epochs would flatten the rest.
        below.set_ylim(bottom=max(0.0, float(np.quantile(values, 0.25)) - 0.05))
    below.set_ylabel("Dice of the validation cases")
    below.set_xlabel("epoch")
    return figure


def _read(metrics_file: Path) -> dict[str, tuple[list[int], list[float]]]:
    curves: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
    with metrics_file.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            curves[row["metric"]][0].append(int(row["epoch"]))
            curves[row["metric"]][1].append(float(row["value"]))
    return curves
