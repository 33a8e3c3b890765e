"""Volume -> the network's input, and its logits -> labels on the volume's own grid.

A scan's own array order never reaches the network: it is first turned to the nearest RAS order in contiguous memory, so
that axial, coronal, sagittal and reversed acquisitions of one anatomy give the same numbers to the last bit.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import nibabel.orientations as orientations
import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, LoadImage, LoadImaged
from monai.utils import MetaKeys, SpaceKeys

from ..errors import BundleError
from ..shear import is_sheared
from ..volume import Volume
from .confidence import winning

MICROSCOPIC_MM = 2.0**-6
"""Finer spacings are rounded to a smaller step."""
SPACING_STEP_MM = 2.0**-16
"""Spacings are rounded to this for the preprocessing; a power of two, so that field of view / matrix stays exact."""


def canonical(volume: Volume) -> Volume:
    """The volume with its array axes nearest to R, A and S; no voxel is interpolated.

    The array is contiguous float32, but that of a mapped file stays in it, seen in another order.
    """
    turn = orientations.io_orientation(volume.affine)
    affine = volume.affine @ orientations.inv_ornt_aff(turn, volume.spatial_shape)
    if volume.is_mapped:
        return replace(volume, array=orientations.apply_orientation(volume.array[0], turn)[np.newaxis], affine=affine)
    array = np.stack([orientations.apply_orientation(channel, turn) for channel in volume.array])
    return replace(volume, array=np.ascontiguousarray(array, dtype=np.float32), affine=affine)


def to_source_order(labels: np.ndarray, volume: Volume) -> np.ndarray:
    """Labels on the grid of `canonical(volume)` -> on the volume's own, (X, Y, Z)."""
    turn = orientations.io_orientation(volume.affine)
    back = orientations.ornt_transform(np.stack([np.arange(3), np.ones(3)], axis=1), turn)
    return np.ascontiguousarray(orientations.apply_orientation(labels, back))


def in_canonical_order(labels: np.ndarray, volume: Volume) -> np.ndarray:
    """Labels on the volume's own grid, (X, Y, Z), seen as on that of `canonical(volume)`: the same memory."""
    return orientations.apply_orientation(labels, orientations.io_orientation(volume.affine))


def is_in_canonical_order(volume: Volume) -> bool:
    """Whether its array axes already are nearest to R, A and S."""
    turn = orientations.io_orientation(volume.affine)
    return bool(np.array_equal(turn, np.stack([np.arange(3), np.ones(3)], axis=1)))


def is_cropped(image: MetaTensor) -> bool:
    """Whether the preprocessing cut something away, which has no label but background."""
    return any("Crop" in str(each.get("class", "")) for each in image.applied_operations)


def canonical_spacing(volume: Volume) -> tuple[float, float, float]:
    """Edge lengths of a voxel in mm, along the axes of `canonical(volume)`."""
    x, y, z = np.asarray(volume.spacing)[np.argsort(orientations.io_orientation(volume.affine)[:, 0])]
    return float(x), float(y), float(z)


def prepare(volume: Volume, preprocessing: Compose) -> dict[str, MetaTensor]:
    """The bundle's preprocessing, from after its loader: the scan is already in memory.

    Args:
        volume: in canonical order.
        preprocessing: the bundle's, on the key "image".
    Returns:
        {"image": (C, *spatial)} with the applied operations that `labels_on_grid` inverts.
    """
    image = MetaTensor(
        torch.from_numpy(np.ascontiguousarray(volume.array, dtype=np.float32)),
        affine=torch.from_numpy(straightened(volume.affine)),
        meta={
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            MetaKeys.SPATIAL_SHAPE: np.array(volume.spatial_shape),
            "filename_or_obj": volume.case,
        },
    )
    data = dict(after_loader(preprocessing)({"image": image}))
    data["image"] = data["image"].cpu()  # a bundle may put it on its device; windows of it go there one by one
    return data


def straightened(affine: np.ndarray) -> np.ndarray:
    """The affine of the same voxels lying straight in the scanner, at its centre: only the spacing is left.

    NIfTI rounds an affine to single precision, DICOM to decimals, and an oblique affine's products round differently
    for every order of axes. `Spacingd` shifts its grid by up to half a voxel where the axes lean by 1e-8, and adds a
    voxel where a size of n + 1/2 is rounded up (`monai.data.utils.compute_shape_offset`). So the place in the world,
    which a network never sees, stays out of the preprocessing: the grid follows from the spacing alone.

    Args:
        affine: (4, 4), voxel index -> RAS mm, in canonical order.
    Returns:
        (4, 4); a sheared affine as it is, for its shear is to be resampled away.
    """
    if is_sheared(affine):
        return affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    step = spacing_step_mm(spacing)
    return np.diag([*(np.round(spacing / step) * step), 1.0])


def spacing_step_mm(spacing: np.ndarray) -> float:
    """What spacings are rounded to: `SPACING_STEP_MM`, or as small a part of a microscope's voxels, a power of two.

    Args:
        spacing: (3,) mm, positive.
    """
    finest = float(np.min(spacing))
    return SPACING_STEP_MM * (1.0 if finest >= MICROSCOPIC_MM else 2.0 ** np.floor(np.log2(finest / MICROSCOPIC_MM)))


def after_loader(preprocessing: Compose) -> Compose:
    """The transforms without those that load files, those inside a nested `Compose` too."""
    steps = preprocessing.flatten().transforms
    return Compose([step for step in steps if not isinstance(step, LoadImage | LoadImaged)], lazy=preprocessing.lazy)


def labels_on_grid(
    logits: torch.Tensor, prepared: dict[str, MetaTensor], preprocessing: Compose, volume: Volume
) -> tuple[np.ndarray, torch.Tensor]:
    """Logits on the network's grid -> labels on the grid of the canonical volume, and how sure the network is of them.

    The logits are interpolated back before the largest is taken, which keeps boundaries between voxels; where nothing
    was resampled nothing is interpolated.

    Args:
        logits: (K, *spatial) for prepared["image"]; one channel is a binary mask's logit.
        prepared: what `prepare` returned.
        preprocessing: as given to `prepare`.
        volume: in canonical order.
    Returns:
        (X, Y, Z) integers, in the smallest unsigned type; and the probability of the winning class.
    Raises:
        BundleError: the preprocessing can not be inverted to the scan's grid.
    """
    image = prepared["image"]
    operations = deepcopy(image.applied_operations)  # which inverting uses up
    carrier = MetaTensor(logits.float().cpu(), meta=image.meta, applied_operations=operations)
    inverted = after_loader(preprocessing).inverse({"image": carrier})["image"]
    if tuple(inverted.shape[1:]) != volume.spatial_shape:
        raise BundleError(
            f"the bundle's preprocessing leads from {volume.spatial_shape} voxels back to {tuple(inverted.shape[1:])}. "
            "Use only invertible spatial transforms in configs/inference."
        )
    kind = np.uint8 if len(inverted) <= np.iinfo(np.uint8).max + 1 else np.uint16
    values = inverted.as_tensor()
    labels = values[0] > 0 if len(values) == 1 else values.argmax(dim=0)
    return labels.numpy().astype(kind), winning(values)
