"""Products with a matrix along one axis of an image: what blurring, coarse sampling and splines have in common.

A banded matrix (a blur, a resampling) is applied in small dense blocks, so that only its band is multiplied, at the
speed of matrix products: several times faster than convolutions (benchmarks/transforms.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

ROWS = 16
"""Rows of a banded matrix that are multiplied together."""
TILE = 1 << 18
"""Voxels that are worked on together: few enough for a processor's cache."""


def multiply_along(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A new tensor: the matrix (out, in) applied along an axis of length in."""
    return torch.movedim(torch.tensordot(image, matrix.to(image), dims=([axis], [1])), -1, axis)


def multiply_banded_(image: Tensor, matrices: Sequence[np.ndarray | None]) -> None:
    """Apply a square banded matrix along every axis, in place.

    Args:
        image: (*spatial), contiguous, floating point.
        matrices: (n, n) for an axis of length n, or None for an axis to leave; what is zero outside a band around the
            diagonal is passed over.
    """
    given, spare = image, torch.empty_like(image)
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            _multiply(given, matrix, axis, spare)
            given, spare = spare, given
    if given is not image:
        image.copy_(given)


def _multiply(image: Tensor, matrix: np.ndarray, axis: int, result: Tensor) -> None:
    """The matrix along one axis, tile by tile."""
    inner = image[(0,) * (axis + 1)].numel()
    blocks = [(rows, band, torch.from_numpy(matrix[rows, band]).to(image)) for rows, band in _bands(matrix)]
    source, target = (each.view(-1, len(matrix), inner) for each in (image, result))
    step = max(1, TILE // (len(matrix) * inner)) if image.device.type == "cpu" else len(source)
    for given, product in zip(source.split(step), target.split(step), strict=True):
        for rows, band, block in blocks:
            if inner == 1:
                torch.mm(given[:, band, 0], block.T, out=product[:, rows, 0])
            elif len(given) == 1:
                torch.mm(block, given[0, band], out=product[0, rows])
            else:
                product[:, rows] = torch.bmm(block.expand(len(given), -1, -1), given[:, band])


def _bands(matrix: np.ndarray) -> list[tuple[slice, slice]]:
    """Groups of rows, and the columns in which these are not zero."""
    bands = []
    for top in range(0, len(matrix), ROWS):
        rows = slice(top, min(top + ROWS, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        bands.append((rows, slice(int(used[0]), int(used[-1]) + 1)))
    return bands
