"""The cases of one validation, beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..bundle import LabelClass
from .csv_table import csv_table
from .overlay import Picture

Named = tuple[str, Picture]


def per_case_csv(cases: Sequence[Named], labels: Sequence[LabelClass]) -> str:
    """A CSV text with a row a case: its name, the Dice of each label (empty where it is in neither), their mean."""
    values = sorted({value for _, picture in cases for value in picture.dice})
    names = {label.value: label.name for label in labels}
    columns = {value: names.get(value, f"label {value}") for value in values}
    rows = [
        {
            "case": name,
            **{column: _figure(picture.dice.get(value)) for value, column in columns.items()},
            "mean": _figure(picture.mean_dice),
        }
        for name, picture in cases
    ]
    return csv_table(["case", *columns.values(), "mean"], rows)


def best_median_worst(cases: Sequence[Named]) -> dict[str, Named]:
    """The cases with the largest, the middle and the smallest mean Dice; fewer where there are fewer.

    Cases without any label in reference or prediction have no Dice, and are left out; of equal ones the first is taken.
    """
    scored = [case for case in cases if not np.isnan(case[1].mean_dice)]
    order = sorted(scored, key=lambda case: -case[1].mean_dice)
    if not order:
        return {}
    places = {"best": 0, "worst": len(order) - 1, "median": len(order) // 2}
    taken: dict[int, str] = {}
    for which, place in places.items():
        taken.setdefault(place, which)
    return {which: order[place] for place, which in taken.items()}


def _figure(dice: float | None) -> str:
    return "" if dice is None or np.isnan(dice) else f"{dice:.4f}"
