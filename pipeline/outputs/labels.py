"""The label map as NIfTI, on the source grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from ..atomic import atomic
from ..volume import Volume
from .checks import check_grid

SCANNER_ANAT = 1
"""NIFTI_XFORM_SCANNER_ANAT: the affine leads to the scanner's own coordinates. Source: nifti1.h."""


def write_labels(path: Path, labels: np.ndarray, volume: Volume) -> None:
    """Write the label map in the smallest unsigned type that holds it; the header says nothing but the geometry.

    The sform is the affine. The qform is set to the same where it can say it: a quaternion has no shear, so a sheared
    grid (gantry tilt) has an sform only.

    Args:
        path: ends in .nii.gz or .nii.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: gives the affine.
    Raises:
        PipelineError: labels are not on the volume's grid, or the file can not be written.
    """
    check_grid(labels, volume)
    smallest = np.min_scalar_type(int(labels.max(initial=0)))
    image = nib.Nifti1Image(labels.astype(smallest, copy=False), volume.affine)
    image.header.set_xyzt_units(xyz="mm")
    image.set_sform(volume.affine, code=SCANNER_ANAT)
    if _is_sheared(volume.affine):
        image.set_qform(None, code=0)
    else:
        image.set_qform(volume.affine, code=SCANNER_ANAT)
    with atomic(path) as temporary:
        nib.save(image, temporary)


def _is_sheared(affine: np.ndarray) -> bool:
    """Whether two axes of the grid meet at another angle than 90 degrees, by more than 1e-4 of a radian."""
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(axes.T @ axes, np.eye(3), rtol=0.0, atol=1e-4)
