"""A scan in memory: voxels, their place in the patient, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Notice:
    """Something the user should know about a result: a machine-readable code and one line of text."""

    code: str
    message: str


@dataclass(frozen=True)
class Volume:
    """One scan on its source grid.

    Attributes:
        array: (C, X, Y, Z), channel first; C is 1 for every scan read here. float32, or for a large file that can be
            mapped the file's own type, in the file.
        affine: (4, 4), voxel index -> RAS mm; may be oblique and of either handedness.
        case: name for folders and logs; holds nothing of the patient.
        modality: DICOM Modality (0008,0060) such as "MR" or "CT"; None where the format does not say.
        instances: for DICOM the source files, instances[k] holding the slice array[:, :, :, k]; else empty.
        series_sha256: for DICOM the SHA-256 of the SeriesInstanceUID, 64 hex digits; else None.
        notices: what the reader corrected or could not verify.
    """

    array: np.ndarray
    affine: np.ndarray
    case: str
    modality: str | None = None
    instances: tuple[Path, ...] = ()
    series_sha256: str | None = None
    notices: tuple[Notice, ...] = ()

    @property
    def spatial_shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        _, x, y, z = self.array.shape
        return x, y, z

    @property
    def is_mapped(self) -> bool:
        """Whether the voxels are still in their file."""
        array: object = self.array
        while isinstance(array, np.ndarray):
            array = array.base
        return isinstance(array, mmap)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along the array axes, in mm."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres, by the determinant, which is right for sheared grids too."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0
