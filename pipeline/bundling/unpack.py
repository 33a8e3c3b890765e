"""Zips of bundles, unpacked once into the user's cache, and compared with the zip at every later use."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ..errors import BundleError
from .zip_file import BundleZip

ATTEMPTS = 3
ABANDONED_S = 24 * 3600.0
"""What a killed process left unpacked in half is removed after so long."""
PART = ".part-"


def unpacked_bundle(path: Path) -> Path:
    """The folder of a zipped bundle: in the cache, or where that can not be written, in one that ends with the process.

    The cache keeps it under the zip's SHA-256. What lies there is used only while it is, byte for byte, what the zip
    holds; else it is unpacked anew. Several processes may do this at once.

    Args:
        path: of the zip.
    Raises:
        BundleError: the zip is refused (see `BundleZip`), or there is no room for it anywhere.
    """
    with BundleZip(path) as archive:
        try:
            return _cached(archive, _cache() / archive.sha256)
        except OSError:
            return _temporary(archive, path)


def _cached(archive: BundleZip, kept: Path) -> Path:
    """The bundle's folder in `kept`, which appears there whole.

    Raises:
        OSError: the cache can not be written.
    """
    folder = kept / archive.folder_name
    for _ in range(ATTEMPTS):
        if archive.is_in(folder):
            return folder
        kept.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(kept.parent)
        with tempfile.TemporaryDirectory(prefix=PART, dir=kept.parent) as aside:
            fresh = Path(aside) / "fresh"
            _unpack(archive, fresh / archive.folder_name)
            with suppress(OSError):  # nothing is there, or another process was quicker to move it
                kept.rename(Path(aside) / "stale")
            with suppress(OSError):  # another process was quicker to put it there
                fresh.rename(kept)
    raise OSError(f"{kept} changes all the time")


def _temporary(archive: BundleZip, path: Path) -> Path:
    """The bundle's folder in one for temporary files, which is removed when this process ends."""
    try:
        made = Path(tempfile.mkdtemp(prefix="scanloom-"))
        atexit.register(_remove, made, os.getpid())
        folder = made / archive.folder_name
        _unpack(archive, folder)
    except OSError as error:
        raise BundleError(
            f"bundle {path.name}: can not be unpacked into {_cache()}, nor into the folder for temporary files "
            f"({error.strerror or type(error).__name__}). Make room, or set XDG_CACHE_HOME to another folder."
        ) from None
    return folder


def _unpack(archive: BundleZip, folder: Path) -> None:
    folder.mkdir(parents=True)
    if archive.inflated_bytes > shutil.disk_usage(folder).free:
        raise OSError(f"no room for {archive.inflated_bytes} bytes")
    for name, chunks in archive.files():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("xb") as target:
            target.writelines(chunks)


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # and not a fork of it
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(cache: Path) -> None:
    for folder in cache.glob(f"{PART}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(folder)


def _cache() -> Path:
    """Where unpacked zips are kept: under XDG_CACHE_HOME, by default ~/.cache; may be deleted at any time."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "scanloom" / "zips"
