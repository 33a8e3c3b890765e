"""A picture such as an electron microscope makes of brain tissue, drawn from a seed: nobody's, and always the same."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from scipy.spatial import cKDTree

SIZE = 768
CELLS = 190
MITOCHONDRIA = 60
MEMBRANE_PIXELS = (2.0, 6.0)
"""Half the width of a membrane: cut across it is thin, cut along it is thick."""


def draw_cells(seed: int = 7, size: int = SIZE) -> np.ndarray:
    """Dark membranes around bright, grained cells with mitochondria, (size, size) of uint8, rows first.

    The cells are the Voronoi cells of random points, seen through a random displacement.
    """
    random = np.random.default_rng(seed)
    owner, to_border = _voronoi_cells(random, size)
    lowest, highest = MEMBRANE_PIXELS
    width = np.clip((lowest + highest) / 2 + 2 * _noise(random, size, 25), lowest, highest)
    membrane = 1 / (1 + np.exp(1.2 * (to_border - width)))
    picture = 0.66 + random.normal(0, 0.05, CELLS)[owner]
    picture += sum(share * _noise(random, size, sigma) for share, sigma in ((0.06, 1.0), (0.05, 2.5), (0.04, 8.0)))
    _add_mitochondria(picture, distance_transform_edt(membrane < 0.3), random)
    picture = gaussian_filter(picture - 0.52 * membrane, 0.8) + random.normal(0, 0.03, picture.shape)
    return (255 * np.clip(picture, 0, 1)).astype(np.uint8)


def _voronoi_cells(random: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pixel's cell, and about twice its distance to that cell's border in pixels."""
    points = random.uniform(0, size, (CELLS, 2))
    displacement = np.stack([14 * _noise(random, size, 18) + 2.5 * _noise(random, size, 6) for _ in range(2)], axis=-1)
    places = np.moveaxis(np.mgrid[:size, :size], 0, -1) + displacement
    distances, owners = cKDTree(points).query(places, k=2)
    return owners[..., 0], distances[..., 1] - distances[..., 0]


def _add_mitochondria(picture: np.ndarray, room: np.ndarray, random: np.random.Generator) -> None:
    """Dark ellipses with a rim and folds, where a cell has room for one."""
    size = len(picture)
    for row, column in random.integers(0, size, (MITOCHONDRIA, 2)):
        radius = min(room[row, column] - 5, random.uniform(8, 16))
        angle = random.uniform(0, np.pi)
        if radius < 8:
            continue
        reach = int(2 * radius)
        box = tuple(slice(max(at - reach, 0), at + reach) for at in (row, column))
        down, right = np.mgrid[box] - np.array([row, column])[:, None, None]
        along = right * np.cos(angle) + down * np.sin(angle)
        across = 1.5 * (down * np.cos(angle) - right * np.sin(angle))
        beyond = np.hypot(along, across) - radius
        part = picture[box]
        folds, rim = 0.16 + 0.05 * np.cos(1.4 * across), 0.18 * np.exp(-((beyond / 1.5) ** 2))
        height, width = part.shape
        part -= (folds / (1 + np.exp(1.2 * beyond)) + rim)[:height, :width]


def _noise(random: np.random.Generator, size: int, sigma: float) -> np.ndarray:
    """Smooth noise of standard deviation 1."""
    smooth = gaussian_filter(random.standard_normal((size, size)), sigma, mode="wrap")
    return smooth / smooth.std()
