"""Which volume files are label maps of others: their names say so, and they lie on the grid of a scan beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .study import Series

_WORDS = re.compile(
    r"(?<![a-z])(d?seg|segmentations?|labels?|masks?|labelmap|gt|ground_?truth|rois?|pred|prediction)(?![a-z])"
)


def mark_label_maps(volumes: Sequence[Series]) -> list[Series]:
    """The volume files, those that are label maps with the case that they belong to.

    A name alone decides nothing: without a scan of the same grid in the same folder, whose name is no label map's, the
    file is taken for a scan.
    """
    scans = [one for one in volumes if not one.refused and not _is_named_label_map(one)]
    return [replace(one, labels_of=_scan_of(one, scans)) if _is_named_label_map(one) else one for one in volumes]


def _is_named_label_map(series: Series) -> bool:
    return _WORDS.search(series.case.lower()) is not None


def _scan_of(labels: Series, scans: Sequence[Series]) -> str | None:
    return next((scan.case for scan in scans if _is_beside(labels, scan) and _is_same_grid(labels, scan)), None)


def _is_beside(one: Series, other: Series) -> bool:
    return one.files[0].parent == other.files[0].parent


def _is_same_grid(one: Series, other: Series) -> bool:
    if one.affine is None or other.affine is None or one.shape != other.shape:
        return False
    return bool(np.allclose(one.affine, other.affine, rtol=0, atol=1e-3 * min(other.spacing or (1.0,))))
