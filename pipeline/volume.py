"""A scan in memory: voxels, their place in the patient, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from mmap import mmap
from pathlib import Path
from typing import Any

import numpy as np

NOT_FINITE = "not-finite"
"""The code of the notice that a volume holds NaN or infinity."""
NO_SPACING = "no-spacing"
"""The code of the notice that nothing says how large the voxels are; 1 mm is taken."""


@dataclass(frozen=True)
class Notice:
    """Something the user should know about a result: a machine-readable code and one line of text."""

    code: str
    message: str


@dataclass(frozen=True)
class SourceSlice:
    """One DICOM image plane that a volume was read from.

    Attributes:
        file: the DICOM file.
        frame: its frame, from 0, in a multi-frame file; None where the file holds a single frame.
        z: where the plane lies along the volume's third axis, in voxels; not whole where the volume was resampled
            because its slices were unevenly spaced.
    """

    file: Path
    frame: int | None
    z: float


@dataclass(frozen=True)
class _InFile:
    """Where the voxels of one channel lie in a file, x fastest."""

    file: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, volume: Volume) -> _InFile | None:
        """Where the volume's voxels lie; None where they are in memory, or are not all of a file as they lie there."""
        if not volume.is_mapped:
            return None
        whole: Any = volume.array
        while isinstance(whole.base, np.ndarray):
            whole = whole.base
        is_all = volume.array.size * volume.array.itemsize == whole.nbytes and volume.array.flags.f_contiguous
        return cls(whole.filename, volume.array.dtype, whole.offset, volume.spatial_shape) if is_all else None

    def mapped(self) -> np.ndarray:
        """(1, X, Y, Z), read-only, still in the file."""
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape, order="F")[np.newaxis]


@dataclass(frozen=True)
class Volume:
    """One scan on its source grid.

    Attributes:
        array: (C, X, Y, Z), channel first; C is 1 for every scan read here. Real numbers of any type that holds the
            source's values, in any memory order; read-only and in its file where that is large and can be mapped.
        affine: (4, 4), voxel index -> RAS mm; may be oblique and of either handedness.
        case: name for folders and logs; holds nothing of the patient.
        modality: DICOM Modality (0008,0060) such as "MR" or "CT"; None where the format does not say.
        sources: for DICOM the image planes in the order of their places, else empty. There are fewer than voxels along
            z where missing slices were filled in.
        series_sha256: for DICOM the SHA-256 of the SeriesInstanceUID, 64 hex digits; else None.
        padding: what voxels outside the scanned field hold (PixelPaddingValue, rescaled); None where there is no such.
        is_picture: a PNG or TIFF, which nothing places in a patient; its columns are x, its rows y, its pages z.
        notices: what the reader corrected or could not verify.
    """

    array: np.ndarray
    affine: np.ndarray
    case: str
    modality: str | None = None
    sources: tuple[SourceSlice, ...] = ()
    series_sha256: str | None = None
    padding: float | None = None
    is_picture: bool = False
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
        from_file = False
        while isinstance(array, np.ndarray):
            from_file |= isinstance(array, np.memmap)
            array = array.base
        return from_file and isinstance(array, mmap)

    def __getstate__(self) -> dict[str, Any]:
        """What another process makes it of: mapped voxels are not copied, but mapped there too."""
        return {**self.__dict__, "array": _InFile.of(self) or self.array}

    def __setstate__(self, state: dict[str, Any]) -> None:
        array = state["array"]
        self.__dict__.update(state, array=array.mapped() if isinstance(array, _InFile) else array)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel along the array axes, in mm."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres, by the determinant, which is right for sheared grids too."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @property
    def has_spacing(self) -> bool:
        """Whether the source tells the spacing; else mm count voxels."""
        return not any(notice.code == NO_SPACING for notice in self.notices)

    def measured(self) -> Volume:
        """The volume as a network may see it: where it holds padding, NaN or infinity, the lowest measured value.

        The same object where it holds none of these.
        """
        wrong = self._not_measured()
        if wrong is None:
            return self
        rest = self.array[~wrong]
        return replace(self, array=np.where(wrong, rest.min() if rest.size else 0, self.array), padding=None)

    def _not_measured(self) -> np.ndarray | None:
        """Which voxels are no measurements; None where the reader found none."""
        wrong = None if self.padding is None else self.array == self.padding
        if any(notice.code == NOT_FINITE for notice in self.notices):
            infinite = ~np.isfinite(self.array)
            wrong = infinite if wrong is None else wrong | infinite
        return wrong
