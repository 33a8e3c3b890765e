"""What becomes of finished voxels: logits, labels, or what a function makes of them.

A `Reduction` is given boxes that do not overlap and together cover the image. Each comes a few channels at a time:
`begin`, `put` for the channels in their order, `finish`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

FILL_LOGIT = 20.0

Where = tuple[slice, ...]
"""A box of voxels of the image."""

Reduce = Callable[[Tensor], Tensor]
"""Logits (K, *box) -> (K', *box)."""

Output = Tensor | np.ndarray
"""What results are written to: a tensor on any device, or an array, memory-mapped or not."""


class Reduction(Protocol):
    """Takes finished boxes.

    Attributes:
        needs_mean: the values must be means over the windows; else they may be any positive multiple of them.
    """

    needs_mean: bool

    def begin(self, where: Where) -> None:
        """A box begins."""

    def put(self, where: Where, first: int, block: Tensor) -> None:
        """Channels of the box from `first` on: (n, *voxels), which the reduction may change."""

    def finish(self, where: Where) -> None:
        """The box is complete."""


ReductionOf = Callable[[int, int, tuple[int, ...], Sequence[int]], Reduction]
"""(number of the output, its channels, its voxels an axis, order of the axes) -> what takes its finished boxes."""


class Logits:
    """Writes the values as they are.

    Args:
        out: (K, *spatial).
    """

    needs_mean = True

    def __init__(self, out: Output) -> None:
        self.out = out

    def begin(self, where: Where) -> None:
        """Nothing to prepare."""

    def put(self, where: Where, first: int, block: Tensor) -> None:
        """Write them."""
        store(self.out, (slice(first, first + len(block)), *where), block)

    def finish(self, where: Where) -> None:
        """All is written."""


class Reduced:
    """Gives each box with all its channels to a function, and writes what it returns.

    Args:
        function: logits (K, *box) -> (K', *box).
        channels: K.
        make: K', dtype -> the output (K', *spatial); called at the first box.
    """

    needs_mean = True

    def __init__(self, function: Reduce, channels: int, make: Callable[[int, torch.dtype], Output]) -> None:
        self.function, self.channels, self.make = function, channels, make
        self._out: Output | None = None
        self._box: Tensor | None = None

    def begin(self, where: Where) -> None:
        """Nothing to prepare: the first channels bring the type and the device."""
        self._box = None

    def put(self, where: Where, first: int, block: Tensor) -> None:
        """Collect them."""
        if self._box is None:
            self._box = block.new_empty((self.channels, *block.shape[1:]))
        self._box[first : first + len(block)] = block

    def finish(self, where: Where) -> None:
        """Reduce the box and write it.

        Raises:
            ValueError: the function changes the box's shape.
        """
        assert self._box is not None
        result, expected = self.function(self._box), tuple(self._box.shape[1:])
        self._box = None
        if tuple(result.shape[1:]) != expected:
            raise ValueError(
                f"the reduction made {tuple(result.shape)} of a box of {expected} voxels; it must return "
                "(channels, *box), a value for each voxel."
            )
        if self._out is None:
            self._out = self.make(len(result), result.dtype)
        store(self._out, (slice(None), *where), result)


class Labels:
    """Writes the number of the largest channel, the first of several; for one channel 1 where it is above 0.

    A running maximum over the channels: `argmax` over an axis with a stride takes several times as long.

    Args:
        out: (*spatial), unsigned integers.
        channels: of the values.
    """

    needs_mean = False

    def __init__(self, out: Output, channels: int) -> None:
        self.out, self.channels = out, channels
        self._best: Tensor | None = None
        self._room: dict[str, Tensor] = {}

    def begin(self, where: Where) -> None:
        """A box begins."""
        self._best = None

    def put(self, where: Where, first: int, block: Tensor) -> None:
        """Compare the channels with the largest so far."""
        if self.channels == 1:
            torch.gt(block[0], 0.0, out=self._buffer("labels", block[0]))
            return
        for channel, values in enumerate(block, start=first):
            if self._best is None:
                self._best = values
                continue
            self._mark(channel, values)
            if channel + 1 < self.channels:
                self._best = torch.maximum(self._best, values, out=self._buffer("best", values))
        if first + len(block) < self.channels:
            self._keep(block[0])

    def finish(self, where: Where) -> None:
        """Write the box."""
        store(self.out, where, self.of_box(where))

    def of_box(self, where: Where) -> Tensor:
        """The box's labels, as floating point numbers, until the next box begins."""
        shape = [part.stop - part.start for part in where]
        return self._room["labels"][: prod(shape)].view(shape)

    def _mark(self, channel: int, values: Tensor) -> None:
        """The voxels where this channel is above the best so far get its number, which is above theirs.

        All in floating point: PyTorch compares into numbers three times as fast as into truth values.
        """
        assert self._best is not None
        labels = self._buffer("labels", values)
        if channel == 1:
            torch.gt(values, self._best, out=labels)
            return
        above = torch.gt(values, self._best, out=self._buffer("above", values))
        torch.maximum(labels, above.mul_(channel), out=labels)

    def _keep(self, values: Tensor) -> None:
        """The largest so far, out of a block whose memory is used again."""
        assert self._best is not None
        room = self._buffer("best", values)
        if self._best.data_ptr() != room.data_ptr():
            self._best = room.copy_(self._best)

    def _buffer(self, name: str, values: Tensor) -> Tensor:
        """As many voxels, in memory that is used again: fresh memory costs page faults."""
        room, count = self._room.get(name), values.numel()
        if room is None or room.numel() < count or room.device != values.device:
            room = self._room[name] = values.new_empty(count)
        return room[:count].view(values.shape)


class Dropped:
    """Takes boxes that nobody wants."""

    needs_mean = False

    def begin(self, where: Where) -> None:
        """Nothing to prepare."""

    def put(self, where: Where, first: int, block: Tensor) -> None:
        """Let them go."""

    def finish(self, where: Where) -> None:
        """Nothing was written."""


def make_reduction(output: str | Reduce, channels: int, make: Callable[[int, torch.dtype], Output]) -> Reduction:
    """What makes `output` of logits of that many channels.

    Args:
        output: "logits", "probabilities", "labels", or a function (K, *box) -> (K', *box).
        channels: K.
        make: K', dtype -> what is written to, (K', *spatial); one channel for labels.
    """
    if output == "logits":
        return Logits(make(channels, torch.float32))
    if output == "labels":
        return Labels(make(1, label_dtype(channels))[0], channels)
    return Reduced(output if callable(output) else probabilities, channels, make)


def label_dtype(channels: int) -> torch.dtype:
    """The smallest unsigned type that holds the labels of that many channels."""
    return torch.uint8 if channels <= 256 else torch.uint16


def background_logit(channels: int) -> float:
    """Logit of the first channel, where nothing but background was seen, all others being 0."""
    return FILL_LOGIT if channels > 1 else -FILL_LOGIT


def probabilities(logits: Tensor) -> Tensor:
    """(K, *spatial): softmax over the channels; for one channel the sigmoid."""
    return logits.sigmoid() if len(logits) == 1 else logits.softmax(dim=0)


def store(out: Output, where: Sequence[slice], block: Tensor) -> None:
    """Write a box."""
    if isinstance(out, Tensor):
        out[tuple(where)] = block.to(out.device)
    else:
        out[tuple(where)] = block.cpu().numpy()
