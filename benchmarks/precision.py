"""What each engine and precision costs a bundle in Dice and in seconds: the validation cases of a fold.

    python benchmarks/precision.py -b hippocampus_mr_unet -d DATASET [--fold 0] [--precision fp32 --precision bf16]
        [--engine torch --engine openvino --engine onnxruntime] [--cases 10]

They are labelled as `scanloom predict` does, each case by all in turn, so that what else the machine does weighs on all
alike. Prints Markdown: mean Dice of each label over the cases, of all labels, the largest loss of a case against the
first, the share of voxels labelled otherwise than by it, and seconds a case: median, and range. A bundle's
`measured_dice` in its metadata.json comes from here.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Annotated

import numpy as np
import torch
import typer
from measure import machine, spread, versions
from monai.metrics import compute_dice
from monai.networks import one_hot
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.device import describe_device, find_device
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.studies import find_series, read_series
from scanloom.pipeline.training.dataset import split_dataset
from scanloom.pipeline.volume import Volume

IMPOSSIBLE = (("onnxruntime", "bf16"), ("onnxruntime", "fp16"), ("openvino", "fp16"))


def main(
    bundle: Annotated[str, typer.Option("--bundle", "-b")],
    dataset: Annotated[Path, typer.Option("--dataset", "-d")],
    fold: int = 0,
    folds: int = 5,
    precision: Annotated[list[str] | None, typer.Option()] = None,
    engine: Annotated[list[str] | None, typer.Option()] = None,
    device: str = "auto",
    cases: Annotated[int | None, typer.Option(help="The first so many; all if not given.")] = None,
) -> None:
    """Print the table."""
    found = find_bundle(bundle)
    names = [label.name for label in found.labels]
    listed = split_dataset(dataset, fold, folds).validation[:cases]
    scans = [(_read(case["image"]), _read(case["label"])) for case in listed]
    print(f"{found.name}, {len(scans)} cases of fold {fold}, {describe_device(find_device(device))}, {machine()}")
    print(versions(("torch", "openvino", "onnxruntime")) + f", {torch.get_num_threads()} threads")
    runs = {
        f"{with_engine} {in_precision}": Predictor(found, device, precision=in_precision, engine=with_engine)
        for with_engine in engine or ["torch"]
        for in_precision in precision or ["fp32", "bf16"]
        if (with_engine, in_precision) not in IMPOSSIBLE
    }
    labels: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for predictor in runs.values():
        predictor(scans[0][0])  # the first window is slower than the rest
    for image, _ in scans:
        for name, predictor in runs.items():
            begin = perf_counter()
            labels[name].append(predictor(image))
            seconds[name].append(perf_counter() - begin)
    print(f"\n| | {' | '.join(names)} | mean | largest loss of a case | voxels changed | seconds a case |")
    print("|---" * (len(names) + 5) + "|")
    first: tuple[np.ndarray, list[np.ndarray]] | None = None
    for name, made in labels.items():
        dice = np.array([_dice(one, truth, found) for one, (_, truth) in zip(made, scans, strict=True)])
        first = first or (dice.mean(axis=1), made)
        loss = (first[0] - dice.mean(axis=1)).max()
        changed = np.mean([(one != other).mean() for one, other in zip(made, first[1], strict=True)])
        row = [name, *(f"{value:.5f}" for value in dice.mean(axis=0)), f"{dice.mean():.5f}"]
        print("| " + " | ".join([*row, f"{loss:.5f}", f"{changed:.2e}", spread(seconds[name], 2)]) + " |", flush=True)


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
