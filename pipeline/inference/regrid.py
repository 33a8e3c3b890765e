"""Finished boxes on the network's grid, interpolated onto the scan's grid as they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .planes import EdgePlanes
from .reduction import Reduction, Where


@dataclass(frozen=True)
class GridMap:
    """Where the voxels of the scan lie on the network's grid: along each axis `scale` * index + `offset`.

    Attributes:
        size: voxels of the scan, an axis.
        scale: positive.
        offset: in voxels of the network's grid.
    """

    size: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]

    @classmethod
    def between(cls, network_affine: np.ndarray, affine: np.ndarray, size: Sequence[int]) -> GridMap | None:
        """The map of a scan onto the network's grid; None where an axis would have to turn.

        Args:
            network_affine: (4, 4), voxel index on the network's grid -> RAS mm.
            affine: (4, 4), voxel index of the scan -> RAS mm.
            size: voxels of the scan, an axis.
        """
        matrix = np.linalg.inv(network_affine) @ affine
        scale, offset = np.diag(matrix)[:3], matrix[:3, 3]
        rest = matrix[:3, :3] - np.diag(scale)
        if scale.min() <= 0 or (np.abs(rest) @ np.asarray(size, dtype=float)).max() > 1e-3:
            return None
        return cls(tuple(size), tuple(map(float, scale)), tuple(map(float, offset)))

    def beyond(self, network_size: Sequence[int]) -> float:
        """The most voxels of the network's grid by which a voxel of the scan lies outside of it; at least 0."""
        ends = zip(self.size, self.scale, self.offset, network_size, strict=True)
        return max(max(-offset, offset + scale * (size - 1) - (limit - 1), 0.0) for size, scale, offset, limit in ends)

    def is_identity(self, network_size: Sequence[int]) -> bool:
        """Whether both grids are the same."""
        shift = max(
            max(abs(offset), abs((scale - 1) * size + offset))
            for size, scale, offset in zip(self.size, self.scale, self.offset, strict=True)
        )
        return tuple(network_size) == self.size and shift < 1e-3


class Regridded:
    """A `Reduction` before another: linear interpolation between voxels, the border's value beyond the border.

    It keeps one plane of voxels an axis, so that boxes are interpolated as if they were one image.

    Args:
        grid_map: of the scan onto the network's grid.
        network_size: voxels of the network's grid, an axis.
        order: of the axes in which boxes come, outermost first.
        channels: of the values.
        inner: what becomes of the interpolated values.
    """

    needs_mean = True

    def __init__(
        self,
        grid_map: GridMap,
        network_size: Sequence[int],
        order: Sequence[int],
        channels: int,
        inner: Reduction,
    ) -> None:
        self.inner = inner
        self.planes = EdgePlanes(order, network_size, channels)
        self._axes = [
            _Axis(*each) for each in zip(network_size, grid_map.size, grid_map.scale, grid_map.offset, strict=True)
        ]
        self._where: Where = ()
        self._part: Where = ()

    def begin(self, where: Where) -> None:
        """Which voxels of the scan the box, and the planes before it, decide."""
        self._where = where
        self._part = tuple(axis.decided(each) for axis, each in zip(self._axes, where, strict=True))
        if self._decides():
            self.inner.begin(self._part)

    def put(self, where: Where, first: int, block: Tensor) -> None:
        """Interpolate, an axis after the other."""
        block = self.planes.extend(where, block, first)
        if not self._decides():
            return
        for dim, (axis, box, part) in enumerate(zip(self._axes, where, self._part, strict=True), start=1):
            block = axis.interpolate(block, dim, max(box.start - 1, 0), part)
        self.inner.put(self._part, first, block)

    def finish(self, where: Where) -> None:
        """The box is complete."""
        if self._decides():
            self.inner.finish(self._part)

    def _decides(self) -> bool:
        return all(part.stop > part.start for part in self._part)


class _Axis:
    """One axis: for every voxel of the scan the two voxels it lies between, and how far it is from the first."""

    def __init__(self, network_size: int, size: int, scale: float, offset: float) -> None:
        place = np.clip(scale * np.arange(size) + offset, 0, network_size - 1)
        self.low = np.minimum(np.floor(place).astype(np.int64), network_size - 1)
        self.high = np.minimum(self.low + 1, network_size - 1)
        self.share = (place - self.low).astype(np.float32)

    def decided(self, box: slice) -> slice:
        """The voxels whose farther neighbour is in the box."""
        start, stop = np.searchsorted(self.high, [box.start, box.stop])
        return slice(int(start), int(stop))

    def interpolate(self, block: Tensor, dim: int, first: int, part: slice) -> Tensor:
        """The values at the voxels of `part`; the block's first voxel along `dim` is `first`."""
        low, high = (
            block.index_select(dim, torch.from_numpy(index[part] - first).to(block.device))
            for index in (self.low, self.high)
        )
        shape = [1] * block.dim()
        shape[dim] = -1
        return torch.lerp(low, high, torch.from_numpy(self.share[part]).to(block.device).view(shape))
