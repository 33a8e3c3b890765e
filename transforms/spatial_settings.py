"""What a random spatial deformation may draw, checked, and the drawing itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import affine, ranges
from .deformation import Deformation, interpolating_coefficients, strongest_compression
from .ranges import Range

COMPRESSION_LIMIT = 0.9
"""How much an elastic displacement may shorten anything, as a part of its length; from 1, space may fold."""
PARTS = ("flip", "scaling", "axis_scaling", "shear", "rotation", "translation", "elastic")


@dataclass(frozen=True)
class SpatialSettings:
    """The arguments of `RandSpatialDeformation`, parsed: one range for all axes, or one an axis.

    Raises:
        ValueError: a setting is impossible, whatever the image.
    """

    rotation: tuple[Range, ...]
    scaling: Range
    axis_scaling: tuple[Range, ...]
    shear: tuple[Range, ...]
    translation: tuple[Range, ...]
    displacement: tuple[Range, ...]
    flip_axes: tuple[int, ...]
    control_points: int | Sequence[int]
    control_spacing: float | Sequence[float] | None
    output_size: tuple[int, ...] | None
    random_center: bool
    probabilities: Mapping[str, float]

    def __post_init__(self) -> None:
        for part in PARTS:
            ranges.probability(f"prob_{part}", self.probabilities[part])
        if min(np.atleast_1d(self.control_points)) < 2:
            raise ValueError(f"control_points is {self.control_points}; a grid needs at least 2 points along an axis.")
        if self.control_spacing is not None and min(np.atleast_1d(self.control_spacing)) <= 0:
            raise ValueError(f"control_spacing is {self.control_spacing}; it must be positive.")
        if self.output_size is not None and min(self.output_size) < 1:
            raise ValueError(f"output_size is {self.output_size}; every axis needs at least one voxel.")

    def draw(self, size: Sequence[int], millimetres: Sequence[float], random: np.random.RandomState) -> Deformation:
        """A deformation of images of this size and spacing (mm), each part drawn with its probability."""
        n, spacing = len(size), np.array(millimetres)
        # content moves by: flip, scaling, shear, rotation, translation; sampling goes the other way
        forward = np.diag(self._signs(n, random))
        if self._happens("scaling", random):
            forward = forward * self.scaling.draw(random)
        if self._happens("axis_scaling", random):
            forward = np.diag(ranges.draw_axes("axis_scaling", self.axis_scaling, n, random)) @ forward
        if self._happens("shear", random):
            forward = affine.shear(ranges.draw_axes("shear", self.shear, n, random), n) @ forward
        if self._happens("rotation", random):
            angles = ranges.draw_axes("rotation", self.rotation, len(affine.PLANES[n]), random)
            forward = affine.rotation(angles, n) @ forward
        shift = np.zeros(n)
        if self._happens("translation", random):
            shift = ranges.draw_axes("translation", self.translation, n, random)
        backward = np.linalg.inv(forward) * spacing / spacing[:, None]
        deformation = self._placed(size, backward, shift / spacing, random)
        if not self._happens("elastic", random):
            return deformation
        return replace(deformation, displacements=self._displacements(deformation.output_size, spacing, random))

    def draw_nothing(self, size: Sequence[int], random: np.random.RandomState) -> Deformation:
        """No deformation, but an output of the size and at a place as settled."""
        return self._placed(size, np.eye(len(size)), np.zeros(len(size)), random)

    def _placed(
        self, size: Sequence[int], linear: np.ndarray, shift: np.ndarray, random: np.random.RandomState
    ) -> Deformation:
        """An affine deformation about the middle of the output, which lies in the image as settled, to a whole voxel.

        Args:
            linear: (n, n), output to input voxels.
            shift: of the content, in voxels.
        """
        output_size = self.output_size or tuple(size)
        if len(output_size) != len(size):
            raise ValueError(f"output_size is {output_size}, the image has {len(size)} spatial axes.")
        room = np.array(size) - np.array(output_size)
        anywhere = self.random_center
        starts = [random.randint(space + 1) if anywhere and space > 0 else space // 2 for space in room]
        half = (np.array(output_size) - 1) / 2
        offset = np.array(starts) + half - shift - linear @ half
        return Deformation(tuple(size), output_size, affine.homogeneous(linear, offset))

    def _happens(self, part: str, random: np.random.RandomState) -> bool:
        return random.rand() < self.probabilities[part]

    def _signs(self, n: int, random: np.random.RandomState) -> list[float]:
        """-1 for the axes to mirror, each drawn for itself, 1 for the others."""
        if any(not -n <= axis < n for axis in self.flip_axes):
            raise ValueError(f"flip_axes is {self.flip_axes}, the image has {n} spatial axes, 0 to {n - 1}.")
        flipped = {axis % n for axis in self.flip_axes if self._happens("flip", random)}
        return [-1.0 if axis in flipped else 1.0 for axis in range(n)]

    def _displacements(self, size: Sequence[int], spacing: np.ndarray, random: np.random.RandomState) -> np.ndarray:
        """(*coefficients, n) in voxels: no steeper than lets space fold."""
        n = len(size)
        extent = np.maximum(np.array(size) - 1, 1) * spacing
        points = self._points(extent)
        std = ranges.draw_axes("displacement", self.displacement, n, random)
        coefficients = interpolating_coefficients(random.standard_normal((*points, n)) * std)
        compression = strongest_compression(coefficients, extent / (np.array(points) - 1))
        return coefficients * min(1.0, COMPRESSION_LIMIT / max(compression, 1e-12)) / spacing

    def _points(self, extent: np.ndarray) -> tuple[int, ...]:
        """The number of grid points along each axis."""
        if self.control_spacing is not None:
            wanted = _one_an_axis("control_spacing", self.control_spacing, len(extent))
            return tuple(int(max(1, round(length / step))) + 1 for length, step in zip(extent, wanted, strict=True))
        return tuple(int(count) for count in _one_an_axis("control_points", self.control_points, len(extent)))


def _one_an_axis(name: str, setting: float | Sequence[float], n: int) -> tuple[float, ...]:
    """
    Raises:
        ValueError: there are several settings, but not one an axis.
    """
    if not isinstance(setting, Sequence):
        return (setting,) * n
    if len(setting) != n:
        raise ValueError(f"{name} is {tuple(setting)}, the image has {n} spatial axes; give one, or one an axis.")
    return tuple(setting)
