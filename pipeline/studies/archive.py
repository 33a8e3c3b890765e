"""Archives (zip, tar, tar.gz, tar.bz2, tar.xz) of studies, unpacked file by file under names of our own.

Nothing of an archive is believed: a member's name is never a path, and sizes are counted while inflating. Archives
inside an archive are unpacked, too, but not those inside these.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import StudyError
from .archive_kind import BLOCK, archive_kind
from .archive_limits import ArchiveLimits, Budget, no_room
from .archive_members import Member, members
from .volume_file import SUFFIXES, file_case, short_digest

_DEPTH = 1
"""Levels of archives inside an archive that are unpacked."""
_NAME_BYTES = 120
_JUNK = ("__macosx", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Unpacked:
    """A file that came out of an archive.

    Attributes:
        file: where it lies, under a number; its suffix is one of `SUFFIXES` or none.
        name: the member's own file name, fit for a case's name and for nothing else; empty where nothing of it is fit.
        origin: 8 hex digits of its path inside the archive, which tell members of the same name apart; the same every
            time.
    """

    file: Path
    name: str
    origin: str


def is_archive(start: bytes, path: Path) -> bool:
    """Whether a file is an archive that `unpack` takes or refuses with a reason.

    Args:
        start: its first 512 bytes or more; where the file is gzip, either as they are or inflated.
        path: the file; read only where the start leaves it open.
    """
    return archive_kind(start, path) is not None


def unpack(path: Path, folder: Path, limits: ArchiveLimits | None = None) -> list[Unpacked]:
    """Unpacks the files of an archive.

    Left out are folders, files of the operating system (`__MACOSX`, `Thumbs.db`) and names that begin with a dot.

    Args:
        path: the archive.
        folder: where the files go as 000001, 000002, …; made where it is missing, else without such files.
        limits: `ArchiveLimits()` where None.
    Returns:
        The files in the archive's order.
    Raises:
        StudyError: the archive is not read: see `code`. Nothing that was unpacked is left.
        PipelineError: the disk is full; nothing is left, either.
    """
    made = not folder.exists()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    unpacking = _Unpacking(path, folder, limits or ArchiveLimits())
    try:
        return list(unpacking.files(path, 0))
    except BaseException:
        unpacking.remove()
        if made:
            with suppress(OSError):
                folder.rmdir()
        raise


class _Unpacking:
    """One archive on its way into a folder."""

    def __init__(self, path: Path, folder: Path, limits: ArchiveLimits) -> None:
        self._folder, self._written = folder, list[Path]()
        kind = archive_kind(_start(path), path)
        where = f"the {kind or 'file'} archive of {path.stat().st_size:,} bytes"
        self._budget = Budget(limits, path, folder, where)

    def files(self, path: Path, depth: int, origin: str = "") -> Iterator[Unpacked]:
        """The files of an archive, which lies `depth` archives deep."""
        kind = archive_kind(_start(path), path)
        if kind is None:
            raise StudyError(f"{self._budget.where} is no archive that is read.", "archive-unsupported")
        for member in members(path, kind, self._budget):
            if _is_junk(member.name):
                continue
            unpacked = self._write(member, origin)
            if archive_kind(_start(unpacked.file), unpacked.file) is None:
                yield unpacked
            else:
                yield from self._inner(unpacked, depth + 1)

    def remove(self) -> None:
        """Removes what was written."""
        for file in self._written:
            file.unlink(missing_ok=True)

    def _inner(self, archive: Unpacked, depth: int) -> Iterator[Unpacked]:
        if depth > _DEPTH:
            raise StudyError(
                f"{self._budget.where} holds archives in archives in an archive. Unpack it and pass the folder.",
                "archive-nested",
            )
        yield from self.files(archive.file, depth, archive.origin)
        archive.file.unlink()

    def _write(self, member: Member, outer: str) -> Unpacked:
        name, suffix = _safe_name(member.name)
        file = self._folder / f"{len(self._written) + 1:06d}{suffix}"
        try:
            with file.open("xb") as target:
                self._written.append(file)
                for chunk in member.chunks:
                    target.write(chunk)
        except OSError as error:
            raise no_room(self._budget.where, error.strerror or type(error).__name__) from None
        origin = short_digest(f"{outer}/{member.name}".encode(errors="backslashreplace"))
        return Unpacked(file, name, origin)


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BLOCK)


def _parts(name: str) -> list[str]:
    return [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]


def _is_junk(name: str) -> bool:
    parts = _parts(name)
    return not parts or any(part.startswith(".") or part.lower() in _JUNK for part in parts)


def _safe_name(name: str) -> tuple[str, str]:
    """A member's file name that is fit for a case's name, and which of `SUFFIXES` it ends with."""
    last = _parts(name)[-1]
    suffix = next((suffix for suffix in SUFFIXES if last.lower().endswith(suffix)), "")
    stem = file_case(Path(last)).encode(errors="ignore")[:_NAME_BYTES].decode(errors="ignore").strip(" .")
    return f"{stem}{suffix}", suffix
