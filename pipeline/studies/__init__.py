"""Any input -> `Volume`: finds the series of a study, judges their geometry, reads the one that is meant.

Imports neither torch nor MONAI; `reader.StudyReader`, the same door for MONAI's `LoadImaged`, is imported by name.
"""

from collections.abc import Callable

import numpy as np

from ..volume import Volume
from .find import find_series
from .study import AmbiguousSeriesError, Series, select_series
from .volume_file import file_case, short_digest

__all__ = ["AmbiguousSeriesError", "Series", "file_case", "find_series", "read_series", "select_series", "short_digest"]


def read_series(
    series: Series, *, allocate: Callable[..., np.ndarray] = np.empty, tick: Callable[[], None] = lambda: None
) -> Volume:
    """The voxels of a series, and their place in the patient.

    Args:
        series: one that `find_series` found.
        allocate: makes the array of the voxels from shape and type, where they are read into one.
        tick: called now and then, to tell that the work goes on.
    Raises:
        GeometryError: the series was refused for its geometry.
        StudyError: it was refused for another reason, or its pixels can not be read.
    """
    if series.refused:
        raise series.refused.with_traceback(None)
    if series.kind == "dicom":
        from .dicom import read_dicom

        return read_dicom(series, allocate, tick)
    if series.kind == "nifti":
        from .nifti import read_nifti

        return read_nifti(series)
    if series.kind == "picture":
        from .picture import read_picture

        return read_picture(series, allocate, tick)
    from .raster import read_raster

    return read_raster(series)
