"""A bundle with its weights in half precision: half the file, and a network that computes as before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..atomic import atomic_folder, write_whole
from ..bundle import Bundle, find_bundle
from ..bundle_network import read_weights

SMALL = 4096
"""Tensors of fewer values (biases, norms and their statistics) stay as they are: they weigh nothing and matter most."""


@dataclass(frozen=True)
class Shrunk:
    """A bundle that was shrunk.

    Attributes:
        bundle: with the smaller weights.
        bytes_before, bytes_after: of the weights' file.
        largest_change: of a weight, as a share of the largest of its tensor.
    """

    bundle: Bundle
    bytes_before: int
    bytes_after: int
    largest_change: float


def shrink_bundle(bundle: Bundle, folder: Path) -> Shrunk:
    """A copy of the bundle whose large tensors are float16; loading puts them back into the network's float32.

    Args:
        bundle: left as it is.
        folder: of the copy; must not hold anything.
    Raises:
        UsageError: the folder holds something, or can not be written.
        BundleError: the weights can not be read.
    """
    before = read_weights(bundle)
    after = {name: _halved(tensor) for name, tensor in before.items()}
    with atomic_folder(folder) as part:
        shutil.copytree(bundle.folder, part, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        torch.save(after, part / "models" / bundle.weights.name)
        _name_weights(find_bundle(part))
    made = find_bundle(folder)
    sizes = [each.weights.stat().st_size for each in (bundle, made)]
    return Shrunk(made, sizes[0], sizes[1], _largest_change(before, after))


def _halved(tensor: Tensor) -> Tensor:
    """The tensor in float16, where it is large, of real numbers, and none of them too large for that."""
    if tensor.numel() < SMALL or tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    half = tensor.half()
    return half if bool(half.isfinite().all()) else tensor


def _name_weights(bundle: Bundle) -> None:
    """Write the digest of the new weights into the metadata, where they have that of the old ones."""
    training = bundle.metadata.get("training")
    if isinstance(training, Mapping) and "weights_sha256" in training:
        metadata = {**bundle.metadata, "training": {**training, "weights_sha256": bundle.weights_sha256}}
        text = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
        write_whole(bundle.folder / "configs" / "metadata.json", text.encode())


def _largest_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> float:
    changes = [
        float((after[name].to(tensor.dtype) - tensor).abs().max() / tensor.abs().max().clamp(min=1e-30))
        for name, tensor in before.items()
        if after[name].dtype != tensor.dtype
    ]
    return max(changes, default=0.0)
