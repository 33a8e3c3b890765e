"""Which intensities are shown as black and as white."""

from __future__ import annotations

import numpy as np

CT_WINDOW_HU = (-160.0, 240.0)
"""Soft tissue: level 40, width 400."""
PERCENTILES = (1.0, 99.0)


def choose_window(values: np.ndarray, modality: str | None, padding: float | None = None) -> tuple[float, float]:
    """The intensities shown as black and white: soft tissue for CT, else percentiles of the values.

    Args:
        values: intensities of what is shown, any shape.
        modality: "CT", or any other, or None.
        padding: what voxels outside the scanned field hold; they and what is no number are left out.
    Returns:
        Low and high, the first smaller; 0 and 1 where there are no values.
    """
    if modality == "CT":
        return CT_WINDOW_HU
    known = values[np.isfinite(values)]
    if padding is not None:
        known = known[known != padding]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(value) for value in np.percentile(known, PERCENTILES))
    return (low, high) if high > low else (low, low + 1.0)
