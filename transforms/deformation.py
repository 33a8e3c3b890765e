"""Dense deformations as one sampling grid: affine and elastic together, from a coarse cubic B-spline control grid.

Uniform cubic B-splines reproduce linear maps, so rotation, scaling and flips act on the coordinates of the control
points, the elastic displacements are added there, and one tensor product of small matrices gives the dense grid:
image and label are resampled once. Convention: grids hold `torch.nn.functional.grid_sample` coordinates with
align_corners=True, -1 and 1 at the centres of the first and last voxel; their last axis is in reversed array order.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

SUPPORT = 4
"""Control points that a cubic B-spline needs around any place."""


@lru_cache(maxsize=64)
def bspline_weights(size: int, points: int) -> Tensor:
    """(size, points): the weight of each control point at each voxel centre along an axis.

    The spline's domain, points - 3 intervals, spans the first to the last voxel; the first and last control point lie
    one interval outside. Rows are non-negative and sum to one.

    Source: de Boor, A Practical Guide to Splines; Unser 1999, IEEE Signal Processing Magazine 16(6).
    """
    intervals = points - SUPPORT + 1
    place = torch.linspace(0, intervals, size, dtype=torch.float64) if size > 1 else torch.tensor([intervals / 2.0])
    first = place.floor().clamp(max=intervals - 1).long()
    t = (place - first).unsqueeze(1)
    basis = (
        torch.cat([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1).double() / 6.0
    )
    weights = torch.zeros(size, points, dtype=torch.float64)
    return weights.scatter_(1, first.unsqueeze(1) + torch.arange(SUPPORT), basis).float()


def control_coordinates(points: int, spatial_dims: int) -> Tensor:
    """(*(points,) * spatial_dims, spatial_dims): where the control points lie, in [-1, 1] coordinates, array order."""
    intervals = points - SUPPORT + 1
    axis = 2 * (torch.arange(points, dtype=torch.float32) - 1) / intervals - 1
    return torch.stack(torch.meshgrid(*[axis] * spatial_dims, indexing="ij"), dim=-1)


def limit_folding(displacements: Tensor, limit: float) -> Tensor:
    """The displacements, scaled down a sample where they could fold space.

    The derivative of a uniform B-spline is a convex combination of the differences of neighbouring control points over
    their distance, so the row sums of the largest differences bound the infinity norm of the displacement's Jacobian
    everywhere; below one, identity plus displacement has a positive determinant.

    Args:
        displacements: (B, *points, n) in [-1, 1] coordinates, array order.
        limit: the bound to keep, in (0, 1).
    """
    n = displacements.shape[-1]
    intervals = torch.tensor([size - SUPPORT + 1 for size in displacements.shape[1:-1]])
    slopes = [
        displacements.diff(dim=axis + 1).abs().reshape(len(displacements), -1, n).amax(dim=1) * intervals[axis] / 2
        for axis in range(n)
    ]
    norm = torch.stack(slopes).sum(dim=0).amax(dim=1)
    factor = (limit / norm.clamp(min=1e-12)).clamp(max=1)
    return displacements * factor.reshape(-1, *[1] * (n + 1))


def dense_grid(matrices: Tensor, displacements: Tensor, size: Sequence[int]) -> Tensor:
    """The sampling grid of an affine map composed with an elastic deformation.

    An output voxel at p samples the input at M (p + u(p)): folding of p + u is what `limit_folding` rules out, and an
    invertible M keeps it so.

    Args:
        matrices: (B, n, n), output to input, about the centre, in [-1, 1] coordinates, array order.
        displacements: (B, *points, n) at the control points, in [-1, 1] coordinates, array order.
        size: spatial size of the image, n numbers.
    Returns:
        (B, *size, n) for `grid_sample` with align_corners=True.
    """
    points = displacements.shape[1]
    coordinates = control_coordinates(points, len(size)).to(displacements)
    control = (coordinates + displacements) @ matrices.to(displacements).transpose(1, 2).reshape(
        len(matrices), *[1] * (len(size) - 1), len(size), len(size)
    )
    control = control.flip(-1)
    for axis, length in enumerate(size, start=1):
        weights = bspline_weights(length, points).to(displacements)
        control = torch.movedim(torch.tensordot(control, weights, dims=([axis], [1])), -1, axis)
    return control.contiguous()
