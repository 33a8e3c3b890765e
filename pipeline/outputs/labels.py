"""The label map as NIfTI, on the source grid, and the map of how sure the network is of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..nifti_writer import write_nifti_volume
from ..volume import Volume
from .checks import check_grid

STEP = 0.003921568
"""1/255, rounded down, for the header holds single precision, and no probability is above 1."""


def write_labels(path: Path, labels: np.ndarray, volume: Volume) -> None:
    """Write the label map in the smallest unsigned type that holds it; the header says nothing but the geometry.

    Args:
        path: ends in .nii.gz or .nii.
        labels: (X, Y, Z), integers from 0, on the volume's grid.
        volume: gives the affine.
    Raises:
        PipelineError: labels are not on the volume's grid, or the file can not be written.
    """
    check_grid(labels, volume)
    smallest = np.min_scalar_type(int(labels.max(initial=0)))
    write_nifti_volume(path, labels.astype(smallest, copy=False), volume.affine)


def write_confidence(path: Path, confidence: np.ndarray, volume: Volume) -> None:
    """Write the probability of the winning class, from 0 to 1 in 255 steps.

    Args:
        path: ends in .nii.gz or .nii.
        confidence: (X, Y, Z) of uint8, the probability times 255, on the volume's grid.
        volume: gives the affine.
    Raises:
        PipelineError: it is not on the volume's grid, or the file can not be written.
    """
    check_grid(confidence, volume)
    write_nifti_volume(path, confidence, volume.affine, slope=STEP)
