"""Where a U-Net pools and with which kernels, so that thick voxels become cubes before they are treated as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

LEAST_EDGE = 4
"""Voxels along an axis of the lowest level's feature maps."""
NEAR = 2.0
"""Spacings less than this many times the finest are treated alike."""
CONVOLUTIONS_A_LEVEL = 2


@dataclass(frozen=True)
class Topology:
    """The levels of a U-Net for patches of one size.

    Attributes:
        patch_size: voxels an axis, a multiple of `size_divisor`.
        strides: of each pooling, an axis.
        kernel_sizes: of each level, the lowest too, an axis.
    """

    patch_size: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    @property
    def size_divisor(self) -> tuple[int, ...]:
        """The product of the strides, an axis."""
        return tuple(prod(axis) for axis in zip(*self.strides, strict=True)) or (1,) * len(self.patch_size)


def plan_topology(spacing_mm: Sequence[float], size: Sequence[int]) -> Topology:
    """The levels for patches of about this size; the patch is padded up to what pools evenly.

    An axis is pooled while its feature map has at least twice `LEAST_EDGE` voxels and its spacing is near the finest of
    those that can be pooled; a single such axis only from three times. Kernels are 1 along an axis until its spacing
    has come near the finest, and 3 from there on and at the lowest level.

    Source: Isensee 2021, Nature Methods 18:203, supplementary note 2, "network topology".
    """
    axes = range(len(size))
    spacing, left = [float(mm) for mm in spacing_mm], [int(n) for n in size]
    kernel = [1] * len(left)
    strides: list[tuple[int, ...]] = []
    kernels: list[tuple[int, ...]] = []
    while pooled := _pooled_axes(spacing, left):
        kernel = [3 if spacing[axis] < NEAR * min(spacing) else kernel[axis] for axis in axes]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in pooled else 1 for axis in axes))
        for axis in pooled:
            spacing[axis] *= 2
            left[axis] = ceil(left[axis] / 2)
    kernels.append((3,) * len(left))
    divisor = [prod(axis) for axis in zip(*strides, strict=True)] or [1] * len(left)
    patch = tuple(ceil(n / d) * d for n, d in zip(size, divisor, strict=True))
    return Topology(patch, tuple(strides), tuple(kernels))


def feature_values(topology: Topology, features: Sequence[int], classes: int) -> int:
    """Values in all feature maps of a pass of one patch: a measure of its memory.

    Counted are the outputs of two convolutions a level on the way down and up, of each up-convolution, and the logits.

    Args:
        topology: its levels.
        features: channels of each level.
        classes: of the logits.
    """
    sizes = [topology.patch_size]
    for stride in topology.strides:
        sizes.append(tuple(n // s for n, s in zip(sizes[-1], stride, strict=True)))
    total = CONVOLUTIONS_A_LEVEL * features[-1] * prod(sizes[-1])
    for size, width in zip(sizes[:-1], features, strict=False):
        total += (2 * CONVOLUTIONS_A_LEVEL + 1) * width * prod(size)
    return total + classes * prod(sizes[0])


def _pooled_axes(spacing: Sequence[float], size: Sequence[int]) -> list[int]:
    """The axes that the next pooling halves; none where the lowest level is reached."""
    large = [axis for axis, n in enumerate(size) if n >= 2 * LEAST_EDGE]
    if not large:
        return []
    finest = min(spacing[axis] for axis in large)
    near = [axis for axis in large if spacing[axis] < NEAR * finest]
    if len(near) == 1 and size[near[0]] < 3 * LEAST_EDGE:
        return []
    return near
