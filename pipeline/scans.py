"""The one scan that a file holds, as a training reads it: for what looks into datasets."""

from __future__ import annotations

from pathlib import Path

from .bundle import SeriesRule
from .volume import Volume


def read_scan(path: Path) -> Volume:
    """The voxels of the file, NaN and padding as they are, and their place.

    It goes through the door that `studies.reader.StudyReader`, which a bundle's config names, opens too.

    Raises:
        StudyError: the file holds no scan, several, or one that is refused.
    """
    from .studies import find_series, read_series, select_series

    return read_series(select_series(find_series(path), SeriesRule()))
