"""Random low resolution: an image as a scanner with larger voxels would have taken it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import ranges
from .intensity import Change, RandIntensityChange, RandIntensityChanged, SpatialChange
from .ranges import AxisSetting
from .separable import multiply_banded_

THICK = 3.0
"""An axis whose voxels are at least this many times as long as the shortest is thick already (nnU-Net's threshold)."""


@dataclass(frozen=True)
class LowResolution(SpatialChange):
    """Average the voxels into fewer, longer ones along each axis, and interpolate these linearly.

    Args:
        factors: resolution kept along each axis, in 0 to 1; 1 keeps the axis as it is.
        keep_thick_axis: axes that are thick already stay.
    """

    factors: tuple[float, ...]
    keep_thick_axis: bool = True

    def apply_(self, values: Tensor, spacing: Sequence[float]) -> None:
        """One banded product an axis."""
        factors = [
            1.0 if self.keep_thick_axis and step >= THICK * min(spacing) else factor
            for factor, step in zip(self.factors, spacing, strict=True)
        ]
        multiply_banded_(values, [degradation(*each) for each in zip(values.shape, factors, strict=True)])


def degradation(length: int, factor: float) -> np.ndarray | None:
    """(length, length): averaging into `factor` times as many voxels, then linear interpolation back.

    Rows sum to one, so that a constant stays. None if no voxel is saved.
    """
    kept = max(1, round(length * factor))
    if kept == length:
        return None
    edges = np.linspace(0, length, kept + 1)
    voxels = np.arange(length)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    averaging = np.clip(overlap, 0, None) * (kept / length)
    place = np.clip((voxels + 0.5) * kept / length - 0.5, 0, kept - 1)
    first = np.minimum(place.astype(int), max(kept - 2, 0))
    interpolation = np.zeros((length, kept))
    np.add.at(interpolation, (voxels, first), 1 - (place - first))
    np.add.at(interpolation, (voxels, np.minimum(first + 1, kept - 1)), place - first)
    return interpolation @ averaging


class RandSimulateLowResolution(RandIntensityChange):
    """Lower the resolution of an image by random factors; its size stays.

    Args:
        factor: resolution kept, in 0 to 1: a value, a (low, high) range, or a list of one an axis, which are then drawn
            each for itself; else all axes share one draw.
        keep_thick_axis: axes whose voxels are three times as long as the shortest or longer stay: a scan of thick
            slices is of low resolution there already.
        prob, channel_wise, background, spacing: see `RandIntensityChange`. Background voxels keep their value.

    Raises:
        ValueError: a factor is not in 0 to 1; in a call: there are several settings, but not one an axis.

    Source: Isensee 2021, supplementary note 2 (0.5 to 1).
    """

    def __init__(
        self,
        prob: float = 0.1,
        factor: AxisSetting = (0.5, 1.0),
        keep_thick_axis: bool = True,
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        self.factor = ranges.an_axis(ranges.fraction, "factor", factor)
        self.keep_thick_axis = keep_thick_axis

    def draw(self, spatial_dims: int) -> list[Change]:
        """One `LowResolution`."""
        factors = ranges.draw_together("factor", self.factor, spatial_dims, self.R)
        return [LowResolution(factors, self.keep_thick_axis)]


class RandSimulateLowResolutiond(RandIntensityChanged):
    """`RandSimulateLowResolution` for the images of a dictionary."""

    array = RandSimulateLowResolution
