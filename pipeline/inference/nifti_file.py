"""From NIfTI file to NIfTI file, both larger than memory: windows are read from the one, boxes written to the other.

The input stays in its file, which must be uncompressed to be read in pieces; the output grows in a file beside its
name and takes the name when it is whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from math import prod
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from torch import Tensor

from ..atomic import atomic
from ..errors import StudyError
from ..nifti_writer import SCANNER_ANAT
from ..progress import Report, silent
from ..shear import is_sheared
from .facts import InferenceFacts
from .runner import Network
from .scan import ArrayScan
from .streaming import Devices, StreamingInferer

Prepare = Callable[[Tensor], Tensor]


def stream_nifti(
    source: Path,
    target: Path,
    network: Network,
    inferer: StreamingInferer,
    *,
    prepare: Prepare | None = None,
    device: Devices = "cpu",
    report: Report = silent,
) -> InferenceFacts:
    """Run a network over a NIfTI file and write what `inferer.output` says as a NIfTI file on the same grid.

    Args:
        source: an uncompressed .nii of three dimensions; its slope and intercept are applied.
        target: a .nii, uncompressed; one channel is a volume of three dimensions, several are its fourth.
        network: on the (first) device.
        inferer: says windows, blending and output.
        prepare: preprocessing that treats every voxel by itself, (1, *region) float32 -> (C, *region).
        device: that windows are computed on.
        report: told how far it is.
    Raises:
        StudyError: the source is no NIfTI file that can be read in pieces.
        PipelineError: the target can not be written, or there is no room for one window's pass.
    """
    image = _open(source)
    scan = _scan(image, source, prepare)
    with atomic(target) as temporary:

        def make(shape: tuple[int, ...], kind: torch.dtype) -> np.ndarray:
            return _mapped(temporary, image, shape, kind)

        return inferer.stream(scan, network, make, device=device, report=report)


def _open(source: Path) -> nib.Nifti1Image:
    """The image, no voxel read."""
    try:
        image = nib.load(source)
    except (OSError, ImageFileError) as error:
        raise StudyError(f"{source}: is no readable NIfTI file ({type(error).__name__}). Convert it.") from None
    if not isinstance(image, nib.Nifti1Image) or image.ndim != 3 or image.get_data_dtype().kind not in "iuf":
        raise StudyError(
            f"{source}: {type(image).__name__} of shape {image.shape} and type {image.get_data_dtype()}; this reads "
            "NIfTI volumes of three dimensions and real numbers. Convert it."
        )
    return image


def _scan(image: nib.Nifti1Image, source: Path, prepare: Prepare | None) -> ArrayScan:
    try:
        stored = image.dataobj.get_unscaled()
    except (OSError, ValueError) as error:
        raise StudyError(f"{source}: the voxels can not be read ({type(error).__name__}). Copy it again.") from None
    if not isinstance(stored, np.memmap):
        raise StudyError(
            f"{source}: is compressed, which can only be read as a whole. Decompress it (gunzip), or use "
            "`scanloom predict`, which reads it into memory."
        )
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)

    def scaled(region: Tensor) -> Tensor:
        if (slope, intercept) != (1.0, 0.0):
            region = region.mul_(slope).add_(intercept)
        return region if prepare is None else prepare(region)

    channels = len(scaled(torch.zeros(1, 1, 1, 1)))
    return ArrayScan(stored[np.newaxis], scaled, channels)


def _mapped(path: Path, source: nib.Nifti1Image, shape: tuple[int, ...], kind: torch.dtype) -> np.ndarray:
    """(K, *spatial): the voxels of a new file, whose header has the source's geometry and nothing else of it."""
    channels, *spatial = shape
    dtype = torch.empty(0, dtype=kind).numpy().dtype
    header = type(source.header)()
    header.set_data_shape((*spatial, channels) if channels > 1 else tuple(spatial))
    header.set_data_dtype(dtype)
    header.set_xyzt_units(*source.header.get_xyzt_units())
    code = int(source.header["sform_code"]) or SCANNER_ANAT
    header.set_sform(source.affine, code)
    header.set_qform(source.affine, 0 if is_sheared(source.affine) else code)  # says the edges of a voxel in any case
    header.set_slope_inter(1, 0)
    with path.open("wb") as file:
        header.write_to(file)
        file.flush()
        _allocate(file.fileno(), int(header["vox_offset"]) + prod(shape) * dtype.itemsize)
    voxels = np.memmap(path, dtype, "r+", int(header["vox_offset"]), (*spatial, channels), order="F")
    return np.moveaxis(voxels, -1, 0)


def _allocate(descriptor: int, size: int) -> None:
    """Give the file its whole size on the disk now: writing to a mapped file on a full one would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)
