"""The label map of a picture as a TIFF that lies on it: the same columns, rows and pages."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..atomic import write_whole
from ..volume import Volume
from .checks import check_grid

COMPRESSION = "tiff_adobe_deflate"
"""Lossless, and read by everything that reads TIFF."""


def write_label_picture(path: Path, labels: np.ndarray, volume: Volume) -> None:
    """Write the label map as a TIFF of 8 bits (16 where a label is above 255), compressed without loss.

    Args:
        path: ends in .tif.
        labels: (X, Y, Z), integers from 0, on the volume's grid; x becomes columns, y rows, z pages.
        volume: a picture.
    Raises:
        PipelineError: labels are not on the volume's grid, or the file can not be written.
    """
    check_grid(labels, volume)
    kind = np.uint8 if labels.max(initial=0) <= np.iinfo(np.uint8).max else np.uint16
    first, *others = (Image.fromarray(np.ascontiguousarray(page, dtype=kind)) for page in labels.T)
    content = io.BytesIO()
    first.save(content, "TIFF", save_all=True, append_images=others, compression=COMPRESSION)
    write_whole(path, content.getvalue())
