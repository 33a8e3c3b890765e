"""Surfaces of masks as triangles in space, and the distances between two of them, in mm.

A surface is what marching cubes puts between the voxels (in a plane: marching squares, and lines for triangles), so it
lies where a mask ends and not on the centres of its outermost voxels, each part of it counts by its area, a mask of one
voxel has one, and any grid will do: coarse in one direction, oblique, sheared. What lies outside the grid is
background: a mask that touches the image's edge is closed there. Distances go from the middle of each triangle to the
nearest point of the other surface.

Why not the usual distances between border voxels: their errors are as large as the voxels, and so larger than what good
networks differ by. Source: Podobnik and Vrtovec 2024, arXiv:2410.02630; Nikolov et al. 2021, J Med Internet Res
23(7):e26151 for the weights and the surface Dice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

NEAREST = 10
"""Triangles that are looked at for each distance, by their middles: the nearest point is on one of them. On voxels ten
times as long as wide this misses 0.0003 mm on average, on cubes nothing."""
ROUNDING_MM = 1e-4
"""Headers keep spacings as single-precision numbers: a distance this little beyond a tolerance is within it."""


@dataclass(frozen=True)
class Surface:
    """The surface of a mask.

    Attributes:
        corners_mm: (N, 3, 3), the corners of its triangles; in a plane, (N, 2, 2 or 3), the ends of its lines.
    """

    corners_mm: np.ndarray

    @property
    def centers_mm(self) -> np.ndarray:
        """(N, 2 or 3), the middles of the triangles."""
        return np.asarray(self.corners_mm.mean(axis=1))

    @property
    def areas(self) -> np.ndarray:
        """(N,), of the triangles in mm2; in a plane the lengths of the lines in mm."""
        sides = self.corners_mm[:, 1:] - self.corners_mm[:, :1]
        if sides.shape[1] == 1:
            return np.asarray(np.linalg.norm(sides[:, 0], axis=1))
        return np.asarray(np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1) / 2)


@dataclass(frozen=True)
class SurfaceDistances:
    """How far each triangle of two surfaces is from the other surface, both ways.

    Attributes:
        distances_mm: of the triangles of the one, then of the other.
        areas: of the same triangles.
    """

    distances_mm: tuple[np.ndarray, np.ndarray]
    areas: tuple[np.ndarray, np.ndarray]

    def percentile_mm(self, percent: float) -> float:
        """The Hausdorff distance, of the given percentage of each surface instead of all of it.

        The distance that this percentage of a surface's area does not exceed, and of the two ways the larger.
        """
        return max(map(_percentile, self.distances_mm, self.areas, (percent, percent)))

    def mean_mm(self) -> float:
        """The average symmetric surface distance: the mean over the area of both surfaces."""
        return float(np.average(np.concatenate(self.distances_mm), weights=np.concatenate(self.areas)))

    def share_within(self, tolerance_mm: float) -> float:
        """Surface Dice: the share of both surfaces' area that is not farther than this from the other surface."""
        within = np.concatenate(self.distances_mm) <= tolerance_mm + ROUNDING_MM
        return float(np.average(within, weights=np.concatenate(self.areas)))


def surface_of(mask: np.ndarray, axes_mm: np.ndarray) -> Surface:
    """The surface of a mask that is not empty.

    Args:
        mask: (X, Y, Z) or (X, Y), booleans.
        axes_mm: (3, 3) or (2, 2 or 3), the step of each array axis in mm, as rows; they may lie askew.
    """
    padded = np.pad(mask, 1).astype(np.float32)
    corners = _lines(padded) if mask.ndim == 2 else _triangles(padded)
    return Surface((corners - 1) @ np.asarray(axes_mm, dtype=float))


def surface_distances(one: Surface, other: Surface) -> SurfaceDistances:
    """Euclidean distances between two surfaces."""
    there, back = _distances(one.centers_mm, other), _distances(other.centers_mm, one)
    return SurfaceDistances((there, back), (one.areas, other.areas))


def _triangles(mask: np.ndarray) -> np.ndarray:
    """(N, 3, 3), in voxels."""
    from skimage.measure import marching_cubes

    points, faces, _, _ = marching_cubes(mask, 0.5)
    return np.asarray(points[faces])


def _lines(mask: np.ndarray) -> np.ndarray:
    """(N, 2, 2), in pixels."""
    from skimage.measure import find_contours

    outlines = find_contours(mask, 0.5)
    return np.concatenate([np.stack([outline[:-1], outline[1:]], axis=1) for outline in outlines])


def _distances(points: np.ndarray, surface: Surface) -> np.ndarray:
    """(N,), from each point to the nearest point of the surface."""
    from scipy.spatial import cKDTree

    ranks = range(1, min(NEAREST, len(surface.corners_mm)) + 1)
    distances, nearest = cKDTree(surface.centers_mm).query(points, k=[*ranks])
    apart = distances[:, 0] > 0  # the others lie on the middle of one of its triangles
    result = np.zeros(len(points))
    result[apart] = reduce(
        np.minimum, (_to_parts(points[apart], surface.corners_mm[indices]) for indices in nearest[apart].T)
    )
    return result


def _to_parts(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """(N,), from each point to its own triangle: to the plane where it lies above the triangle, else to a side.

    In a plane, to its own line.
    """
    first, second, *third = corners.transpose(1, 0, 2)
    if not third:
        return _to_lines(points, first, second)
    normals = np.cross(second - first, third[0] - first)
    heights = _dot(points - first, normals) / np.sqrt(_dot(normals, normals))
    sides = ((first, second), (second, third[0]), (third[0], first))
    above = np.logical_and.reduce([_dot(np.cross(end - start, points - start), normals) >= 0 for start, end in sides])
    return np.where(above, np.abs(heights), np.minimum.reduce([_to_lines(points, *side) for side in sides]))


def _to_lines(points: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(N,), from each point to its own line."""
    along, away = ends - starts, points - starts
    share = np.clip(_dot(away, along) / _dot(along, along), 0, 1)
    gap = away - share[:, np.newaxis] * along
    return np.asarray(np.sqrt(_dot(gap, gap)))


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("nd,nd->n", one, other))


def _percentile(distances: np.ndarray, areas: np.ndarray, percent: float) -> float:
    order = np.argsort(distances)
    covered = np.cumsum(areas[order])
    reached = np.searchsorted(covered, covered[-1] * (percent / 100 - 1e-9))
    return float(distances[order][reached])
