"""Where voxels lie in the patient: pure functions between DICOM's LPS mm and the affines of `Volume` (RAS mm).

Array axes are (column index x, row index y, slice index z); an affine is 4x4, voxel index -> mm.
Names of cases appear in messages only; nothing here reads a file.
"""

from __future__ import annotations

import numpy as np

from ..errors import GeometryError
from ..shear import largest_cosine

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Left-posterior-superior to right-anterior-superior: x and y change sign. Its own inverse."""

COSINE_TOLERANCE = 1e-3
"""How far direction cosines may be from unit length and right angles; files hold as few as 4 digits."""

POSITION_TOLERANCE_MM = 0.02
"""Rounding of positions that files hold with 2 digits, as lateral and axial error."""

POSITION_TOLERANCE = 0.05
"""The same as part of a slice step (or of a pixel, in the plane), where that is more."""

SHEAR_DEGREES = 0.1
"""Axes further than this from a right angle are called sheared; rounding of headers stays below."""

OBLIQUE_DEGREES = 1.0
"""A stack whose normal is further than this from the nearest patient axis is called oblique."""


def lps_to_ras(affine: np.ndarray) -> np.ndarray:
    """The same affine with its millimetres in RAS instead of LPS.

    Args:
        affine: (4, 4), voxel index -> LPS mm.
    """
    return LPS_TO_RAS @ affine


def ras_to_lps(affine: np.ndarray) -> np.ndarray:
    """The same affine with its millimetres in LPS instead of RAS.

    Args:
        affine: (4, 4), voxel index -> RAS mm.
    """
    return LPS_TO_RAS @ affine


def voxel_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Edge lengths of a voxel along each array axis, in mm; oblique and sheared affines too.

    Args:
        affine: (4, 4), voxel index -> mm.
    Source: column norms of the 3x3 part.
    """
    x, y, z = (float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))
    return x, y, z


def slice_normal(orientation: np.ndarray, name: str) -> np.ndarray:
    """The unit vector along which slices are ordered, in LPS.

    Args:
        orientation: (6,), ImageOrientationPatient (0020,0037): cosines along a row, then along a column.
        name: the case, for messages.
    Returns:
        (3,), row cross column.
    Raises:
        GeometryError: the two directions are not unit vectors at right angles.
    Source: DICOM PS3.3 C.7.6.2.1.1.
    """
    row, column = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if not np.all(np.isfinite(orientation)) or any(abs(length - 1) > COSINE_TOLERANCE for length in lengths):
        raise GeometryError(
            f"series {name}: ImageOrientationPatient holds directions of length {lengths[0]:.4g} and {lengths[1]:.4g}, "
            "not 1. Export the series again.",
            "bad-orientation",
        )
    if abs(float(row @ column)) > COSINE_TOLERANCE:
        degrees = np.degrees(np.arccos(np.clip(row @ column, -1, 1)))
        raise GeometryError(
            f"series {name}: ImageOrientationPatient has rows and columns at {degrees:.2f} degrees, not 90. "
            "Export the series again.",
            "bad-orientation",
        )
    normal = np.cross(row, column)
    return normal / np.linalg.norm(normal)


def plane_affine(
    orientation: np.ndarray, pixel_spacing: np.ndarray, origin: np.ndarray, step: np.ndarray
) -> np.ndarray:
    """The affine of parallel slices, from the first one's place and the way to the next.

    Args:
        orientation: (6,), ImageOrientationPatient.
        pixel_spacing: (2,), PixelSpacing in mm: between rows, then between columns.
        origin: (3,), the first slice's ImagePositionPatient in LPS mm.
        step: (3,), from one slice's position to the next one's in mm.
    Returns:
        (4, 4), (column, row, slice) index -> LPS mm.
    """
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * pixel_spacing[1]
    affine[:3, 1] = orientation[3:] * pixel_spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = origin
    return affine


def lateral_shift_mm(affine: np.ndarray) -> float:
    """How far a slice lies sideways of the one before it; 0 where the third axis is at right angles to the others.

    Args:
        affine: (4, 4), voxel index -> mm.
    """
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    step = affine[:3, 2]
    return float(np.linalg.norm(step - (step @ normal) * normal))


def shear_degrees(affine: np.ndarray) -> float:
    """How far any two array axes are from a right angle, in degrees; 0 for a grid of boxes.

    Args:
        affine: (4, 4), voxel index -> mm.
    """
    return float(np.degrees(np.arcsin(np.clip(largest_cosine(affine), 0, 1))))


def check_affine(affine: np.ndarray, name: str) -> None:
    """Accepts an affine that places every voxel somewhere of its own.

    Args:
        affine: (4, 4), voxel index -> mm.
        name: the case, for messages.
    Raises:
        GeometryError: it holds NaN or infinity, or maps the volume onto a plane.
    """
    if not np.all(np.isfinite(affine)):
        raise GeometryError(
            f"case {name}: the affine holds NaN or infinity. Write its orientation again.", "bad-affine"
        )
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    volume = abs(float(np.linalg.det(affine[:3, :3])))
    if np.min(lengths) <= 0 or volume < 1e-4 * float(np.prod(lengths)):
        x, y, z = lengths
        raise GeometryError(
            f"case {name}: the affine is singular (axes of {x:.3g}, {y:.3g}, {z:.3g} mm span no volume). "
            "Write its orientation again.",
            "singular-affine",
        )


def plane_name(affine: np.ndarray) -> str:
    """The plane that slices (x, y) of the array lie in: "axial", "sagittal" or "coronal", "oblique …" beyond 1 degree.

    Args:
        affine: (4, 4), voxel index -> RAS or LPS mm.
    """
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    cosines = np.abs(normal) / np.linalg.norm(normal)
    axis = int(np.argmax(cosines))
    plane = ("sagittal", "coronal", "axial")[axis]
    degrees = float(np.degrees(np.arccos(min(1.0, float(cosines[axis])))))
    return f"oblique {plane}" if degrees > OBLIQUE_DEGREES else plane
