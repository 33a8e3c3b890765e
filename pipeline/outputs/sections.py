"""Three anatomical sections of a scan as a radiologist sees them: patient right on the viewer's left, anterior and
superior up, a sagittal section facing left. Works on RAS axes; the source grid may be of any orientation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np

from ..volume import Volume

SHOWN_PIXELS = 2048
"""Of a larger picture every n-th row and column is shown."""
OBLIQUE_COSINE = 0.26
"""A direction gets a second letter from here on: 15 degrees."""


@dataclass(frozen=True)
class Section:
    """One plane, rows downwards and columns to the right as on the screen.

    Attributes:
        name: "axial", "coronal" or "sagittal"; empty for a picture.
        image: (rows, columns), source intensities.
        labels: (rows, columns), label values.
        pixel_mm: height and width of a pixel.
        edges: orientation letters at the left, right, top and bottom edge; empty for a picture.
        cross: row and column where the other two planes cut this one; None where there are no others.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    pixel_mm: tuple[float, float]
    edges: tuple[str, str, str, str]
    cross: tuple[int, int] | None

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width in mm."""
        rows, columns = self.image.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


@dataclass(frozen=True)
class Sections:
    """The three planes through one point, or the one that a picture or a single slice has.

    Attributes:
        planes: axial, coronal, sagittal; or the one.
        point_ras_mm: where they meet.
        page: "page 3 of 24" of a picture of several; else empty.
    """

    planes: tuple[Section, ...]
    point_ras_mm: tuple[float, float, float]
    page: str = ""


def cut_sections(labels: np.ndarray, volume: Volume, value: int | None = None) -> Sections:
    """The planes through the largest section of the labels along each axis; through the centre where there is none.

    Args:
        labels: (X, Y, Z), on the volume's grid.
        volume: the first channel is shown.
        value: the label whose largest sections are meant; all of them together where None.
    """
    to_ras = nib.orientations.io_orientation(volume.affine)
    image = nib.orientations.apply_orientation(volume.array[0], to_ras)
    labels = nib.orientations.apply_orientation(labels, to_ras)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(to_ras, volume.spatial_shape)
    point = largest_sections(labels > 0 if value is None else labels == value)
    right, anterior, superior = affine[:3, :3].T
    x, y, z = point
    planes = (
        _section("axial", image[:, :, z], labels[:, :, z], (right, anterior), (x, y)),
        _section("coronal", image[:, y, :], labels[:, y, :], (right, superior), (x, z)),
        _section("sagittal", image[x], labels[x], (anterior, superior), (y, z)),
    )
    r, a, s = (float(part) for part in affine[:3, :3] @ point + affine[:3, 3])
    pages = volume.spatial_shape[2]
    page = f"page {point[2] + 1} of {pages}" if volume.is_picture and pages > 1 else ""
    return Sections(_shown(planes, volume), (r, a, s), page)


def _shown(planes: Sequence[Section], volume: Volume) -> tuple[Section, ...]:
    """The page of a picture, the only slice of a scan that has one, or all planes."""
    if volume.is_picture:
        return (_thinned(replace(planes[0], name="", edges=("",) * 4, cross=None)),)
    whole = [plane for plane in planes if min(plane.image.shape) > 1]
    return (replace(whole[0], cross=None),) if len(whole) == 1 else tuple(planes)


def close_up(sections: Sections, value: int, margin_mm: float) -> Sections:
    """The same planes, cropped to squares of one size around a label: its greatest extent and a margin on both sides.

    A plane keeps its borders where the square reaches beyond them, and is left whole where it does not cut the label.
    """
    extents = [
        extent * pixel
        for section in sections.planes
        for extent, pixel in zip(np.ptp(_corners(section, value), axis=0), section.pixel_mm, strict=True)
    ]
    side_mm = max(extents) + 2 * margin_mm
    return replace(sections, planes=tuple(_cropped(section, value, side_mm) for section in sections.planes))


def largest_sections(mask: np.ndarray) -> tuple[int, int, int]:
    """Along each axis the index of the section with most voxels of the mask (of several the middle one).

    The middle of the grid where there are none.
    """
    by_z, by_y = mask.sum(axis=(0, 1)), mask.sum(axis=(0, 2))
    if not by_z.any():
        x, y, z = (size // 2 for size in mask.shape)
        return x, y, z
    x, y, z = (_middle(np.flatnonzero(area == area.max())) for area in (mask.sum(axis=(1, 2)), by_y, by_z))
    return x, y, z


def direction_letters(direction: np.ndarray) -> str:
    """Letters of a direction in RAS, the dominant one first, such as "A" or, where it is oblique, "AR"."""
    cosines = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(cosines), kind="stable")
    letters = [("RAS" if cosines[axis] > 0 else "LPI")[axis] for axis in order]
    keep = 1 + sum(abs(cosines[axis]) > OBLIQUE_COSINE for axis in order[1:])
    return "".join(letters[:keep])


def _thinned(section: Section) -> Section:
    step = -(-max(section.image.shape) // SHOWN_PIXELS)
    tall, wide = (step * length for length in section.pixel_mm)
    pick = (slice(None, None, step),) * 2
    return replace(section, image=section.image[pick], labels=section.labels[pick], pixel_mm=(tall, wide))


def _middle(indices: np.ndarray) -> int:
    return int(indices[len(indices) // 2])


def _corners(section: Section, value: int) -> np.ndarray:
    """(2, 2): first and one past the last row and column that hold the label; all zero where there is none."""
    mask = section.labels == value
    if not mask.any():
        return np.zeros((2, 2), int)
    held = [np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1)]
    return np.array([[each[0] for each in held], [each[-1] + 1 for each in held]])


def _cropped(section: Section, value: int, side_mm: float) -> Section:
    corners = _corners(section, value)
    if not corners.any():
        return section
    spans = []
    for (first, last), pixel in zip(corners.T, section.pixel_mm, strict=True):
        start = max(0, int(np.floor((first + last) / 2 - side_mm / pixel / 2)))
        spans.append(slice(start, start + int(np.ceil(side_mm / pixel))))
    rows, columns = spans
    cross = section.cross and (section.cross[0] - rows.start, section.cross[1] - columns.start)
    return replace(
        section,
        image=section.image[rows, columns],
        labels=section.labels[rows, columns],
        cross=cross,
    )


def _section(
    name: str,
    image: np.ndarray,
    labels: np.ndarray,
    axes: tuple[np.ndarray, np.ndarray],
    cross: tuple[int, int],
) -> Section:
    """Turn a plane whose axes grow to (right or anterior, anterior or superior) so that both decrease on the screen."""
    across, up = axes
    columns, rows = image.shape
    return Section(
        name=name,
        image=image.T[::-1, ::-1],
        labels=labels.T[::-1, ::-1],
        pixel_mm=(float(np.linalg.norm(up)), float(np.linalg.norm(across))),
        edges=(
            direction_letters(across),
            direction_letters(-across),
            direction_letters(up),
            direction_letters(-up),
        ),
        cross=(rows - 1 - cross[1], columns - 1 - cross[0]),
    )
