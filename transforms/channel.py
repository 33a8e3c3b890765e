"""The values of one channel: changed, and summed up, in as few passes over memory as what is asked allows.

Reading and writing a volume costs as much as most changes of it. So steps are collected and done together, piece by
piece in the processor's cache, when a statistic is asked for that depends on them, and that pass gathers it too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

PIECE = 1 << 17
"""Voxels that are worked on together on a processor."""

Step = Callable[[Tensor], Any]
"""Changes a piece of the values in place."""


class Moments:
    """Mean, standard deviation (of the population) and range of values that come in pieces.

    Sums and dot products cost a tenth of `torch.var_mean`. Squares are summed about each piece's own mean and the
    pieces merged, so that a large mean takes no digits from a small deviation.

    Source: Chan, Golub, LeVeque 1983, The American Statistician 37(3).
    """

    def __init__(self) -> None:
        self.count, self.mean, self.low, self.high = 0, 0.0, math.inf, -math.inf
        self._squares = 0.0
        self._memory: Tensor | None = None

    @property
    def std(self) -> float:
        """The standard deviation."""
        return math.sqrt(self._squares / self.count)

    def add(self, piece: Tensor) -> None:
        """Count these values in too."""
        if self._memory is None or len(self._memory) < len(piece):
            self._memory = torch.empty_like(piece)
        size = len(piece)
        mean = piece.sum().item() / size
        centred = torch.sub(piece, mean, out=self._memory[:size])
        gap, total = mean - self.mean, self.count + size
        self._squares += torch.dot(centred, centred).item() + gap * gap * self.count * size / total
        self.mean += gap * size / total
        self.count = total
        low, high = torch.aminmax(piece)
        self.low, self.high = min(self.low, low.item()), max(self.high, high.item())


class Channel:
    """Values that change in steps; a step is done when something is asked that it changes.

    Args:
        values: contiguous, floating point, not empty; they change in place.
    """

    def __init__(self, values: Tensor) -> None:
        self.pieces = pieces(values)
        self._steps: list[Step] = []
        self._moments: Moments | None = None
        self._bounds: tuple[float, float] | None = None

    def then(self, step: Step, bounds: tuple[float, float] | None = None) -> None:
        """Change each piece of the values by the step, after those before it.

        Args:
            bounds: lowest and highest value after it, if they are known.
        """
        self._steps.append(step)
        self._moments, self._bounds = None, bounds

    def moments(self) -> Moments:
        """Of the values as they are now."""
        if self._moments is None:
            moments = Moments()
            self._steps.append(moments.add)
            self.finish()
            self._moments = moments
        return self._moments

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value, as they are now."""
        if self._bounds is None:
            moments = self.moments()
            self._bounds = moments.low, moments.high
        return self._bounds

    def moments_in_passing(self) -> Moments:
        """Of the values as they are now, but filled in with the next pass over them: for what is asked only later."""
        if self._moments is not None:
            return self._moments
        moments = Moments()
        self._steps.append(moments.add)
        return moments

    def finish(self) -> None:
        """Do the steps that are still to be done."""
        if self._steps:
            for piece in self.pieces:
                for step in self._steps:
                    step(piece)
        self._steps = []


def pieces(values: Tensor) -> Sequence[Tensor]:
    """Flat views that fit a processor's cache; on another device, all at once."""
    flat = values.view(-1)
    return flat.split(PIECE) if flat.device.type == "cpu" else [flat]
