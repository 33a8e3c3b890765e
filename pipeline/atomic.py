"""Files and folders that appear whole or not at all: written aside, read again, renamed."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import PipelineError, UsageError

Check = Callable[[Path], object]
"""Reads a file that was just written and raises where it is not what it must be."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Reasons of the system that more room would mend: disk full, quota used up, file larger than may be."""
LEFT_OVER = re.compile(r"\.part-[0-9a-f]{8}-")
"""How the temporary names begin."""


@contextmanager
def atomic(path: Path, *, needs_bytes: int = 0, check: Check | None = None) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block succeeds and vanishes when it fails.

    The temporary name ends like the target's, because writers choose their format by it. What stood at `path` before
    is replaced in one step, or kept where the block fails, whatever stops it (an interrupt too).

    Args:
        path: the file to write; its folder is made if there is none.
        needs_bytes: the most that the file can become; refused at once where less is free. 0 where it is not known.
        check: reads the flushed file, and raises any exception where it is not as it must be; the file is then not
            renamed. An empty file is refused in any case.
    Yields:
        The path to write to, in the same folder. Nothing is there yet.
    Raises:
        PipelineError: the folder can not be made or the file not written, not as a whole, or not read again; names
            the file, the system's reason and where room is the matter, the bytes.
    """
    temporary = path.with_name(f".part-{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_room(path, needs_bytes)
        yield temporary
        _flush(temporary)
        _require_whole(temporary, path, check)
        temporary.replace(path)
        flush_folder(path.parent)
    except OSError as error:
        reason = f"{path}: can not be written ({error.strerror or type(error).__name__}). "
        room = _room(path, max(needs_bytes, _size(temporary) + 1)) if error.errno in NO_ROOM else ""
        raise PipelineError(f"{reason}{room}Free space there or choose another folder with -o.") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A path beside `folder` that becomes it when the block succeeds; what is there vanishes when it fails.

    Args:
        folder: to make; it may be there, empty.
    Yields:
        The path of a folder to make and fill. Nothing is there yet.
    Raises:
        UsageError: the folder holds something, or can not be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty. Choose another folder with -o.")
    part = folder.with_name(f".part-{secrets.token_hex(4)}-{folder.name}")
    try:
        yield part
        part.replace(folder)
    except OSError as error:
        raise UsageError(f"can not write to {folder}: {error.strerror}. Choose another folder with -o.") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file that is in memory, by `atomic`; what is read again must be the same bytes.

    Raises:
        PipelineError: as `atomic`.
    """

    def check(temporary: Path) -> None:
        if temporary.read_bytes() != content:
            raise ValueError("other bytes")

    with atomic(path, needs_bytes=len(content), check=check) as temporary:
        temporary.write_bytes(content)


def remove_left_overs(folder: Path) -> None:
    """Remove what killed runs left in the folder and in its folders; call it where no other run can be writing."""
    for path in (*folder.glob(".part-*"), *folder.glob("*/.part-*")):
        if LEFT_OVER.match(path.name):
            with suppress(OSError):
                path.unlink()


def _require_room(path: Path, needs_bytes: int) -> None:
    if needs_bytes > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _require_whole(temporary: Path, path: Path, check: Check | None) -> None:
    """Refuse a file that is empty, or that does not read as its check wants it."""
    reason = "is empty" if not temporary.stat().st_size else ""
    if check is not None and not reason:
        try:
            check(temporary)
        except Exception as error:  # whatever a reader raises at a broken file
            reason = f"does not read as it was written ({type(error).__name__})"
    if reason:
        raise PipelineError(
            f"{path}: what reached the disk {reason}, so it was not kept. "
            "Run again, and if this comes again choose a folder on another disk with -o."
        )


def _room(path: Path, needs_bytes: int) -> str:
    """What is needed and what is there."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return f"It needs {needs_bytes:,} bytes. "
    return f"It needs {needs_bytes:,} bytes and {free:,} are free. "


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _flush(path: Path) -> None:
    """Wait until the file's bytes are on the disk, so that the rename can not overtake them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Wait until the rename is on the disk; only POSIX can open a folder for it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
