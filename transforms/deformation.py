"""A deformation that has been drawn: where each voxel of the output comes from. Affine and elastic are one map.

An output voxel q samples the input at A (q + u(q)) + b, in voxels; u is a cubic B-spline on a coarse grid of control
points. B-splines reproduce linear maps, so the affine part acts on the coordinates of the control points, and a dense
coordinate is one tensor product of small matrices, whatever the parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import bspline
from .separable import along


@dataclass(frozen=True, eq=False)
class Deformation:
    """A drawn map from output to input voxels; it can be kept, applied to any array of its size, and replayed.

    Args:
        size: of the input, n numbers.
        output_size: n numbers.
        matrix: (n + 1, n + 1), float64: the affine part, output voxel to input voxel.
        displacements: (*coefficients, n), float64: B-spline coefficients of u in output voxels; None: no elastic part.
    """

    size: tuple[int, ...]
    output_size: tuple[int, ...]
    matrix: np.ndarray
    displacements: np.ndarray | None = None

    @property
    def is_affine(self) -> bool:
        """Whether `matrix` says all."""
        return self.displacements is None

    def inverse(self) -> Deformation:
        """The map back.

        Raises:
            ValueError: there is an elastic part.
        """
        if self.displacements is not None:
            raise ValueError("an elastic deformation can not be inverted; draw it with prob_elastic=0 to invert it.")
        return replace(self, size=self.output_size, output_size=self.size, matrix=np.linalg.inv(self.matrix))

    def window(self) -> tuple[tuple[slice, ...], tuple[int, ...]] | None:
        """The part of the input that the output is, and the axes flipped in it, where no interpolation is needed."""
        n = len(self.size)
        linear, offset = self.matrix[:n, :n], self.matrix[:n, n]
        signs = linear.diagonal()
        whole = np.rint(offset)
        if self.displacements is not None or not np.allclose(np.abs(linear), np.eye(n), rtol=0, atol=1e-9):
            return None
        if not np.allclose(offset, whole, rtol=0, atol=1e-6):
            return None
        last = whole + signs * (np.array(self.output_size) - 1)
        low, high = np.minimum(whole, last), np.maximum(whole, last)
        if (low < 0).any() or (high > np.array(self.size) - 1).any():
            return None
        slices = tuple(slice(int(start), int(stop) + 1) for start, stop in zip(low, high, strict=True))
        return slices, tuple(axis for axis in range(n) if signs[axis] < 0)

    def control_coordinates(self) -> np.ndarray:
        """(n, *coefficients), float64: input voxel coordinates at the control points, displaced."""
        n = len(self.size)
        points = [2] * n if self.displacements is None else [count - 2 for count in self.displacements.shape[:n]]
        axes = [knots(length, count) for length, count in zip(self.output_size, points, strict=True)]
        places = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        if self.displacements is not None:
            places = places + self.displacements
        return np.moveaxis(places @ self.matrix[:n, :n].T + self.matrix[:n, n], -1, 0)

    def table(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Two factors whose product is every coordinate: (axis 0, k) weights and (n, k, other axes) sums, float32."""
        control = self.control_coordinates()
        first, *others = (
            bspline.weights(length, count - 2)
            for length, count in zip(self.output_size, control.shape[1:], strict=True)
        )
        for axis, matrix in enumerate(others, start=2):
            control = along(control, matrix, axis)
        sums = control.reshape(*control.shape[:2], -1)
        return _single(first, device), _single(sums, device)

    def coordinates(self) -> Tensor:
        """(n, *output_size), float32: the input voxel coordinates of every output voxel."""
        weights, sums = self.table(torch.device("cpu"))
        return (weights @ sums).reshape(len(self.size), *self.output_size)


def _single(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values.astype(np.float32)).to(device)


def knots(length: int, points: int) -> np.ndarray:
    """(points + 2,): output voxel coordinates of an axis' control points, the two outside it included."""
    step = max(length - 1, 1) / (points - 1)
    middle = (length - 1) / 2
    return middle + step * (np.arange(points + 2) - (points + 1) / 2)


def interpolating_coefficients(values: np.ndarray) -> np.ndarray:
    """(*points + 2, n) coefficients of the natural cubic spline that has these (*points, n) values at its knots."""
    for axis in range(values.ndim - 1):
        values = along(values, bspline.interpolation(values.shape[axis]), axis)
    return values


def strongest_compression(coefficients: np.ndarray, steps: Sequence[float]) -> float:
    """A bound on how much a displacement u shortens anything anywhere, as a part of its length; from 1, it may fold.

    Let S be the symmetric part of the Jacobian Du. Where no eigenvalue of S is -1 or below, v (I + t Du) v > 0 for
    every direction v and t from 0 to 1: no I + t Du is singular, so its determinant keeps the sign that it has at
    t = 0, and det(I + Du) > 0. Nor do two places x and y meet: (x - y) (x + u(x) - y - u(y)) > 0.

    Between knots, Du is a polynomial whose Bernstein coefficients follow from those of the spline: at every place S is
    a convex combination of such coefficient matrices, and the smallest eigenvalue, a concave function, is nowhere below
    the smallest of theirs. That is what is computed, so the bound holds at every place, not only at voxels.

    Args:
        coefficients: (*coefficients, n) in mm (or voxels).
        steps: distance of neighbouring control points along each axis, in the same unit.
    Returns:
        Minus the smallest eigenvalue; 0 at least.
    Source: Farin, Curves and Surfaces for CAGD (Bernstein form, convex hull).
    """
    jacobian = np.stack([_bernstein_slopes(coefficients, axis) / step for axis, step in enumerate(steps)], axis=-1)
    return max(0.0, float(-smallest_eigenvalues((jacobian + jacobian.swapaxes(-1, -2)) / 2).min()))


def smallest_eigenvalues(matrices: np.ndarray) -> np.ndarray:
    """Of symmetric (..., n, n) matrices, n 2 or 3, in closed form: many times faster than one by one.

    Source: Smith 1961, Communications of the ACM 4(4).
    """
    if matrices.shape[-1] == 2:
        first, second = matrices[..., 0, 0], matrices[..., 1, 1]
        return (first + second) / 2 - np.hypot((first - second) / 2, matrices[..., 0, 1])
    middle = np.trace(matrices, axis1=-2, axis2=-1) / 3
    rest = matrices - middle[..., None, None] * np.eye(3)
    radius = np.sqrt((rest**2).sum(axis=(-2, -1)) / 6)
    cosine = np.linalg.det(rest) / (2 * np.maximum(radius, 1e-100) ** 3)
    return middle + 2 * radius * np.cos((np.arccos(cosine.clip(-1, 1)) + 2 * np.pi) / 3)


def _bernstein_slopes(coefficients: np.ndarray, derived: int) -> np.ndarray:
    """(*Bernstein coefficients, n) of the derivative along an axis, a unit of distance being that of the knots."""
    for axis in range(coefficients.ndim - 1):
        values, slopes = bspline.bernstein(coefficients.shape[axis] - 2)
        coefficients = along(coefficients, slopes if axis == derived else values, axis)
    return coefficients
