"""Random bias field: the slow shading of MR images by receive coils."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from . import ranges
from .channel import PIECE
from .intensity import Change, RandIntensityChange, RandIntensityChanged, SpatialChange
from .ranges import Setting
from .separable import along


@dataclass(frozen=True, eq=False)
class BiasField(SpatialChange):
    """Multiply by exp of a polynomial in the place, above the channel's lowest value.

    A coil scales the signal, whose zero is the lowest value of a magnitude image, wherever normalisation has put it.

    Args:
        coefficients: ((degree + 1,) * n) of products of Legendre polynomials on -1 to 1 along each axis.
    """

    coefficients: np.ndarray

    def field(self, size: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Two factors whose product is the field's logarithm: (axis 0, k) and (k, other axes)."""
        sums = self.coefficients
        first, *others = (_polynomials(length, sums.shape[0]) for length in size)
        for axis, polynomials in enumerate(others, start=1):
            sums = along(sums, polynomials, axis)
        return torch.from_numpy(first).to(like), torch.from_numpy(sums.reshape(len(sums), -1)).to(like)

    def apply_(self, values: Tensor, spacing: Sequence[float]) -> None:
        """Row by row, so that the field never fills memory."""
        zero = values.min()
        rows, sums = self.field(values.shape, values)
        flat = values.view(len(values), -1)
        step = max(1, PIECE // flat.shape[1]) if values.device.type == "cpu" else len(flat)
        for part, row in zip(flat.split(step), rows.split(step), strict=True):
            torch.lerp(zero, part, torch.mm(row, sums).exp_(), out=part)


@lru_cache(maxsize=32)
def _polynomials(length: int, count: int) -> np.ndarray:
    """(length, count): Legendre polynomials of degree 0 to count - 1 at the voxels' places in -1 to 1."""
    return legendre.legvander(np.linspace(-1, 1, length) if length > 1 else np.zeros(1), count - 1)


class RandBiasField(RandIntensityChange):
    """Shade an image by a random smooth field, as MR coils do.

    Args:
        degree: of the polynomial, in all axes together.
        coefficient: range of its coefficients; v means -v to v. There is no constant term: overall brightness is not
            the field's to change.
        prob, channel_wise, background, spacing: see `RandIntensityChange`. Background voxels keep their value.

    Raises:
        ValueError: the degree is below 1, a range is impossible.

    Source: Van Leemput 1999, IEEE Transactions on Medical Imaging 18(10) (exponential of a polynomial); Sudre 2017,
        DLMIA (as augmentation, degree 3).
    """

    def __init__(
        self,
        prob: float = 0.1,
        degree: int = 3,
        coefficient: Setting = 0.3,
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        if degree < 1:
            raise ValueError(f"degree is {degree}; a field needs at least degree 1.")
        self.degree, self.coefficient = int(degree), ranges.symmetric("coefficient", coefficient)

    def draw(self, spatial_dims: int) -> list[Change]:
        """One `BiasField`."""
        shape = (self.degree + 1,) * spatial_dims
        coefficients = self.R.uniform(self.coefficient.low, self.coefficient.high, shape)
        total = np.indices(shape).sum(axis=0)
        return [BiasField(np.where((total >= 1) & (total <= self.degree), coefficients, 0.0))]


class RandBiasFieldd(RandIntensityChanged):
    """`RandBiasField` for the images of a dictionary."""

    array = RandBiasField
