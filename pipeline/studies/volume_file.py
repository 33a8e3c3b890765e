"""What the readers of volume files (NIfTI, NRRD, MetaImage) share: names, and checks of shape and values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import StudyError
from ..volume import Notice

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")


def file_case(path: Path) -> str:
    """The name of a volume file's case: its stem, free of what a folder name can not hold."""
    name = path.name
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), path.suffix)
    stem = re.sub(r"[^\w.+=@ -]", "_", name[: len(name) - len(suffix)]).strip(" .")
    return stem or "volume"


def is_gzip(path: Path) -> bool:
    """Whether the file's content, whatever its name, is gzip."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


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


def check_finite(array: np.ndarray, case: str) -> None:
    """Accepts values that can be normalised.

    Raises:
        StudyError: some are NaN or infinite; the message counts them.
    """
    if array.dtype.kind in "iu":
        return
    planes = np.moveaxis(array, -1, 0)  # one after the other: a mapped array may be larger than memory
    bad = sum(plane.size - int(np.count_nonzero(np.isfinite(plane))) for plane in planes)
    if bad:
        raise StudyError(
            f"case {case}: {bad:,} of {array.size:,} voxels are NaN or infinite. Replace them (by 0, say) first.",
            "not-finite",
        )


def rounding(stored: np.ndarray, case: str) -> tuple[Notice, ...]:
    """A notice where integers are too large for float32 to hold each of them.

    Args:
        stored: the voxels before they became float32, at least one.
        case: the case, for the message.
    """
    if (
        stored.dtype.kind not in "iu"
        or stored.dtype.itemsize <= 2
        or max(-int(stored.min()), int(stored.max())) <= 2**24
    ):
        return ()
    return (Notice("rounded-integers", f"case {case}: integers above 2^24 were rounded to float32."),)
