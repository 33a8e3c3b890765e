"""How well bundles part cells: the ISBI 2012 challenge's scores on the slices that a fold holds out.

    python benchmarks/membranes.py -d DATASET -b RUN/bundle [-b RUN2/bundle] [--folds 4] [--fold 3]

Prints Markdown, a row a bundle: foreground-restricted V-Rand and V-Info after thinning, Rand and pixel error (see
`scanloom.pipeline.training.partitions`), each with the bundle's own inferer and once without its test-time averaging.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch
import typer
from monai.inferers import Inferer
from monai.transforms import Compose
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.bundle_network import inference_config, load_network
from scanloom.pipeline.device import describe_device
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.training.dataset import split_dataset
from scanloom.pipeline.training.partitions import membrane_scores

COLUMNS = {
    "v_rand": "V-Rand",
    "v_rand_split": "split",
    "v_rand_merge": "merge",
    "v_rand_threshold": "at",
    "v_info": "V-Info",
    "rand_error": "Rand error",
    "pixel_error": "pixel error",
    "pixel_f_error": "1 - pixel F",
}


def main(
    dataset: Annotated[Path, typer.Option("--dataset", "-d")],
    bundles: Annotated[list[str], typer.Option("--bundle", "-b")],
    fold: int = 3,
    folds: int = 4,
) -> None:
    """Print the table."""
    cases = split_dataset(dataset, fold, folds).validation
    truths = [read_scan(Path(case["label"])).array[0, :, :, 0] > 0 for case in cases]
    print(f"{len(cases)} slices of fold {fold} of {folds}, {describe_device(torch.device('cpu'))}, {torch.__version__}")
    print(f"\n| bundle | averaged over | {' | '.join(COLUMNS.values())} | seconds a slice |")
    print("|---" * (len(COLUMNS) + 3) + "|")
    for name in bundles:
        bundle = find_bundle(name)
        for averaged in (True, False):
            begin = perf_counter()
            maps, views = _probabilities(bundle, [case["image"] for case in cases], averaged=averaged)
            seconds = (perf_counter() - begin) / len(cases)
            scores = membrane_scores(truths, maps)
            row = [bundle.name, str(views), *(f"{scores[key]:.4f}" for key in COLUMNS), f"{seconds:.1f}"]
            print("| " + " | ".join(row) + " |", flush=True)


def _probabilities(bundle: Bundle, images: list[str], *, averaged: bool) -> tuple[list[np.ndarray], int]:
    """Of membrane, a slice (X, Y) in the picture's own order, and how many views of it were averaged."""
    parser = inference_config(bundle)
    parser.update({"device": torch.device("cpu")})
    preprocessing: Compose = parser.get_parsed_content("preprocessing")
    inferer: Any = copy(parser.get_parsed_content("inferer"))
    inferer.output = "probabilities"
    network = load_network(bundle).eval()
    if not averaged:
        inferer.mirror_axes = ()
        inferer.transpose_axes = ()
    views = 2 ** len(inferer.mirror_axes) * (2 if inferer.transpose_axes else 1)
    return [_of_one(image, preprocessing, inferer, network) for image in images], views


def _of_one(image: str, preprocessing: Compose, inferer: Inferer, network: torch.nn.Module) -> np.ndarray:
    prepared: Any = preprocessing({"image": image})["image"]
    with torch.inference_mode():
        found = inferer(prepared[None], network)[0]
    carrier = preprocessing.inverse(
        {"image": found.__class__(found[1:], meta=prepared.meta, applied_operations=prepared.applied_operations)}
    )
    return np.asarray(carrier["image"])[0, :, :, 0]


if __name__ == "__main__":
    typer.run(main)
