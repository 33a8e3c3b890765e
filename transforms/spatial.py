"""Random rotation, scaling, flips and elastic deformation of a whole batch, as one resampling."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

import torch
from monai.transforms.transform import Randomizable
from torch import Tensor
from torch.nn import functional

from .deformation import SUPPORT, control_coordinates, dense_grid, limit_folding

FOLDING_LIMIT = 0.9
MODES = ("bilinear", "nearest")
PADDING_MODES = ("border", "reflection", "zeros")


class BatchRandSpatialDeformation(Randomizable):
    """Deform every sample of a batch by its own draw; image and label by the same one, each interpolated once.

    Takes and returns a mapping of tensors (B, C, *spatial) of one spatial size, on any device.

    Args:
        keys: the tensors to deform, all by the same draw.
        modes: "bilinear" (linear in 3D too) or "nearest", one a key. Labels need "nearest", so that no class can
            appear that was not there.
        flip_axes: spatial axes that are each mirrored with probability one half.
        rotation_degrees: largest angle about each axis (3D) or in the plane (2D), drawn uniformly from -a to a.
        scaling: smallest and largest magnification; one log-uniform draw for all axes.
        elastic_voxels: standard deviation of the control points' Gaussian displacements; the scale of this standard
            deviation is itself drawn uniformly from 0 to this a sample.
        control_points: per axis, at least four; the fewer, the smoother.
        prob_rotation, prob_scaling, prob_elastic: the probability of each part, drawn a sample.
        padding_mode: what lies outside the image: "border", "zeros" or "reflection".

    Raises:
        ValueError: the numbers of keys and modes differ, a mode is not known, a range is impossible; in a call: the
            keyed tensors differ in batch or spatial size.

    Source: Ronneberger 2015, section 3.1 (elastic deformation on a coarse grid); Isensee 2021 (ranges).
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        modes: Sequence[str],
        flip_axes: Sequence[int] = (),
        rotation_degrees: float = 30.0,
        scaling: tuple[float, float] = (0.7, 1.4),
        elastic_voxels: float = 4.0,
        control_points: int = 7,
        prob_rotation: float = 0.5,
        prob_scaling: float = 0.5,
        prob_elastic: float = 0.5,
        padding_mode: str = "border",
    ) -> None:
        if not keys:
            raise ValueError("no keys; name the tensors to deform.")
        if len(keys) != len(modes):
            raise ValueError(f"{len(keys)} keys but {len(modes)} modes; give one mode a key.")
        if unknown := [mode for mode in modes if mode not in MODES]:
            raise ValueError(f"modes is {tuple(modes)}; {unknown[0]!r} must be {' or '.join(map(repr, MODES))}.")
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"padding_mode is {padding_mode!r}; it must be 'border', 'reflection' or 'zeros'.")
        if control_points < SUPPORT:
            raise ValueError(f"control_points is {control_points}; a cubic B-spline needs at least {SUPPORT}.")
        if not 0 < scaling[0] <= scaling[1]:
            raise ValueError(f"scaling is {tuple(scaling)}; it must be two positive factors, the smaller first.")
        if elastic_voxels < 0:
            raise ValueError(f"elastic_voxels is {elastic_voxels}; it must not be negative.")
        self.keys, self.modes = tuple(keys), tuple(modes)
        self.flip_axes = tuple(flip_axes)
        self.rotation_degrees, self.scaling, self.elastic_voxels = rotation_degrees, tuple(scaling), elastic_voxels
        self.control_points, self.padding_mode = control_points, padding_mode
        self.prob_rotation, self.prob_scaling, self.prob_elastic = prob_rotation, prob_scaling, prob_elastic

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """The mapping with the keyed tensors deformed; shapes, types and devices stay."""
        first = data[self.keys[0]]
        for key in self.keys[1:]:
            if (len(data[key]), *data[key].shape[2:]) != (len(first), *first.shape[2:]):
                raise ValueError(
                    f"{key} is {tuple(data[key].shape)} but {self.keys[0]} {tuple(first.shape)}; "
                    "tensors deformed alike need one batch and spatial size."
                )
        grid = self.draw(len(first), first.shape[2:]).to(first.device)
        return {
            **data,
            **{key: self._sample(data[key], grid, mode) for key, mode in zip(self.keys, self.modes, strict=True)},
        }

    def draw(self, batch: int, size: Sequence[int]) -> Tensor:
        """(batch, *size, n): a sampling grid a sample, each with a draw of its own."""
        size = tuple(size)
        matrices = torch.stack([self._matrix(size) for _ in range(batch)])
        displacements = torch.stack([self._displacements(size) for _ in range(batch)])
        return dense_grid(matrices, limit_folding(displacements, FOLDING_LIMIT), size)

    def randomize(self, data: object = None) -> None:
        """Nothing is kept between calls: `draw` makes each batch's grids."""

    def _matrix(self, size: Sequence[int]) -> Tensor:
        """Output to input: scaling, rotation and flips in voxel units, brought to [-1, 1] coordinates."""
        n = len(size)
        matrix = torch.eye(n)
        if self.R.rand() < self.prob_rotation:
            for first, second in ((0, 1),) if n == 2 else ((0, 1), (0, 2), (1, 2)):
                angle = math.radians(self.R.uniform(-self.rotation_degrees, self.rotation_degrees))
                turn = torch.eye(n)
                turn[first, first] = turn[second, second] = math.cos(angle)
                turn[first, second], turn[second, first] = -math.sin(angle), math.sin(angle)
                matrix = turn @ matrix
        if self.R.rand() < self.prob_scaling:
            matrix = matrix / math.exp(self.R.uniform(*(math.log(factor) for factor in self.scaling)))
        for axis in self.flip_axes:
            if self.R.rand() < 0.5:
                matrix[axis] = -matrix[axis]
        half = torch.tensor([max(length - 1, 1) / 2 for length in size])
        return matrix * half / half.unsqueeze(1)

    def _displacements(self, size: Sequence[int]) -> Tensor:
        """(*control points, n) in [-1, 1] coordinates; zero where this sample is not deformed."""
        shape = control_coordinates(self.control_points, len(size)).shape
        if self.R.rand() >= self.prob_elastic:
            return torch.zeros(shape)
        voxels = self.R.uniform(0, self.elastic_voxels) * torch.from_numpy(self.R.standard_normal(shape)).float()
        return voxels * torch.tensor([2 / max(length - 1, 1) for length in size])

    def _sample(self, x: Tensor, grid: Tensor, mode: str) -> Tensor:
        """Sampled in single precision at least: coordinates in half precision miss voxels of larger images."""
        values = x if x.dtype == torch.float64 else x.float()
        sampled = functional.grid_sample(
            values, grid.to(values.dtype), mode=mode, padding_mode=self.padding_mode, align_corners=True
        )
        return (sampled if x.is_floating_point() else sampled.round()).to(x.dtype)
