"""Augmentation as MONAI transforms: deformation and intensity, on whole batches, on any device."""

from .intensity import BatchRandIntensity
from .spatial import BatchRandSpatialDeformation

__all__ = ["BatchRandIntensity", "BatchRandSpatialDeformation"]
