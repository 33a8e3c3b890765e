"""Files that appear whole or not at all: written beside their name, flushed, then renamed."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import PipelineError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block succeeds and vanishes when it fails.

    The temporary name ends like the target's, because writers choose their format by it. What stood at `path` before
    is replaced in one step, or kept where the block fails, whatever stops it (an interrupt too).

    Args:
        path: the file to write; its folder is made if there is none.
    Yields:
        The path to write to, in the same folder. Nothing is there yet.
    Raises:
        PipelineError: the folder can not be made or the file not written; names the file and the system's reason.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        raise PipelineError(
            f"{path}: can not be written ({error.strerror or type(error).__name__}). "
            "Free space there or choose another folder with -o."
        ) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _flush(path: Path) -> None:
    """Wait until the file's bytes are on the disk, so that the rename can not overtake them."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Wait until the rename is on the disk; only POSIX can open a folder for it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
