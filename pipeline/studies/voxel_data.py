"""The bytes of a volume file's voxels: their size checked against the file's before memory is allocated, then read."""

from __future__ import annotations

import bz2
import io
import zlib
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import StudyError
from ..volume import Notice
from .volume_file import allocate, read_errors

MAPPED_BYTES = 2**29
"""Voxels of as many bytes, stored as they are, are not read into memory, but mapped."""

_DEFLATE_RATIO = 1032
"""The most bytes that one byte of deflate can hold, so that a small file can not claim a large volume."""

_EXCESS = 2**20
"""More bytes than this after the voxels are refused; fewer are told."""

_ZLIB_OR_GZIP = 47
"""zlib's window bits for either header."""


@dataclass(frozen=True)
class StoredVoxels:
    """Where and how a file holds voxels, the first axis the fastest.

    Attributes:
        file: the file.
        shape: voxels along each axis.
        dtype: with the file's byte order.
        encoding: "raw", "gzip", "zlib" (or gzip) or "bzip2".
        start: where the bytes, compressed or not, start in the file.
        skip: bytes before the voxels after inflating; 0 for zlib.
    """

    file: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    encoding: str = "raw"
    start: int = 0
    skip: int = 0

    @property
    def size(self) -> int:
        """Bytes of voxels."""
        x, y, z = self.shape
        return x * y * z * self.dtype.itemsize

    @property
    def is_mappable(self) -> bool:
        """Whether there are many, and stored as they are."""
        return self.encoding == "raw" and self.size >= MAPPED_BYTES


def check_size(stored: StoredVoxels, case: str) -> None:
    """Accepts a header whose voxels the file can hold; no bound is known for bzip2.

    Raises:
        StudyError: the file is too short for them.
    """
    held = stored.file.stat().st_size - stored.start
    most = {"raw": held, "bzip2": stored.skip + stored.size}.get(stored.encoding, held * _DEFLATE_RATIO)
    if held < 0 or most < stored.skip + stored.size:
        raise StudyError(
            f"case {case}: the header claims {stored.size:,} bytes of voxels, the file is too short for them. "
            "Copy the file again.",
            "truncated",
        )


def read_voxels(stored: StoredVoxels, case: str) -> tuple[np.ndarray, tuple[Notice, ...]]:
    """The voxels in the file's order of memory, and a notice where the file goes on after them.

    Returns:
        (X, Y, Z), in the machine's byte order; mapped, in the file's, where they are many and not compressed.
    Raises:
        StudyError: the file is cut short, damaged, or much longer than its header says; or memory does not hold it.
    """
    array, excess = _mapped(stored, case) if stored.is_mappable else _loaded(stored, case)
    if excess > _EXCESS:
        raise StudyError(f"case {case}: the file goes on after the voxels that its header claims.", "excess-data")
    text = f"case {case}: {excess:,} bytes after the voxels were not read."
    return array, (Notice("excess-data", text),) if excess else ()


def _mapped(stored: StoredVoxels, case: str) -> tuple[np.ndarray, int]:
    offset = stored.start + stored.skip
    excess = stored.file.stat().st_size - offset - stored.size
    if excess < 0:
        raise _cut_short(stored.size + excess, stored.size, case)
    return np.memmap(stored.file, stored.dtype, "r", offset, stored.shape, order="F"), excess


def _loaded(stored: StoredVoxels, case: str) -> tuple[np.ndarray, int]:
    array = allocate(stored.size // stored.dtype.itemsize, stored.dtype, case)
    view = memoryview(array.view(np.uint8).data)
    try:
        with stored.file.open("rb") as file, closing(_inflated(file, stored)) as inflated:
            if inflated is file or stored.skip:
                inflated.seek(stored.skip + (stored.start if inflated is file else 0))
            filled = 0
            while filled < len(view) and (count := inflated.readinto(view[filled:])):  # type: ignore[attr-defined]
                filled += count
            excess = len(inflated.read(_EXCESS + 1))  # to the end, where gzip's checksum is compared
    except read_errors() as error:
        raise StudyError(
            f"case {case}: the voxels can not be read ({type(error).__name__}: the file is cut short or damaged). "
            "Copy the file again.",
            "truncated",
        ) from None
    if filled < len(view):
        raise _cut_short(filled, len(view), case)
    if not stored.dtype.isnative:
        array = array.byteswap(inplace=True).view(stored.dtype.newbyteorder())
    return array.reshape(stored.shape, order="F"), excess


def _inflated(file: IO[bytes], stored: StoredVoxels) -> IO[bytes]:
    """The file itself where nothing is compressed, else its inflated bytes from the voxels' start on."""
    if stored.encoding == "raw":
        return file
    file.seek(stored.start)
    if stored.encoding == "bzip2":
        return bz2.open(file)
    if stored.encoding == "zlib":
        return io.BufferedReader(_Zlib(file), 2**18)
    from isal import igzip  # reads a label map in a third of zlib's time

    inflated: IO[bytes] = igzip.open(file, "rb")
    return inflated


class _Zlib(io.RawIOBase):
    """The content of a zlib or gzip stream; what follows the stream is not read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._zlib, self._rest = file, zlib.decompressobj(_ZLIB_OR_GZIP), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._zlib.eof:
            packed = self._rest or self._file.read(2**16)
            data = self._zlib.decompress(packed, len(buffer))
            self._rest = self._zlib.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                return len(data)
            if not packed:
                raise EOFError
        return 0


def _cut_short(held: int, claimed: int, case: str) -> StudyError:
    return StudyError(f"case {case}: {held:,} of {claimed:,} bytes of voxels. Copy the file again.", "truncated")
