"""Volumes as NIfTI-1 files that say the geometry and nothing else. Compressed by isal, which is several times faster
than zlib at the same size (a label map of 31 MiB in 3 ms, not 31)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib

from .atomic import atomic
from .errors import PipelineError
from .shear import is_sheared

SCANNER_ANAT = 1
"""NIFTI_XFORM_SCANNER_ANAT: the affine leads to the scanner's own coordinates. Source: nifti1.h."""
LARGEST_AXIS = 2**15 - 1
"""Voxels along an axis: `dim` is a 16-bit integer. Source: nifti1.h."""
QFORM_COSINE = 1e-4
"""Largest cosine between axes that a qform may lose: 0.03 mm over 300 mm, where readers prefer it to the sform."""
COMPRESSION = 2
"""isal's level; 3 is slower and no smaller for label maps."""
CHUNK_BYTES = 2**22
STRIP = 8
"""Rows that are turned into file order together; measured, three times as fast as all of them."""


def write_nifti_volume(path: Path, array: np.ndarray, affine: np.ndarray, slope: float = 1.0) -> None:
    """Write a volume; it is read again before it takes its name. The same volume gives the same bytes.

    The sform is the affine. The qform is the same where it can say it: a quaternion has no shear, so a sheared grid
    (gantry tilt) has an sform only.

    Args:
        path: ends in .nii.gz or .nii.
        array: (X, Y, Z), real numbers of any type and in any memory order; a type that NIfTI or its common readers do
            not know (bool, half and extended precision) is widened or narrowed to the nearest.
        affine: (4, 4), voxel index -> RAS mm.
        slope: what the stored numbers are multiplied with to get values.
    Raises:
        PipelineError: an axis is too long for NIfTI-1, or the file can not be written.
    """
    dtype = stored_type(array.dtype)
    header = geometry_header(array.shape, dtype, affine)
    header.set_slope_inter(slope, 0)
    written = _Counted()

    def check(temporary: Path) -> None:
        if _read_again(temporary) != (header.binaryblock, written.crc):
            raise ValueError("other header or voxels")

    with atomic(path, needs_bytes=_size(header, array), check=check) as temporary, temporary.open("wb") as file:
        _write(file, header, array, written, compressed=path.name.endswith(".gz"))


def nifti_bytes(array: np.ndarray, affine: np.ndarray) -> bytes:
    """What `write_nifti_volume` writes to a .nii.gz, in memory."""
    file = io.BytesIO()
    header = geometry_header(array.shape, stored_type(array.dtype), affine)
    _write(file, header, array, _Counted(), compressed=True)
    return file.getvalue()


def geometry_header(shape: tuple[int, ...], dtype: np.dtype, affine: np.ndarray) -> nib.Nifti1Header:
    """A header of a single file with this geometry in mm, no scaling of values, and nothing else.

    Args:
        shape: (X, Y, Z) or (X, Y, Z, C).
        dtype: one that `stored_type` returns.
        affine: (4, 4), voxel index -> RAS mm.
    Raises:
        PipelineError: an axis is too long.
    """
    if max(shape) > LARGEST_AXIS:
        raise PipelineError(
            f"{' x '.join(map(str, shape))} voxels: NIfTI-1 holds {LARGEST_AXIS} along an axis. Crop or resample first."
        )
    header = nib.Nifti1Header(endianness="<")
    header.set_data_shape(shape)
    header.set_data_dtype(dtype)
    header.set_xyzt_units(xyz="mm")
    header.set_sform(affine, code=SCANNER_ANAT)
    qform_code = 0 if is_sheared(affine, QFORM_COSINE) else SCANNER_ANAT
    header.set_qform(affine, code=qform_code)  # says the edges of a voxel in any case
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.single_vox_offset
    return header


def stored_type(dtype: np.dtype) -> np.dtype:
    """The little-endian type that voxels of this type are stored in.

    Raises:
        TypeError: they are no real numbers.
    """
    if dtype.kind not in "biuf":
        raise TypeError(f"voxels of type {dtype} are no real numbers")
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    size = min(max(dtype.itemsize, 4), 8) if dtype.kind == "f" else dtype.itemsize
    return np.dtype(f"<{dtype.kind}{size}")


class _Counted:
    """CRC-32 of the voxels so far; the one that gzip itself keeps, and fast enough to cost nothing."""

    crc = 0

    def add(self, chunk: bytes | memoryview) -> None:
        self.crc = isal_zlib.crc32(chunk, self.crc)


def _write(file: BinaryIO, header: nib.Nifti1Header, array: np.ndarray, written: _Counted, *, compressed: bool) -> None:
    """Header and voxels into an open file. Neither a time nor a name goes into the gzip header."""
    target = (
        igzip.IGzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=file, mtime=0)
        if compressed
        else file
    )
    target.write(header.binaryblock)
    target.write(bytes(int(header["vox_offset"]) - len(header.binaryblock)))  # no extensions
    for chunk in _chunks(array, header.get_data_dtype()):
        written.add(chunk)
        target.write(chunk)
    if compressed:
        target.close()


def _chunks(array: np.ndarray, dtype: np.dtype) -> Iterator[memoryview]:
    """The voxels' bytes, x fastest, a few planes at a time; copied only where they do not lie so already."""
    if not array.size:
        return
    planes = max(1, CHUNK_BYTES * array.shape[-1] // (array.size * dtype.itemsize))
    for first in range(0, array.shape[-1], planes):
        yield _in_file_order(array[..., first : first + planes], dtype).data.cast("B")


def _in_file_order(part: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The part's transpose, contiguous; where it must be copied, strip by strip, so that the cache holds a strip."""
    turned = part.T
    if turned.flags.c_contiguous and turned.dtype == dtype:
        return turned
    copy = np.empty(turned.shape, dtype)
    for x in range(0, turned.shape[-1], STRIP):
        copy[..., x : x + STRIP] = turned[..., x : x + STRIP]
    return copy


def _read_again(path: Path) -> tuple[bytes, int]:
    """Header and the voxels' CRC-32 as they lie in the file; its gzip's own CRC and length are checked on the way."""
    seen = _Counted()
    opened = igzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")
    with opened as file:
        header = nib.Nifti1Header(file.read(nib.Nifti1Header.template_dtype.itemsize), endianness="<")
        file.read(int(header["vox_offset"]) - len(header.binaryblock))
        left = _voxel_bytes(header)
        while chunk := file.read(CHUNK_BYTES):
            seen.add(chunk)
            left -= len(chunk)
    if left:
        raise ValueError("too few or too many voxels")
    return header.binaryblock, seen.crc


def _voxel_bytes(header: nib.Nifti1Header) -> int:
    return int(np.prod(header.get_data_shape(), dtype=np.int64)) * header.get_data_dtype().itemsize


def _size(header: nib.Nifti1Header, array: np.ndarray) -> int:
    """Bytes of the file, uncompressed; compressed it is smaller."""
    return int(header["vox_offset"]) + array.size * header.get_data_dtype().itemsize
