"""Affine maps in millimetres, as small float64 matrices, and the spacing of images that carry an affine."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from monai.data import MetaTensor
from torch import Tensor

PLANES = {1: (), 2: ((0, 1),), 3: ((1, 2), (2, 0), (0, 1))}
"""Number of axes -> the planes of rotation: the plane in 2D; about the first, second and third axis in 3D."""


def rotation(degrees: np.ndarray, n: int) -> np.ndarray:
    """(n, n): rotations about each axis in turn, the first axis first; in each plane from its first axis to its second.

    Args:
        degrees: one angle in 2D, three in 3D.
    """
    matrix = np.eye(n)
    for angle, (first, second) in zip(np.deg2rad(degrees), PLANES[n], strict=True):
        turn = np.eye(n)
        turn[first, first] = turn[second, second] = math.cos(angle)
        turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
        matrix = turn @ matrix
    return matrix


def shear(slopes: np.ndarray, n: int) -> np.ndarray:
    """(n, n): each axis moved by `slopes[axis]` times the place along the next axis (mm per mm)."""
    matrix = np.eye(n)
    for axis, slope in enumerate(slopes):
        single = np.eye(n)
        single[axis, (axis + 1) % n] = slope
        matrix = single @ matrix
    return matrix


def homogeneous(linear: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """(n + 1, n + 1) of x -> linear x + offset."""
    n = len(offset)
    matrix = np.eye(n + 1)
    matrix[:n, :n], matrix[:n, n] = linear, offset
    return matrix


def spacing_of(image: Tensor, given: Sequence[float] | None = None) -> tuple[float, ...]:
    """Edge lengths of a voxel of a (C, *spatial) image in mm: as given, else of its affine, else 1 (voxels).

    Raises:
        ValueError: the lengths given are not one an axis.
    """
    n = image.ndim - 1
    if given is not None:
        if len(given) != n:
            raise ValueError(f"spacing is {tuple(given)}, the image has {n} spatial axes; give one length an axis.")
        return tuple(float(length) for length in given)
    if not isinstance(image, MetaTensor):
        return (1.0,) * n
    columns = np.asarray(image.affine, dtype=np.float64)[:-1, :n]
    return tuple(float(length) for length in np.linalg.norm(columns, axis=0))
