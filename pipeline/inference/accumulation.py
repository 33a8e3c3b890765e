"""Weighted sums of overlapping windows, finished box by box, with no more held than later windows reach into."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from torch import Tensor

from .layout import Box, Layout
from .reduction import Reduction, background_logit
from .seams import SeamCheck
from .windows import WindowGrid

CACHED_BYTES = 2**22
"""On a processor channels are worked off a few at a time, so that what passes over them finds them in its cache."""

STRIDED_CHANNELS = 4
"""A window of more channels is brought to channels first, as each channel is read by itself."""


class Accumulator:
    """The blend of one output of the network over one image: takes its windows in the order of their visit.

    Args:
        grid: the windows.
        layout: the order of the visit.
        channels: of the output.
        weights: (*roi), how much each voxel of a window counts.
        reduction: takes each finished box.
        filled: some windows may be skipped.

    Attributes:
        seams: how well the windows agree.
    """

    def __init__(
        self,
        grid: WindowGrid,
        layout: Layout,
        channels: int,
        weights: Tensor,
        reduction: Reduction,
        filled: bool = False,
    ) -> None:
        self.grid, self.layout, self.channels = grid, layout, channels
        self.weights, self.reduction, self.filled = weights, reduction, filled
        self.seams = SeamCheck(layout)
        self._boxes = layout.boxes()
        self._box: Box = ()
        self._starts: deque[tuple[int, ...]] = deque()
        self._sums = _Sums(layout, channels, weights)
        self._counts = _Sums(layout, 1, weights) if reduction.needs_mean else None

    def add(self, output: Tensor | None) -> None:
        """The next window, (channels, *roi); None for one that was skipped."""
        if not self._starts:
            self._box = next(self._boxes)
            self._starts.extend(product(*(span.starts for span in self._box)))
        start = self._starts.popleft()
        if output is not None:
            output = output.to(self.weights)
            if self.channels > STRIDED_CHANNELS:
                output = output.contiguous()
        self._sums.add(start, self._box, output)
        if self._counts is not None:
            ones = self.weights.new_ones(1).expand(1, *self.grid.roi)
            self._counts.add(start, self._box, None if output is None else ones)
        if not self._starts:
            self._finish(self._box)

    def _finish(self, box: Box) -> None:
        """All windows of the box are added: hand on what no later one reaches, hold the rest."""
        where, inside = self._where(box)
        total = None
        if self._counts is not None:
            total = self._counts.finish(box, slice(0, 1))[inside]
        self._sums.compare(box, self.seams)
        self.reduction.begin(where)
        for first in range(0, self.channels, self._step(box)):
            part = slice(first, min(first + self._step(box), self.channels))
            block = self._sums.finish(box, part)[inside]
            self.reduction.put(where, first, block if total is None else self._mean(block, total, first))
        self.reduction.finish(where)
        self._sums.clear()
        if self._counts is not None:
            self._counts.clear()

    def to(self, device: torch.device) -> None:
        """Hold on another device what is held, and what will be."""
        self.weights = self.weights.to(device)
        for sums in (self._sums, self._counts):
            if sums is not None:
                sums.to(device)

    def _mean(self, block: Tensor, total: Tensor, first: int) -> Tensor:
        if not self.filled:
            return block.div_(total)
        block.div_(total.clamp(min=torch.finfo(total.dtype).tiny))
        if first == 0:
            block[:1].masked_fill_(total == 0, background_logit(self.channels))
        return block

    def _step(self, box: Box) -> int:
        if self.weights.device.type != "cpu":
            return self.channels
        return max(1, CACHED_BYTES // (prod(span.length for span in box) * 4))

    def _where(self, box: Box) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """The box's final voxels in the image, and the same in its block; padding is left out."""
        where, inside = [], [slice(None)]
        for span, before, size in zip(box, self.grid.before, self.grid.size, strict=True):
            low, high = max(span.start, before), min(span.final, before + size)
            where.append(slice(low - before, high - before))
            inside.append(slice(low - span.start, high - span.start))
        return tuple(where), tuple(inside)


