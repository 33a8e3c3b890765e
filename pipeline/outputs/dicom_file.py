"""A DICOM object becomes a file that was read again before it took its name."""

from __future__ import annotations

from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from ..atomic import atomic


def write_dicom(path: Path, dataset: Dataset) -> None:
    """Write the object, with its file meta information.

    Args:
        path: ends in .dcm.
        dataset: complete, with file_meta.
    Raises:
        PipelineError: the file can not be written, or does not read as what was written.
    """

    def check(temporary: Path) -> None:
        found = pydicom.dcmread(temporary)
        if found.SOPInstanceUID != dataset.SOPInstanceUID or found.get("PixelData") != dataset.get("PixelData"):
            raise ValueError("another object")

    with atomic(path, check=check) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)
