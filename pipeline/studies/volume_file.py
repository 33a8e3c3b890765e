"""What the readers of volume files (NIfTI, NRRD, MetaImage) share: names, inflating, and checks of shape and values."""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import StudyError
from ..volume import Notice
from .geometry import SHEAR_DEGREES, shear_degrees

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

EXACT = 2**24
"""Whole numbers up to this are exact in float32."""

GZIP = b"\x1f\x8b"


def file_case(path: Path) -> str:
    """The name of a volume file's case: its stem, free of what a folder name can not hold."""
    name = path.name
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), path.suffix)
    return safe_name(name[: len(name) - len(suffix)]) or "volume"


def safe_name(text: str) -> str:
    """The text without what a folder's name can not hold."""
    return re.sub(r"[^\w.+=@ -]", "_", text).strip(" .")


def short_digest(content: bytes) -> str:
    """8 hex digits of the SHA-256, which tell names apart and give nothing away."""
    return hashlib.sha256(content).hexdigest()[:8]


def is_gzip(path: Path) -> bool:
    """Whether the file's content, whatever its name, is gzip."""
    with path.open("rb") as file:
        return file.read(2) == GZIP


def open_volume(path: Path) -> IO[bytes]:
    """A file's bytes, inflated where its content is gzip.

    What reading then raises of a damaged file is among `read_errors()`; at the end gzip's checksum is compared.
    """
    if not is_gzip(path):
        return path.open("rb")
    from isal import igzip  # reads a label map in a third of zlib's time

    file: IO[bytes] = igzip.open(path, "rb")
    return file


def read_errors() -> tuple[type[Exception], ...]:
    """What reading a damaged file raises."""
    from isal import igzip_lib

    isal_error: Any = igzip_lib.IsalError
    return OSError, EOFError, ValueError, OverflowError, zlib.error, isal_error


def check_shape(shape: Sequence[int], case: str) -> tuple[int, int, int]:
    """The three spatial sizes of a volume; axes of length one after the third are dropped.

    Raises:
        StudyError: it is not one 3D volume.
    """
    sizes = [int(size) for size in shape]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) != 3 or min(sizes) < 1:
        text = " x ".join(map(str, sizes)) or "no axes"
        raise StudyError(
            f"case {case}: an array of {text}, not one 3D volume. Write the volume that is meant to a file of its own.",
            "not-3d",
        )
    return sizes[0], sizes[1], sizes[2]


def check_voxels(shape: Sequence[int], max_voxels: int, case: str) -> int:
    """How many voxels there are.

    Raises:
        StudyError: more than are read.
    """
    voxels = int(np.prod([int(size) for size in shape], dtype=object))
    if voxels > max_voxels:
        raise StudyError(
            f"case {case}: {voxels:,} voxels claimed, at most {max_voxels:,} are read. Crop it.", "too-large"
        )
    return voxels


def allocate(voxels: int, dtype: np.dtype[Any], case: str) -> np.ndarray:
    """An empty array (voxels,).

    Raises:
        StudyError: the memory does not hold it.
    """
    try:
        return np.empty(voxels, dtype)
    except MemoryError:
        raise StudyError(
            f"case {case}: {voxels * dtype.itemsize / 2**30:.3g} GiB of voxels do not fit into memory. Crop it, or use "
            "a larger machine.",
            "too-large",
        ) from None


def shear_notices(affine: np.ndarray, case: str) -> tuple[Notice, ...]:
    """What to know of an affine (4, 4) whose axes meet at another angle than a right one."""
    degrees = shear_degrees(affine)
    text = f"case {case}: the axes lean by {degrees:.1f} degrees (gantry tilt); the affine carries it."
    return (Notice("sheared-slices", text),) if degrees > SHEAR_DEGREES else ()


def value_notices(array: np.ndarray, case: str) -> tuple[Notice, ...]:
    """What to know of the voxels' values: how many are no numbers, and whether float32 would round them.

    Args:
        array: of real numbers, at least one; its last axis the slowest in memory.
        case: the case, for messages.
    """
    planes = np.moveaxis(array, -1, 0)  # one after the other: a mapped array may be larger than memory
    if array.dtype.kind == "f":
        bad = sum(plane.size - int(np.count_nonzero(np.isfinite(plane))) for plane in planes)
        text = f"case {case}: {bad:,} of {array.size:,} voxels are NaN or infinite."
        return (Notice("not-finite", text),) if bad else ()
    if array.dtype.itemsize <= 2 or all(plane.min() >= -EXACT and plane.max() <= EXACT for plane in planes):
        return ()
    text = f"case {case}: holds integers beyond 2^24; they are kept, but a network is given float32, which rounds them."
    return (Notice("large-integers", text),)
