"""What kind of archive a file is, told by its content."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from .volume_file import GZIP, is_gzip

BLOCK = 512
"""Bytes of a tar header, and as many as tell a file's kind."""

UNSUPPORTED = ("7z", "RAR")

INFLATING = (OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error, lzma.LZMAError)
"""What the standard library raises where compressed bytes are damaged."""

_OPENERS: dict[str, Any] = {"tar": open, "tar.gz": gzip.open, "tar.bz2": bz2.open, "tar.xz": lzma.open}
_COMPRESSED = {GZIP: "tar.gz", b"BZh": "tar.bz2", b"\xfd7zXZ\0": "tar.xz"}
_OTHERS = {b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR"}
_DOCUMENTS = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"mimetype", b"META-INF/")
"""First members of office files, e-books and Java programs: zip files, but no archives of scans."""


def archive_kind(start: bytes, path: Path) -> str | None:
    """ "zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "7z" or "RAR"; None where a file is no archive.

    A compressed file counts where a tar is inside, so that a gzipped NIfTI file is no archive; office documents, which
    are zip files, do not count.

    Args:
        start: the first 512 bytes or more; where the file is gzip, either as they are or inflated.
        path: the file; read only where the start leaves it open.
    """
    if start.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        return None if start[30:].startswith(_DOCUMENTS) else "zip"
    for magic, kind in _OTHERS.items():
        if start.startswith(magic):
            return kind
    if _is_tar(start):
        return "tar.gz" if is_gzip(path) else "tar"
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            return kind if _is_tar(_inflated_start(path, kind)) else None
    if path.name.lower().endswith(".zip") and _has_directory(path):
        return "zip"
    return None


def open_inflated(path: Path, kind: str) -> IO[bytes]:
    """The content of a tar of any kind, to read it from the start."""
    file: IO[bytes] = _OPENERS[kind](path, "rb")
    return file


def _is_tar(start: bytes) -> bool:
    """Whether a file begins with a tar header, by its checksum: old tars have no magic number.

    Source: POSIX pax, ustar: the sum of the header's bytes, those of the checksum taken for blanks.
    """
    header = start[:BLOCK]
    if len(header) < BLOCK or header[0] == 0:
        return False
    try:
        told = int(header[148:156].strip(b" \0").decode("ascii") or "x", 8)
    except ValueError:
        return False
    return told == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _inflated_start(path: Path, kind: str) -> bytes:
    try:
        with open_inflated(path, kind) as file:
            return file.read(BLOCK)
    except INFLATING:
        return b""


def _has_directory(path: Path) -> bool:
    """Whether a file ends like a zip, though it begins with something else, such as a program that unpacks it."""
    try:
        return zipfile.is_zipfile(path)
    except OSError:
        return False
