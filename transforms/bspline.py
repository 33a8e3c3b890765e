"""Uniform cubic B-splines: weights of control points, and the matrices that make a spline pass through values.

A spline over `points` knots has points + 2 coefficients, one outside each end. It reproduces linear maps: coefficients
that lie on a line give that line.
Source: de Boor, A Practical Guide to Splines; Unser 1999, IEEE Signal Processing Magazine 16(6).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import numpy as np
from torch import Tensor

Numbers = TypeVar("Numbers", np.ndarray, Tensor)

TO_BERNSTEIN = np.array([[1, 4, 1, 0], [0, 4, 2, 0], [0, 2, 4, 0], [0, 1, 4, 1]]) / 6
"""The Bernstein coefficients of an interval from the four B-spline coefficients that reach into it."""
RAISE_DEGREE = np.array([[3, 0, 0], [1, 2, 0], [0, 2, 1], [0, 0, 3]]) / 3
"""Bernstein coefficients of degree 3 from those of degree 2."""


def basis(t: Numbers) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """The weights of the four coefficients around a place t in [0, 1] between the middle two; they sum to one."""
    s = 1 - t
    return s**3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (3 * s**3 - 6 * s**2 + 4) / 6, t**3 / 6


@lru_cache(maxsize=64)
def weights(size: int, points: int) -> np.ndarray:
    """(size, points + 2): the weight of each coefficient at each voxel centre along an axis.

    The first knot lies at the centre of the first voxel, the last at that of the last. Rows are non-negative and sum
    to one.
    """
    intervals = points - 1
    place = np.linspace(0, intervals, size) if size > 1 else np.array([intervals / 2])
    first = np.minimum(place.astype(int), intervals - 1)
    matrix = np.zeros((size, points + 2))
    np.put_along_axis(matrix, first[:, None] + np.arange(4), np.stack(basis(place - first), axis=1), axis=1)
    return matrix


@lru_cache(maxsize=16)
def interpolation(points: int) -> np.ndarray:
    """(points + 2, points): coefficients of the natural spline through values at the knots.

    Natural: the second derivative is zero at both ends, so the spline goes on straight there.
    """
    system = np.zeros((points + 2, points + 2))
    for row in range(points):
        system[row + 1, row : row + 3] = np.array([1, 4, 1]) / 6
    system[0, :3] = system[-1, -3:] = [1, -2, 1]
    return np.linalg.inv(system)[:, 1:-1]


@lru_cache(maxsize=64)
def bernstein(points: int) -> tuple[np.ndarray, np.ndarray]:
    """Two (4 (points - 1), points + 2) matrices: from a spline to the Bernstein coefficients of its values and slopes.

    Four coefficients for each interval between knots; those of the slope (per interval) are raised to degree 3, so that
    both are convex combinations of their coefficients with the same weights.
    """
    values, slopes = (np.zeros((4 * (points - 1), points + 2)) for _ in range(2))
    for interval in range(points - 1):
        rows, columns = slice(4 * interval, 4 * interval + 4), slice(interval, interval + 4)
        values[rows, columns] = TO_BERNSTEIN
        slopes[rows, columns] = RAISE_DEGREE @ (3 * np.diff(TO_BERNSTEIN, axis=0))
    return values, slopes


@lru_cache(maxsize=64)
def prefilter(size: int) -> np.ndarray:
    """(size, size): coefficients of the spline through `size` samples, mirrored about the first and last.

    The convention of scipy.ndimage's mode "mirror".
    """
    system = 4 * np.eye(size)
    for row in range(size):
        for neighbour in (row - 1, row + 1):
            system[row, mirrored(neighbour, size)] += 1
    return np.linalg.inv(system / 6)


def mirrored(index: int, size: int) -> int:
    """The index in 0 to size - 1 that a mirror about the first and last voxel centre shows at `index`."""
    period = max(2 * (size - 1), 1)
    index %= period
    return min(index, period - index) if size > 1 else 0
