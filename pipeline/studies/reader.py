"""The reader of studies as MONAI's `LoadImaged` takes it: `reader: scanloom.pipeline.studies.reader.StudyReader`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data import ImageReader
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from ..bundle import SeriesRule
from ..errors import GeometryError
from ..volume import Volume
from . import find_series, read_series, select_series


class StudyReader(ImageReader):
    """Reads any study for MONAI's loaders, through the same checks as the command line.

    `read` only names the input and `get_data` does the work: `LoadImage` tries the next reader where `read` raises, and
    would quietly give a refused study to ITK.

    Args:
        series: a SeriesInstanceUID, case name or series number, for inputs of several series.
        modality: only series of this DICOM Modality; None takes any.
        min_slices: series with fewer slices (scouts) are left out.
    """

    def __init__(self, series: str | None = None, modality: str | None = None, min_slices: int = 1) -> None:
        super().__init__()
        self.series = series
        self.rule = SeriesRule(modality, min_slices)

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """True: the content decides, not the name."""
        return True

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> tuple[Path, ...]:
        """The paths themselves, of one input or of several on one grid; see the class for why."""
        return tuple(Path(path) for path in ensure_tuple(data))

    def get_data(self, img: Sequence[Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """The voxels, and where they lie.

        Args:
            img: what `read` returned; several inputs become channels.
        Returns:
            array (C, X, Y, Z) of real numbers, contiguous, padding and NaN replaced; MONAI's metadata, the
            affine in RAS mm.
        Raises:
            StudyError: an input is refused.
            GeometryError: several inputs are on different grids.
        """
        volumes = [self._volume(path) for path in img]
        for volume in volumes[1:]:
            _check_same_grid(volumes[0], volume)
        array = volumes[0].array if len(volumes) == 1 else np.concatenate([volume.array for volume in volumes])
        affine = volumes[0].affine
        return np.ascontiguousarray(array), {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.array(volumes[0].spatial_shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0,
            MetaKeys.SPACE: SpaceKeys.RAS,
        }

    def _volume(self, path: Path) -> Volume:
        return read_series(select_series(find_series(path), self.rule, self.series)).measured()


def _check_same_grid(one: Volume, other: Volume) -> None:
    tolerance = 1e-3 * min(one.spacing)
    if one.spatial_shape != other.spatial_shape or not np.allclose(one.affine, other.affine, rtol=0, atol=tolerance):
        raise GeometryError(
            f"cases {one.case} and {other.case} lie on different grids and can not be channels of one image. "
            "Resample one onto the other first.",
            "different-grids",
        )
