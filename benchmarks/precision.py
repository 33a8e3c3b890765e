"""What each precision costs a bundle in Dice: the validation cases of a fold, labelled as `scanloom predict` does.

    python benchmarks/precision.py -b hippocampus_mr_unet -d DATASET [--fold 0] [--precision fp32 --precision bf16]

Prints Markdown: mean Dice of each label over the cases, of all labels, the largest loss of a case against the first
precision, the share of voxels labelled otherwise than by it, and seconds. A bundle's `measured_dice` in its
metadata.json comes from here.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import torch
import typer
from monai.metrics import compute_dice
from monai.networks import one_hot
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.device import describe_device, find_device
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.training.dataset import split_dataset
from scanloom.pipeline.volume import Volume


def main(
    bundle: Annotated[str, typer.Option("--bundle", "-b")],
    dataset: Annotated[Path, typer.Option("--dataset", "-d")],
    fold: int = 0,
    folds: int = 5,
    precision: Annotated[list[str] | None, typer.Option()] = None,
    engine: str = "torch",
    device: str = "auto",
) -> None:
    """Print the table."""
    found = find_bundle(bundle)
    names = [label.name for label in found.labels]
    cases = [(_read(case["image"]), _read(case["label"])) for case in split_dataset(dataset, fold, folds).validation]
    print(
        f"{found.name}, {len(cases)} cases of fold {fold}, {describe_device(find_device(device))}, {torch.__version__}"
    )
    print(f"\n| precision | {' | '.join(names)} | mean | largest loss of a case | voxels changed | seconds |")
    print("|---" * (len(names) + 5) + "|")
    first: tuple[np.ndarray, list[np.ndarray]] | None = None
    for each in precision or ["fp32", "bf16"]:
        predictor = Predictor(found, device, precision=each, engine=engine)
        predictor(cases[0][0])  # the first window is slower than the rest
        begin = perf_counter()
        labels = [predictor(image) for image, _ in cases]
        seconds = perf_counter() - begin
        dice = np.array([_dice(one, truth, found) for one, (_, truth) in zip(labels, cases, strict=True)])
        first = first or (dice.mean(axis=1), labels)
        loss = (first[0] - dice.mean(axis=1)).max()
        changed = np.mean([(one != other).mean() for one, other in zip(labels, first[1], strict=True)])
        row = [each, *(f"{value:.5f}" for value in dice.mean(axis=0)), f"{dice.mean():.5f}"]
        print("| " + " | ".join([*row, f"{loss:.5f}", f"{changed:.2e}", f"{seconds:.1f}"]) + " |", flush=True)


def _read(path: str | Path) -> Volume:
    (series,) = find_series(Path(path))
    return read_series(series)


def _dice(labels: np.ndarray, truth: Volume, bundle: Bundle) -> np.ndarray:
    """Dice of each label of the bundle; NaN where neither holds it."""
    classes = 1 + max(label.value for label in bundle.labels)
    one, other = (
        one_hot(torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))[None, None], classes)
        for array in (labels, truth.array[0])
    )
    dice = compute_dice(one, other, include_background=True)[0].numpy()
    return dice[[label.value for label in bundle.labels]]


if __name__ == "__main__":
    typer.run(main)
