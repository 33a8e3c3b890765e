"""Random Gaussian blur."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from . import ranges
from .intensity import Change, RandIntensityChange, RandIntensityChanged, SpatialChange
from .ranges import AxisSetting
from .separable import multiply_banded_

TRUNCATE = 4.0
"""Standard deviations at which the kernel ends, as scipy's."""


@dataclass(frozen=True)
class Blur(SpatialChange):
    """Convolve with a Gaussian, mirrored at the border (scipy's "reflect").

    Args:
        sigma: standard deviation along each axis, mm.
    """

    sigma: tuple[float, ...]

    def apply_(self, values: Tensor, spacing: Sequence[float]) -> None:
        """One banded product an axis; an axis where nothing would change is passed over."""
        sigmas = (sigma / step for sigma, step in zip(self.sigma, spacing, strict=True))
        multiply_banded_(values, [convolution(*each) for each in zip(values.shape, sigmas, strict=True)])


def convolution(length: int, sigma: float) -> np.ndarray | None:
    """(length, length): convolution with a Gaussian of `sigma` voxels, rows sum to one; None if it changes nothing."""
    radius = int(TRUNCATE * sigma + 0.5)
    if radius == 0 or length == 1:
        return None
    reach = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (reach / sigma) ** 2)
    voxels = np.arange(length)[:, None]
    place = (voxels + reach) % (2 * length)
    matrix = np.zeros((length, length))
    np.add.at(matrix, (voxels, np.minimum(place, 2 * length - 1 - place)), kernel / kernel.sum())
    return matrix


class RandBlur(RandIntensityChange):
    """Blur by a random Gaussian.

    Args:
        sigma: standard deviation in mm (voxels without spacing): a value, a (low, high) range, or a list of one an
            axis, which are then drawn each for itself; else all axes share one draw.
        prob, channel_wise, background, spacing: see `RandIntensityChange`. Background voxels keep their value.

    Raises:
        ValueError: a range is impossible; in a call: there are several settings, but not one an axis.

    Source: Isensee 2021, supplementary note 2 (0.5 to 1 voxel).
    """

    def __init__(
        self,
        prob: float = 0.1,
        sigma: AxisSetting = (0.5, 1.0),
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        self.sigma = ranges.an_axis(ranges.non_negative, "sigma", sigma)

    def draw(self, spatial_dims: int) -> list[Change]:
        """One `Blur`."""
        return [Blur(ranges.draw_together("sigma", self.sigma, spatial_dims, self.R))]


class RandBlurd(RandIntensityChanged):
    """`RandBlur` for the images of a dictionary."""

    array = RandBlur
