"""Source instances as a segmentation needs them: mended in memory where real scanners leave gaps."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA, TM

from ..volume import Volume

EMPTY_ALLOWED = ("PatientID", "PatientName", "AccessionNumber", "StudyID")
"""Type 2 attributes (may be empty, must be there) that are copied as text."""
DATES_AND_TIMES = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
"""Type 2 attributes that are copied as date or time."""
SEXES = ("M", "F", "O")
"""Defined values of PatientSex (0010,0040)."""


def mended_source(source: Dataset, volume: Volume) -> Dataset:
    """The dataset, changed in place where its gaps would stop a segmentation; the file stays as it is.

    Missing type 2 attributes become empty, unreadable dates and sexes too. Slice thickness and spacing follow the
    positions, which the reader has checked, and not the tags, which often lie.

    Args:
        source: one instance of the series, without pixels.
        volume: the volume that was read from it.
    """
    for keyword in EMPTY_ALLOWED:
        if source.get(keyword) is None:
            setattr(source, keyword, "")
    for keyword, parse in DATES_AND_TIMES.items():
        if not _parses(source.get(keyword), parse):
            setattr(source, keyword, "")
    if source.get("PatientSex") not in SEXES:
        source.PatientSex = ""
    step = _slice_step(volume)
    source.SpacingBetweenSlices = round(step, 6)
    if not source.get("SliceThickness"):
        source.SliceThickness = round(step, 6)
    return source


def _parses(value: object, parse: type) -> bool:
    try:
        return value is not None and (value == "" or parse(value) is not None)
    except ValueError:
        return False


def _slice_step(volume: Volume) -> float:
    """Distance between neighbouring slices along their common normal, in mm."""
    x, y, z = volume.affine[:3, :3].T
    normal = np.cross(x, y)
    return abs(float(z @ normal)) / float(np.linalg.norm(normal))
