"""Where a NIfTI header puts its voxels: sform, qform or neither, in mm.

Source: nifti1.h, "3D image (volume) orientation and location in space", methods 1 to 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import GeometryError
from ..volume import Notice
from .geometry import check_affine, voxel_spacing
from .volume_file import shear_notices

_MM = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
"""Millimetres of xyzt_units' codes: unknown, metre, mm, micron."""
_UNITS = {1: "metres", 3: "microns"}
_QUATERNION_TOLERANCE = 1e-3
"""By how much b^2 + c^2 + d^2 may exceed 1, through rounding in the file."""


def nifti_affine(header: Any, shape: tuple[int, int, int], case: str) -> tuple[np.ndarray, tuple[Notice, ...]]:
    """Voxel index -> RAS mm, and what to tell of it: the sform where it is coded, else the qform.

    Args:
        header: nibabel's, of NIfTI-1 or 2.
        shape: voxels along each axis.
        case: the case, for messages.
    Raises:
        GeometryError: the affine is singular or not finite, or its unit is no length.
    """
    affine, notices = _chosen(header, shape, case)
    check_affine(affine, case)
    notices += shear_notices(affine, case)
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM:
        raise GeometryError(f"case {case}: xyzt_units names no length. Write the header again.", "bad-units")
    if unit in _UNITS:
        notices.append(Notice("units", f"case {case}: lengths are in {_UNITS[unit]}, converted to mm."))
    return np.diag([_MM[unit]] * 3 + [1.0]) @ affine, tuple(notices)


def quaternion_affine(header: Any) -> np.ndarray | None:
    """The qform, voxel index -> RAS in the header's unit; None where it holds no rotation or no voxel size.

    A qfac (pixdim[0]) below zero reverses the third axis; any other, the invalid 0 too, does not.

    Source: nifti1.h, method 2.
    """
    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    pixdim = np.asarray(header["pixdim"], float)
    offset = np.array([float(header[f"qoffset_{name}"]) for name in "xyz"])
    squares = b * b + c * c + d * d
    if not squares <= 1 + _QUATERNION_TOLERANCE or not np.all(pixdim[1:4] > 0):
        return None
    a = np.sqrt(max(1 - squares, 0.0))
    a, b, c, d = np.array([a, b, c, d]) / np.sqrt(a * a + squares)
    affine = np.eye(4)
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    affine[:3, :3] *= pixdim[1:4] * [1, 1, -1 if pixdim[0] < 0 else 1]
    affine[:3, 3] = offset
    return affine


def _chosen(header: Any, shape: tuple[int, int, int], case: str) -> tuple[np.ndarray, list[Notice]]:
    """The affine by the order of preference, in the header's unit."""
    coded = int(header["qform_code"]) > 0
    qform = quaternion_affine(header) if coded else None
    if int(header["sform_code"]) > 0:
        sform = np.eye(4)
        sform[:3] = [header["srow_x"], header["srow_y"], header["srow_z"]]
        check_affine(sform, case)
        return sform, _conflict(sform, qform, shape, case) if coded else []
    if coded:
        if qform is None:
            raise GeometryError(
                f"case {case}: the qform holds no rotation or no voxel size. Write its orientation again.", "bad-affine"
            )
        return qform, []
    lengths = np.asarray(header["pixdim"][1:4], float)
    if not np.all(lengths > 0):
        raise GeometryError(
            f"case {case}: no orientation is coded, and pixdim has no voxel size. Write its orientation again.",
            "bad-affine",
        )
    text = f"case {case}: neither sform nor qform is coded; left and right are a guess (x falls to the right)."
    return _guess(lengths, shape), [Notice("no-orientation", text)]


def _guess(lengths: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Analyze's old habit, x to the left, about the volume's centre; as nibabel does."""
    affine = np.diag([*(lengths * [-1, 1, 1]), 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _conflict(sform: np.ndarray, qform: np.ndarray | None, shape: tuple[int, int, int], case: str) -> list[Notice]:
    if qform is None:
        text = f"case {case}: the qform holds no rotation or no voxel size; the sform is taken."
        return [Notice("sform-qform", text)]
    corners = np.array([[x, y, z, 1] for x in (0, shape[0]) for y in (0, shape[1]) for z in (0, shape[2])], float)
    distance = float(np.max(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1)))
    if distance <= 0.1 * min(voxel_spacing(sform)):
        return []
    text = f"case {case}: sform and qform disagree by up to {distance:.2f} (in the header's unit); the sform is taken."
    return [Notice("sform-qform", text)]
