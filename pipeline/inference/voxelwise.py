"""Preprocessing that treats every voxel by itself, so that a scan larger than memory can be prepared by windows.

Steps that change nothing for the scan at hand are left out; a z-score is voxelwise once its mean and deviation are
known, which take a pass over the scan, plane by plane. Everything else needs the whole scan in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai import transforms as monai_transforms
from monai.transforms import Compose, Transform
from torch import Tensor

from ..shear import is_sheared
from ..volume import Volume
from .prepare import after_loader, spacing_step_mm

VOXELWISE = (
    monai_transforms.ScaleIntensityRanged,
    monai_transforms.ShiftIntensityd,
    monai_transforms.ThresholdIntensityd,
    monai_transforms.CastToTyped,
    monai_transforms.EnsureTyped,
)
"""Each voxel of the result depends on that voxel alone."""

Prepare = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NeedsWholeScan:
    """The preprocessing can not be done by windows.

    Attributes:
        step: the transform that stands in the way.
    """

    step: str


def voxelwise(preprocessing: Compose, volume: Volume) -> Prepare | NeedsWholeScan:
    """The preprocessing of regions of this scan, (C, *region) float32 -> the same shape, or why there is none.

    Args:
        preprocessing: the bundle's, on the key "image".
        volume: in canonical order; read once if there is a z-score in it, else not at all.
    """
    done: list[Prepare] = []
    for step in after_loader(preprocessing).transforms:
        if _changes_nothing(step, volume):
            continue
        if isinstance(step, VOXELWISE):
            done.append(_on_image(step))
        elif _is_z_score(step):
            done.append(_z_score(volume.array, tuple(done)))
        else:
            return NeedsWholeScan(type(step).__name__)
    return _chained(tuple(done))


def _changes_nothing(step: Transform, volume: Volume) -> bool:
    """Whether the scan, channel first and in canonical order, has already what the step is for."""
    if isinstance(step, monai_transforms.EnsureChannelFirstd):
        return True
    if isinstance(step, monai_transforms.Orientationd):
        return step.ornt_transform.axcodes == "RAS"
    if isinstance(step, monai_transforms.Spacingd) and not is_sheared(volume.affine):
        wanted = np.broadcast_to(step.spacing_transform.pixdim, (3,))
        return bool(np.abs(wanted - volume.spacing).max() <= spacing_step_mm(np.asarray(volume.spacing)))
    return False


def _is_z_score(step: Transform) -> bool:
    if not isinstance(step, monai_transforms.NormalizeIntensityd):
        return False
    how = step.normalizer
    return how.subtrahend is None and how.divisor is None and not how.nonzero


def _z_score(array: np.ndarray, before: Sequence[Prepare]) -> Prepare:
    """(value - mean) / deviation, each over all voxels of the only channel; the deviation 1 where there is none."""
    prepare = _chained(before)
    count, total, squares = 0, 0.0, 0.0
    for index in range(array.shape[-1]):
        plane = prepare(
            torch.from_numpy(np.ascontiguousarray(array[..., index : index + 1], dtype=np.float32))
        ).double()
        count, total, squares = count + plane.numel(), total + float(plane.sum()), squares + float((plane**2).sum())
    mean = total / count
    deviation = max(squares / count - mean**2, 0.0) ** 0.5 or 1.0
    return lambda region: region.sub(mean).div_(deviation)


def _on_image(step: Transform) -> Prepare:
    return lambda region: torch.as_tensor(step({"image": region})["image"])


def _chained(steps: Sequence[Prepare]) -> Prepare:
    def prepare(region: Tensor) -> Tensor:
        for step in steps:
            region = step(region)
        return region

    return prepare
