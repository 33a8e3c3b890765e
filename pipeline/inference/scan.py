"""What windows are cut from: a tensor, or an array that is larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .windows import WindowGrid

Region = tuple[slice, ...]
"""A box of voxels, one slice an axis, within the image."""


class Scan(Protocol):
    """One image, read a region at a time.

    Attributes:
        channels: of the image.
        size: voxels an axis.
    """

    @property
    def channels(self) -> int: ...

    @property
    def size(self) -> tuple[int, ...]: ...

    def read(self, region: Region) -> Tensor:
        """(channels, *region), floating point; not to be changed."""


class TensorScan:
    """An image in memory, on any device.

    Args:
        image: (C, *spatial).
    """

    def __init__(self, image: Tensor) -> None:
        self.image = image
        self.channels, *size = image.shape
        self.size = tuple(size)

    def read(self, region: Region) -> Tensor:
        """A view; a copy where the image holds integers."""
        part = self.image[(slice(None), *region)]
        return part if part.is_floating_point() else part.float()


class ArrayScan:
    """An image that is read where it lies, such as a memory-mapped file: only windows of it become float32.

    Args:
        array: (C, *spatial), of any real type and memory order.
        prepare: preprocessing that treats every voxel by itself, (C, *region) -> (C', *region); None for none.
        channels: what `prepare` makes of the channels; None for as many.
    """

    def __init__(
        self, array: np.ndarray, prepare: Callable[[Tensor], Tensor] | None = None, channels: int | None = None
    ) -> None:
        self.array, self.prepare = array, prepare
        self.channels = len(array) if channels is None else channels
        self.size = tuple(array.shape[1:])

    def read(self, region: Region) -> Tensor:
        """A fresh float32 tensor."""
        part = torch.from_numpy(np.array(self.array[(slice(None), *region)], dtype=np.float32, order="C"))
        return part if self.prepare is None else self.prepare(part)


@dataclass(frozen=True)
class Background:
    """What a window holds that is not worth computing, in the values that the network is given.

    Attributes:
        value: every voxel is exactly this; None does not apply.
        below: every voxel is below this; None does not apply.
    """

    value: float | None = None
    below: float | None = None

    def __bool__(self) -> bool:
        return self.value is not None or self.below is not None

    def fills(self, window: Tensor) -> bool:
        """Whether the window holds nothing else."""
        if self.value is not None and bool((window == self.value).all()):
            return True
        return self.below is not None and bool(window.max() < self.below)


def read_window(scan: Scan, grid: WindowGrid, start: Sequence[int], padding_mode: str, value: float) -> Tensor:
    """(C, *roi): the window at `start` of the padded image.

    An axis shorter than a window lies in it whole, so that padding each window is padding the image.
    """
    region, padding = [], []
    for at, before, size, roi in zip(start, grid.before, grid.size, grid.roi, strict=True):
        region.append(slice(max(at - before, 0), min(at - before + roi, size)))
        padding.append((before, roi - size - before) if size < roi else (0, 0))
    window = scan.read(tuple(region))
    if not any(map(any, padding)):
        return window
    amounts = [amount for pair in reversed(padding) for amount in pair]
    fill = {"value": value} if padding_mode == "constant" else {}
    return functional.pad(window[None], amounts, mode=padding_mode, **fill)[0]


def read_mirrored(scan: Scan, low: Sequence[int], high: Sequence[int]) -> Tensor:
    """(C, *(high - low)): a region that may reach beyond the image, which is mirrored there about its border voxels."""
    indices = [_mirrored(a, b, n) for a, b, n in zip(low, high, scan.size, strict=True)]
    part = scan.read(tuple(slice(int(index.min()), int(index.max()) + 1) for index in indices))
    for axis, index in enumerate(indices, start=1):
        if (np.diff(index) != 1).any():
            part = part.index_select(axis, torch.from_numpy(index - index.min()).to(part.device))
    return part


def _mirrored(low: int, high: int, size: int) -> np.ndarray:
    """Indices within the image of `low` to `high`, there and back as often as it takes."""
    period = max(2 * size - 2, 1)
    index = np.arange(low, high) % period
    return np.where(index < size, index, period - index)
