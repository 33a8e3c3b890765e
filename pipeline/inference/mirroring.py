"""Test-time averaging over mirror images and exchanged axes, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, logsigmoid

from .runner import CONDITION, Network, flatten, restored


class Mirrored(nn.Module):
    """A network whose windows are mirrored, its outputs mirrored back, and their probabilities averaged.

    Likewise two axes may be exchanged: mirrored along the same two, a window then has the eight symmetries of a square.

    What comes out are logits again, whose softmax (for one channel, sigmoid) is the mean: so whatever takes a network
    takes this one, and without axes it leads to the network's own probabilities.

    Args:
        network: (B, C, *roi) -> logits (B, K, *roi), or a tuple or dictionary of them.
        axes: spatial axes along which the anatomy may be mirrored; n of them cost 2^n passes.
        transposed: two spatial axes that may be exchanged, which costs twice as many; or none.

    Source: Isensee 2021, test-time augmentation of nnU-Net.
    """

    def __init__(self, network: Network, axes: Sequence[int], transposed: Sequence[int] = ()) -> None:
        super().__init__()
        self.network = network
        flips = [subset for count in range(len(axes) + 1) for subset in combinations(axes, count)]
        exchanges: tuple[tuple[int, ...], ...] = ((), tuple(transposed)) if transposed else ((),)
        self.views = [_View(flip, exchange) for exchange in exchanges for flip in flips]

    def forward(self, windows: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(B, C, *roi) -> logits, in the structure of the network's outputs."""
        means: list[_MeanProbabilities] = []
        for view in self.views:
            seen = {CONDITION: view.of(kwargs[CONDITION])} if CONDITION in kwargs else {}
            keys, outputs = flatten(self.network(view.of(windows), *args, **{**kwargs, **seen}))
            means = means or [_MeanProbabilities() for _ in outputs]
            for mean, output in zip(means, outputs, strict=True):
                mean.add(view.back(output))
        return restored(keys, [mean.logits() for mean in means])


@dataclass(frozen=True)
class _View:
    """One of the ways to look at a window: mirrored along some axes, then two of them exchanged."""

    flips: tuple[int, ...]
    exchanged: tuple[int, ...]

    def of(self, windows: Tensor) -> Tensor:
        """(B, C, *spatial), as it is seen."""
        return self._exchange(torch.flip(windows, [axis + 2 for axis in self.flips]))

    def back(self, seen: Tensor) -> Tensor:
        """What `of` made of it undone."""
        return torch.flip(self._exchange(seen), [axis + 2 for axis in self.flips])

    def _exchange(self, windows: Tensor) -> Tensor:
        return windows.transpose(*(axis + 2 for axis in self.exchanged)) if self.exchanged else windows


class _MeanProbabilities:
    """The mean of probabilities, kept as logarithms, which no small probability rounds to zero."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._count = 0

    def add(self, logits: Tensor) -> None:
        """One more, (B, K, *spatial)."""
        self._count += 1
        logs = [logsigmoid(logits), logsigmoid(-logits)] if logits.shape[1] == 1 else [log_softmax(logits, dim=1)]
        self._sums = list(map(torch.logaddexp, self._sums, logs)) or logs

    def logits(self) -> Tensor:
        """Log-probabilities; for one channel the logarithm of the odds."""
        if len(self._sums) == 1:
            return self._sums[0].sub_(log(self._count))
        return self._sums[0].sub_(self._sums[1])


def check_axes(axes: Sequence[int]) -> tuple[int, ...]:
    """The axes, each once.

    Raises:
        ValueError: an axis is named twice or is negative.
    """
    if len(set(axes)) != len(axes) or any(axis < 0 for axis in axes):
        raise ValueError(f"mirror_axes is {tuple(axes)}; name each spatial axis once, from 0.")
    return tuple(axes)


def check_transposed(axes: Sequence[int]) -> tuple[int, ...]:
    """The two axes, or none.

    Raises:
        ValueError: there is one, more than two, the same twice, or a negative one.
    """
    if len(axes) not in (0, 2) or len(set(axes)) != len(axes) or any(axis < 0 for axis in axes):
        raise ValueError(f"transpose_axes is {tuple(axes)}; name two spatial axes, from 0, or none.")
    return tuple(axes)