class _Sums:
    """Weighted sums of some channels: the box in work, and along each axis what is carried to the next."""

    def __init__(self, layout: Layout, channels: int, weights: Tensor) -> None:
        self.layout, self.channels, self.weights = layout, channels, weights
        self.carries = [weights.new_empty((channels, *layout.carry_shape(axis))) for axis in range(len(layout.rows))]
        self.brick = weights.new_empty(channels * prod(layout.longest) if layout.joined else 0)
        self.scratch = weights.new_empty(0)
        self.window: Tensor | None = None
        self.started = False

    def add(self, start: Sequence[int], box: Box, output: Tensor | None) -> None:
        if all(len(span.starts) == 1 for span in box):
            self.window = output
            return
        block = self._block(box)
        window = block
        for axis, (at, span) in enumerate(zip(start, box, strict=True), start=1):
            window = window.narrow(axis, at - span.start, self.weights.shape[axis - 1])
        if not self.started:
            self.started = True
            self._place_first(block, window, output)
        elif output is not None:
            window.addcmul_(output, self.weights)

    def _place_first(self, block: Tensor, window: Tensor, output: Tensor | None) -> None:
        """Put the first window, which lies at the block's beginning, into it, and zeros into the rest."""
        if output is None:
            block.zero_()
            return
        torch.mul(output, self.weights, out=window)
        for axis, length in enumerate(self.weights.shape, start=1):
            block.narrow(axis, length, block.shape[axis] - length).zero_()

    def finish(self, box: Box, part: slice) -> Tensor:
        """(channels of the part, *final voxels): sums that nothing will be added to."""
        block = self._weighted(box, part)
        for axis in reversed(self.layout.order):
            span = box[axis]
            overlap, held, final = span.reached - span.start, span.stop - span.final, span.final - span.start
            if overlap:
                block.narrow(axis + 1, 0, overlap).add_(self.carried(axis, box, part, overlap))
            if held:
                self.carried(axis, box, part, held).copy_(block.narrow(axis + 1, final, held))
            block = block.narrow(axis + 1, 0, final)
        return block

    def compare(self, box: Box, seams: SeamCheck) -> None:
        """Show the seam check what meets at each border that the box has with an earlier one."""
        if self.window is None and not self.started:
            return
        block = self.window if self.window is not None else self._block(box)
        everything = slice(0, self.channels)
        for axis in reversed(self.layout.order):
            span = box[axis]
            overlap = span.reached - span.start
            if overlap:
                carried = self.carried(axis, box, everything, overlap)
                seams.compare(axis, carried, block.narrow(axis + 1, 0, overlap))
            block = block.narrow(axis + 1, 0, span.final - span.start)

    def carried(self, axis: int, box: Box, part: slice, length: int) -> Tensor:
        """What is carried along `axis` next to the box, `length` voxels of it."""
        place = self.layout.order.index(axis)
        view = self.carries[axis][part]
        for position, each in enumerate(self.layout.order):
            span = box[each]
            if position < place:
                view = view.narrow(each + 1, 0, span.length)
            elif position == place:
                view = view.narrow(each + 1, 0, length)
            else:
                view = view.narrow(each + 1, span.start, span.final - span.start)
        return view

    def clear(self) -> None:
        """The box is done."""
        self.window, self.started = None, False

    def to(self, device: torch.device) -> None:
        self.weights, self.brick = self.weights.to(device), self.brick.to(device)
        self.scratch = self.scratch.new_empty(0, device=device)
        self.carries = [carry.to(device) for carry in self.carries]
        self.window = None if self.window is None else self.window.to(device)

    def _block(self, box: Box) -> Tensor:
        return _cut(self.brick, (self.channels, *(span.length for span in box)))

    def _weighted(self, box: Box, part: slice) -> Tensor:
        """The channels of the box in work, weighted, in memory that may be changed."""
        if self.started:
            return self._block(box)[part]
        shape = (part.stop - part.start, *(span.length for span in box))
        self.scratch = _room(self.scratch, shape)
        block = _cut(self.scratch, shape)
        if self.window is None:
            return block.zero_()
        return torch.mul(self.window[part], self.weights, out=block)


def _room(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    """The buffer, or a larger one: memory that is used again costs no page faults."""
    return buffer if buffer.numel() >= prod(shape) else buffer.new_empty(tuple(shape))


def _cut(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    return buffer.reshape(-1)[: prod(shape)].view(tuple(shape))
