"""Random monotone curves of intensity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import ranges
from .channel import Channel
from .intensity import Change, PointwiseChange, RandIntensityChange, RandIntensityChanged


@dataclass(frozen=True)
class HistogramShift(PointwiseChange):
    """Map the range of values onto itself by a piecewise linear curve.

    Args:
        heights: of the curve at evenly spaced values from the lowest (0) to the highest (1): rising from 0 to 1.
    """

    heights: tuple[float, ...]

    def apply(self, channel: Channel, stream: int) -> None:
        """As a sum of ramps, one a bend: cheaper than looking up each voxel's interval."""
        low, high = channel.bounds()
        if high <= low:
            return
        slopes = np.diff(self.heights) * (len(self.heights) - 1)
        bends = np.diff(slopes, prepend=0.0).tolist()
        starts = (low + (high - low) * np.linspace(0, 1, len(self.heights))[:-1]).tolist()
        memory = torch.empty_like(channel.pieces[0])

        def bend(piece: Tensor) -> None:
            curve, ramp = torch.full_like(piece, low), memory[: len(piece)]
            for change, start in zip(bends, starts, strict=True):
                curve.add_(torch.clamp(piece, min=start, out=ramp).sub_(start), alpha=change)
            piece.copy_(curve)

        channel.then(bend, (low, high))


class RandHistogramShift(RandIntensityChange):
    """Bend the scale of intensities at random, keeping its ends and its order.

    Args:
        control_points: number of bends, a value or a (low, high) range.
        strength: how far bends are moved, as a part of half the way to their neighbours, in 0 to below 1.
        prob, channel_wise, background, spacing: see `RandIntensityChange`.

    Raises:
        ValueError: a setting is impossible.
    """

    def __init__(
        self,
        prob: float = 0.1,
        control_points: int | tuple[int, int] = 5,
        strength: float = 0.5,
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        self.control_points = ranges.non_negative("control_points", control_points)
        if self.control_points.low < 1:
            raise ValueError(f"control_points is {control_points}; a curve needs at least one bend.")
        if not 0 <= strength < 1:
            raise ValueError(f"strength is {strength}; it must lie in 0 to below 1, or the order of values is lost.")
        self.strength = strength

    def draw(self, spatial_dims: int) -> list[Change]:
        """One `HistogramShift`."""
        count = int(self.R.randint(round(self.control_points.low), round(self.control_points.high) + 1))
        even = np.linspace(0, 1, count + 2)
        heights = even.copy()
        heights[1:-1] += self.R.uniform(-self.strength, self.strength, count) / (2 * (count + 1))
        return [HistogramShift(tuple(heights))]


class RandHistogramShiftd(RandIntensityChanged):
    """`RandHistogramShift` for the images of a dictionary."""

    array = RandHistogramShift
