"""How far the axes of a grid are from right angles; a gantry tilt leaves them leaning."""

from __future__ import annotations

import numpy as np

RIGHT_ANGLE = 1e-3
"""Largest cosine between axes that counts as a right angle blurred by a header's rounding, not as shear."""


def largest_cosine(affine: np.ndarray) -> float:
    """Of the angles between any two axes; 0 for a grid of boxes.

    Args:
        affine: (4, 4), voxel index -> mm.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(axes.T @ axes)[np.triu_indices(3, 1)].max())


def is_sheared(affine: np.ndarray, cosine: float = RIGHT_ANGLE) -> bool:
    """Whether two axes of the grid meet at another angle than a right one, by more than this cosine."""
    return largest_cosine(affine) > cosine
