"""The outline of a mask as closed polygons, a hole joined to its outer contour by a cut of no width (keyhole).

A contour runs halfway between the centres of the voxels inside and outside, so that filling it by the voxels' centres
gives the mask back; it leaves out half a voxel of area, whatever its size. CLOSED_PLANAR knows no holes: two
contours one in the other are read as their union by some software and as their difference by other, a keyhole
by all alike. Source: DICOM PS3.3 C.8.8.6.3.
"""

from __future__ import annotations

import numpy as np
from skimage.measure import find_contours, label, regionprops


def keyhole_contours(mask: np.ndarray) -> list[np.ndarray]:
    """One polygon for each part of the mask whose voxels touch along edges.

    Args:
        mask: (rows, columns) of bool.
    Returns:
        Polygons, each (N, 2) of row and column in voxels, 0 the centre of the first voxel; not closed by a repeated
        first point. Corners only.
    """
    parts = regionprops(label(mask, connectivity=1))
    return [_keyhole(np.pad(part.image, 1)) + part.bbox[:2] - 1.0 for part in parts]


def _keyhole(part: np.ndarray) -> np.ndarray:
    """The outline of one part that does not touch the array's edge."""
    rings = [_corners(ring[:-1]) for ring in find_contours(part.astype(np.uint8), 0.5, fully_connected="low")]
    # The outer ring begins above all holes, and a hole is joined upwards: to the outer ring or to a hole joined before.
    first, *holes = sorted(rings, key=lambda ring: float(ring[:, 0].min()))
    outline = first
    for hole in holes:
        outline = _joined(outline, hole)
    return outline


def _joined(outline: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The outline, cut from where it is first hit above the topmost point of the hole, around the hole and back."""
    hole = np.roll(hole, -int(hole[:, 0].argmin()), axis=0)
    row, column = hole[0]
    start, end = outline, np.roll(outline, -1, axis=0)
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    run = end[:, 1] - start[:, 1]
    share = np.divide(column - start[:, 1], run, out=np.zeros_like(run), where=run != 0)
    hits = start[:, 0] + share * (end[:, 0] - start[:, 0])
    hits[(column < low) | (column > high) | (hits > row)] = -np.inf
    edge = int(hits.argmax())
    cut = np.array([[hits[edge], column]])
    return np.concatenate([outline[: edge + 1], cut, hole, hole[:1], cut, outline[edge + 1 :]])


def _corners(ring: np.ndarray) -> np.ndarray:
    """The ring without the points that lie on a straight line between their neighbours."""
    back, forth = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[back[:, 0] * forth[:, 1] != back[:, 1] * forth[:, 0]]
