"""Products with a matrix along one axis of an image: what blurring, coarse sampling and splines have in common.

A banded matrix (a blur, a resampling) is applied in small dense blocks, so that only its band is multiplied, at the
speed of matrix products: several times faster than convolutions (benchmarks/transforms.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

Block = tuple[slice, slice, Tensor]

ROWS = 16
"""Rows of a banded matrix that are multiplied together."""
TILE = 1 << 18
"""Voxels that are worked on together, along all axes but the first: few enough for a processor's cache."""


def along(values: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """A new array: the matrix (out, in) applied along an axis of length in."""
    return np.moveaxis(np.tensordot(values, matrix, axes=([axis], [1])), -1, axis)


def multiply_along(image: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """`along` for a tensor, in its type and on its device."""
    return torch.movedim(torch.tensordot(image, matrix.to(image), dims=([axis], [1])), -1, axis)


def multiply_banded_(image: Tensor, matrices: Sequence[np.ndarray | None]) -> None:
    """Apply a square banded matrix along every axis, in place.

    Args:
        image: (*spatial), contiguous, floating point.
        matrices: (n, n) for an axis of length n, or None for an axis to leave; what is zero outside a band around the
            diagonal is passed over.
    """
    first, *others = (None if matrix is None else _blocks(matrix, image) for matrix in matrices)
    _multiply_others_(image, others)
    if first:
        _multiply_first_(image.view(len(image), -1), first)


def _multiply_others_(image: Tensor, others: Sequence[list[Block] | None]) -> None:
    """All axes but the first, on slabs of the image that the cache holds until all is done."""
    whole = image.device.type != "cpu"
    slabs = image.split(len(image) if whole else max(1, TILE // image[0].numel()))
    memory = torch.empty_like(slabs[0])
    for slab in slabs:
        given, spare = slab, memory[: len(slab)]
        for axis, blocks in reversed(list(enumerate(others, start=1))):
            if blocks:
                shape = (-1, image.shape[axis], image[(0,) * (axis + 1)].numel())
                _multiply(given.view(shape), blocks, spare.view(shape))
                given, spare = spare, given
        if given is not slab:
            slab.copy_(given)


def _multiply_first_(lines: Tensor, blocks: list[Block]) -> None:
    """The first axis of an (n, voxels) view, on groups of columns."""
    whole = lines.device.type != "cpu"
    groups = lines.split(lines.shape[1] if whole else max(1, 2 * TILE // len(lines)), dim=1)
    memory = lines.new_empty(1, *groups[0].shape)
    for group in groups:
        product = memory[..., : group.shape[1]]
        _multiply(group[None], blocks, product)
        group.copy_(product[0])


def _multiply(lines: Tensor, blocks: Sequence[Block], product: Tensor) -> None:
    """The matrix along the middle axis of (outer, n, inner)."""
    for rows, band, block in blocks:
        if lines.shape[2] == 1:
            torch.mm(lines[:, band, 0], block.T, out=product[:, rows, 0])
        elif len(lines) == 1:
            torch.mm(block, lines[0, band], out=product[0, rows])
        else:
            product[:, rows] = torch.bmm(block.expand(len(lines), -1, -1), lines[:, band])


def _blocks(matrix: np.ndarray, like: Tensor) -> list[Block]:
    """Groups of rows, the columns in which these are not zero, and the matrix there."""
    blocks = []
    for top in range(0, len(matrix), ROWS):
        rows = slice(top, min(top + ROWS, len(matrix)))
        used = np.flatnonzero(matrix[rows].any(axis=0))
        band = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((rows, band, torch.from_numpy(matrix[rows, band]).to(like)))
    return blocks
