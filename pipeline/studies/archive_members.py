"""The members of zip and tar archives, one after the other, each checked before a byte of it is passed on."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import StudyError
from .archive_kind import INFLATING, UNSUPPORTED, open_inflated
from .archive_limits import Budget

_CHUNK = 2**18
_DIRECTORY_BYTES_A_MEMBER = 2**10
"""The most that a zip's directory may hold a member on average: the whole directory is read at once."""
_TAR_HEADER_BYTES = 2**20
"""The most that may lie between two members of a tar: pax headers, long names; each is read at once."""
_ENCRYPTED = 0x1 | 0x40 | 0x2000
"""Flag bits of a zip member; APPNOTE 4.4.4: encrypted, strongly encrypted, its directory entry masked."""
_AES = 99
_UNSUPPORTED = "archive-unsupported"
_LINKS_AND_DEVICES = (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)
_DAMAGED = (
    *INFLATING,
    zipfile.BadZipFile,
    tarfile.TarError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    KeyError,
    IndexError,
)


@dataclass(frozen=True)
class Member:
    """A regular file of an archive.

    Attributes:
        name: as the archive has it, checked not to lead out of it; may hold anything, so it is never a path or shown.
        chunks: its bytes, counted.
    """

    name: str
    chunks: Iterator[bytes]


def members(path: Path, kind: str, budget: Budget) -> Iterator[Member]:
    """The regular files of an archive in the order of its directory (zip) or of the file (tar).

    Args:
        path: the archive.
        kind: as `archive_kind` tells it.
        budget: is charged for every entry and every inflated byte.
    Raises:
        StudyError: it is damaged, encrypted or of a kind that is not read; holds a link, a device or a name that leads
            out of the folder; or exceeds the budget.
    """
    if kind in UNSUPPORTED:
        raise StudyError(f"{budget.where} is of a kind that is not read. Unpack it and pass the folder.", _UNSUPPORTED)
    entries = _zip_members(path, budget) if kind == "zip" else _tar_members(path, kind, budget)
    while True:
        try:
            member = next(entries, None)
        except _DAMAGED:
            raise _damaged(budget) from None
        if member is None:
            return
        yield Member(member.name, _reported(member.chunks, budget))


def _reported(chunks: Iterator[bytes], budget: Budget) -> Iterator[bytes]:
    """The chunks, with our own error where they are damaged: the library's name the member."""
    try:
        yield from chunks
    except _DAMAGED:
        raise _damaged(budget) from None


def _zip_members(path: Path, budget: Budget) -> Iterator[Member]:
    with _ZipFile(path, budget) as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        budget.add_members(len(entries))
        for entry in entries:
            _check_name(entry.filename, budget)
            if stat.S_IFMT(entry.external_attr >> 16) in _LINKS_AND_DEVICES:
                raise _unsafe("a link or a device", budget)
        budget.check(budget.inflated + sum(entry.file_size for entry in entries))
        for entry in entries:
            if not entry.is_dir():
                yield Member(entry.filename, _inflate(archive, entry, budget))


class _ZipFile(io.BufferedReader):
    """A file that refuses to be read in large pieces, as `ZipFile` reads a directory, whatever its length."""

    def __init__(self, path: Path, budget: Budget) -> None:
        super().__init__(io.FileIO(path))
        self._budget = budget

    def read(self, size: int | None = -1, /) -> bytes:
        budget = self._budget
        if size is not None and size > max(_DIRECTORY_BYTES_A_MEMBER * budget.limits.members, 4 * _CHUNK):
            budget.add_members(budget.limits.members + 1)
        return super().read(size)


def _inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, budget: Budget) -> Iterator[bytes]:
    if entry.flag_bits & _ENCRYPTED or entry.compress_type == _AES:
        raise StudyError(
            f"{budget.where} is encrypted. Unpack it with its password and pass the folder.", "archive-encrypted"
        )
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # Python inflates bzip2 and LZMA members without a bound on memory (ZipExtFile._read1)
        raise StudyError(
            f"{budget.where} has members compressed by method {entry.compress_type}, only deflate is read. "
            "Unpack it and pass the folder.",
            _UNSUPPORTED,
        )
    with archive.open(entry) as file:
        for chunk in _chunks(file):
            budget.add_bytes(len(chunk))
            yield chunk


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _tar_members(path: Path, kind: str, budget: Budget) -> Iterator[Member]:
    with open_inflated(path, kind) as file:
        stream: Any = _TarStream(file, budget)
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as tar:
            while (entry := stream.next_entry(tar)) is not None:
                budget.add_members(1)
                _check_tar_entry(entry, budget)
                content = tar.extractfile(entry) if entry.isreg() else None
                if content is not None:
                    chunks = _chunks(content)
                    yield Member(entry.name, chunks)
                    for _ in chunks:  # what the caller left
                        pass
            stream.check_end(tar)


class _TarStream:
    """A tar's inflated bytes for `tarfile`, counted; bounds the headers, which `tarfile` reads whole."""

    def __init__(self, file: IO[bytes], budget: Budget) -> None:
        self._file, self._budget = file, budget
        self._last = b""
        self._headers_left: int | None = _TAR_HEADER_BYTES

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._budget.add_bytes(len(data))
        self._last = (self._last + data)[-tarfile.BLOCKSIZE :]
        if self._headers_left is not None:
            self._headers_left -= len(data)
            if self._headers_left < 0:
                raise _unsafe(f"headers of more than {_TAR_HEADER_BYTES:,} bytes", self._budget)
        return data

    def next_entry(self, tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        self._headers_left = _TAR_HEADER_BYTES
        entry = tar.next()
        self._headers_left = None
        return entry

    def check_end(self, tar: tarfile.TarFile) -> None:
        """Reads to the end, where the checksum of gzip is; `tarfile` is silent about a damaged or missing header."""
        rest: IO[bytes] = tar.fileobj  # type: ignore[assignment]
        while chunk := rest.read(_CHUNK):
            if chunk.strip(b"\0"):
                raise _damaged(self._budget)
        if self._last.strip(b"\0"):
            raise _damaged(self._budget)


def _check_tar_entry(entry: tarfile.TarInfo, budget: Budget) -> None:
    _check_name(entry.name, budget)
    if entry.issym() or entry.islnk() or entry.isdev():
        raise _unsafe("a link or a device", budget)
    if entry.issparse() or not (entry.isreg() or entry.isdir()):
        raise _unsafe("a member that is no regular file", budget)
    if entry.size < 0:
        raise _damaged(budget)


def _check_name(name: str, budget: Budget) -> None:
    """Refuses names that lead out of a folder, on any system; the name is never used, but the archive is hostile."""
    parts = name.replace("\\", "/").split("/")
    drive = len(parts[0]) > 1 and parts[0][1] == ":" and parts[0][0].isalpha()
    if ".." in parts or drive or (len(parts) > 1 and not parts[0]):
        raise _unsafe("a name that leads out of its folder", budget)


def _unsafe(what: str, budget: Budget) -> StudyError:
    return StudyError(f"{budget.where} holds {what}. Do not trust it; have the study exported again.", "unsafe-archive")


def _damaged(budget: Budget) -> StudyError:
    return StudyError(f"{budget.where} is cut short or damaged. Copy or export it again.", "archive-damaged")
