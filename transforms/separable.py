"""Products with a matrix along one axis of an image: what blurring, coarse sampling and splines have in common.

A banded matrix (a blur, a resampling) is applied block by block, so that only its band is multiplied: dense products of
small blocks run at the processor's full speed, several times faster than convolutions (benchmarks/transforms.py).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

ROWS = 32
"""Rows of a banded matrix that are multiplied together."""
TILE = 131072
"""Voxels that are worked on together: small enough for a processor's cache."""


def multiply_along(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """A new tensor: the matrix (out, in) applied along an axis of length in."""
    return torch.movedim(torch.tensordot(image, matrix.to(image), dims=([axis], [1])), -1, axis)


def multiply_banded_(image: Tensor, matrix: np.ndarray, axis: int) -> None:
    """Apply a square banded matrix along an axis, in place.

    Args:
        image: (*spatial), contiguous, floating point.
        matrix: (n, n) for an axis of length n; what is zero outside a band around the diagonal is passed over.
        axis: of the image.
    """
    n = image.shape[axis]
    inner = image[(0,) * (axis + 1)].numel()
    folded = image.view(-1, n, inner)
    blocks = [(rows, band, torch.from_numpy(matrix[rows, band]).to(image)) for rows, band in _bands(matrix)]
    for tile in _tiles(folded):
        result = torch.empty_like(tile, memory_format=torch.contiguous_format)
        for rows, band, block in blocks:
            if inner == 1:
                torch.mm(tile[:, band, 0], block.T, out=result[:, rows, 0])
            else:
                torch.matmul(block, tile[:, band], out=result[:, rows])
        tile.copy_(result)


def _bands(matrix: np.ndarray) -> list[tuple[slice, slice]]:
    """Groups of rows, and the columns in which these are not zero."""
    groups = [slice(top, min(top + ROWS, len(matrix))) for top in range(0, len(matrix), ROWS)]
    bands = []
    for rows in groups:
        used = np.flatnonzero(matrix[rows].any(axis=0))
        bands.append((rows, slice(int(used[0]), int(used[-1]) + 1)))
    return bands


def _tiles(folded: Tensor) -> list[Tensor]:
    """Views of an (outer, n, inner) tensor that hold whole lines along n."""
    outer, n, inner = folded.shape
    if folded.device.type != "cpu":
        return [folded]
    if outer == 1:
        return list(folded.split(max(1, TILE // n), dim=2))
    return list(folded.split(max(1, TILE // (n * inner)), dim=0))
