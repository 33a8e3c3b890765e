"""How well windows agree where they meet: a figure for the quality of a tiled result."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import Layout

EVERY = 4
"""Along each axis of a border plane every fourth voxel is compared."""


class SeamCheck:
    """Counts voxels on the middle planes of overlaps where the two sides choose another label.

    Weights do not change which channel is largest at a voxel, and in the middle of an overlap both sides count alike.

    Args:
        layout: which axes there are, and how windows overlap along them.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.compared = 0
        self._differing: list[Tensor] = []

    @property
    def disagreement(self) -> float | None:
        """Share of the compared voxels whose labels differ; None where no windows overlap."""
        if not self.compared:
            return None
        return float(torch.stack([count.cpu() for count in self._differing]).sum()) / self.compared

    def compare(self, axis: int, before: Tensor, after: Tensor) -> None:
        """Both (K, *spatial), the same voxels: sums so far, and what a new box brings."""
        middle = before.shape[axis + 1] // 2
        one, other = (_labels(_sample(each.select(axis + 1, middle))) for each in (before, after))
        self.compared += one.numel()
        self._differing.append((one != other).sum())


def _sample(plane: Tensor) -> Tensor:
    return plane[(slice(None), *[slice(EVERY // 2, None, EVERY)] * (plane.dim() - 1))]


def _labels(scores: Tensor) -> Tensor:
    return scores[0] > 0 if len(scores) == 1 else scores.argmax(dim=0)
