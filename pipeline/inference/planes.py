"""The edges of finished boxes: each box finds the plane before its own, which an earlier box left."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .reduction import Where


class EdgePlanes:
    """Holds, along each axis, the last plane of the boxes that are done, where the next box will begin.

    The boxes come in rows within rows, in the order of a `Layout`, and cover the image once.

    Args:
        order: axes, outermost first.
        size: voxels of the image, an axis.
        channels: of the boxes.
    """

    def __init__(self, order: Sequence[int], size: Sequence[int], channels: int) -> None:
        self.order, self.size, self.channels = tuple(order), tuple(size), channels
        self._planes: dict[int, Tensor] = {}

    def extend(self, where: Where, block: Tensor, first: int = 0) -> Tensor:
        """The box with one more plane before it, along every axis that it does not begin at the border of.

        Args:
            where: the box.
            block: (n, *box), the channels from `first` on.
        """
        part = slice(first, first + len(block))
        for axis in self.order:  # outermost first, so that the planes inside hold the edges that it overwrites
            plane = self._plane(axis, block, part, where)
            if where[axis].start > 0:
                block = torch.cat([plane, block], dim=axis + 1)
            plane.copy_(block.narrow(axis + 1, block.shape[axis + 1] - 1, 1))
        return block

    def _plane(self, axis: int, block: Tensor, part: slice, where: Where) -> Tensor:
        """The plane beside the box: its own voxels along the axes inside, from 0 along those outside."""
        outer = self.order[: self.order.index(axis)]
        index = [
            slice(0, 1) if each == axis else slice(0, block.shape[each + 1]) if each in outer else where[each]
            for each in range(len(self.size))
        ]
        held = self._planes.get(axis)
        if held is not None and held.device != block.device:
            held = self._planes[axis] = held.to(block.device)
        needed = [
            1 if each == axis else block.shape[each + 1] if each in outer else size
            for each, size in enumerate(self.size)
        ]
        if held is None or any(a < b for a, b in zip(held.shape[1:], needed, strict=True)):
            larger = block.new_empty((self.channels, *needed))
            if held is not None:
                shape = [max(a, b) for a, b in zip(held.shape[1:], needed, strict=True)]
                larger = block.new_empty((self.channels, *shape))
                larger[(slice(None), *[slice(0, n) for n in held.shape[1:]])] = held
            held = self._planes[axis] = larger
        return held[(part, *index)]
