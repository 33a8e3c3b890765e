"""The cases of one validation, beside each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import decollate_batch

from ..bundle import LabelClass
from .csv_table import csv_table
from .guard import case_names
from .overlay import Picture, picture_of

KEYS = ("image", "label", "pred")
"""Of an evaluator's output."""

Named = tuple[str, Picture]


def validated_cases(batch: Any, output: Any, labels: Sequence[LabelClass], before: int = 0) -> Iterator[Named]:
    """Each case of a step of a validation: its name, and what its picture needs in place of its volumes.

    A case is called as the dataset calls it, else by its file, else by its number.

    Args:
        batch: of the evaluator, decollated or not.
        output: likewise, on any device: image, label and pred of a case as (C, *spatial). Labels are one-hot, or
            integers in one channel.
        labels: of the bundle.
        before: how many cases came before this step's.
    """
    items = output if isinstance(output, list | tuple) else decollate_batch({key: output[key] for key in KEYS})
    names = case_names(batch)
    for number, item in enumerate(items):
        name = names[number] if len(names) == len(items) else _file_name(item["image"])
        image = torch.as_tensor(item["image"])[0].detach().float().cpu().numpy()
        reference, prediction = (_integers(item[key]) for key in ("label", "pred"))
        spacing = [float(length) for length in getattr(item["image"], "pixdim", np.ones(image.ndim))]
        yield name or f"case {before + number + 1}", picture_of(image, reference, prediction, labels, spacing)


def per_case_csv(cases: Sequence[Named], labels: Sequence[LabelClass]) -> str:
    """A CSV text with a row a case: its name, the Dice of each label (nan where it is in neither), their mean."""
    values = sorted({value for _, picture in cases for value in picture.dice})
    names = {label.value: label.name for label in labels}
    columns = {value: names.get(value, f"label {value}") for value in values}
    rows = [
        {
            "case": name,
            **{column: f"{picture.dice.get(value, float('nan')):.6f}" for value, column in columns.items()},
            "mean": f"{picture.mean_dice:.6f}",
        }
        for name, picture in cases
    ]
    return csv_table(["case", *columns.values(), "mean"], rows)


def best_median_worst(cases: Sequence[Named]) -> dict[str, Named]:
    """The cases with the largest, the middle and the smallest mean Dice; fewer where there are fewer.

    Cases without any label in reference or prediction have no Dice, and are left out; equal ones stay in their order.
    """
    scored = [case for case in cases if not isnan(case[1].mean_dice)]
    order = sorted(scored, key=lambda case: -case[1].mean_dice)
    if not order:
        return {}
    places = {"best": 0, "worst": len(order) - 1, "median": len(order) // 2}
    taken: dict[int, str] = {}
    for which, place in places.items():
        taken.setdefault(place, which)
    return {which: order[place] for place, which in taken.items()}


def _file_name(image: Any) -> str:
    """Of the file that the image came from, without its endings; empty where it came from none."""
    file = getattr(image, "meta", {}).get("filename_or_obj")
    return Path(str(file)).name.split(".")[0] if file else ""


def _integers(label: Any) -> np.ndarray:
    """(K, *spatial) one-hot, or (1, *spatial) integers, on any device -> (*spatial) integers."""
    channels = torch.as_tensor(label).detach()
    kind = torch.uint8 if len(channels) > 1 and len(channels) <= 256 else torch.int32
    values = channels.argmax(dim=0) if len(channels) > 1 else channels[0]
    return np.asarray(values.to(kind).cpu())
