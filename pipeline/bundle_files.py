"""The files of a bundle: which there are, their digests, and a private copy of just what was hashed."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from .bundle import digest_of, file_sha256
from .errors import BundleError

CHUNK_BYTES = 2**20


class PrivateCopy:
    """A copy of a bundle's files in a folder that only this user can enter; gone with this object or the process.

    Each file is opened once, and what is hashed is what is written: a file that is swapped afterwards in the original
    changes nothing here. Links to files become files; links to folders, and what is no plain file, are not taken.

    Args:
        folder: of the bundle.

    Attributes:
        folder: of the copy, called as the original.
        digests: name -> SHA-256 of every file.

    Raises:
        BundleError: a file can not be read, or there is no room for the copy.
    """

    def __init__(self, folder: Path) -> None:
        root = Path(tempfile.mkdtemp(prefix="scanloom-"))
        self._remove = weakref.finalize(self, shutil.rmtree, root, ignore_errors=True)
        self.folder = root / (folder.name or "bundle")
        self.digests: dict[str, str] = {}
        try:
            for name, path in bundle_files(folder):
                target = self.folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self.digests[name] = _copied(path, target)
        except OSError as error:
            self.remove()
            raise BundleError(
                f"bundle {folder}: its files can not be copied to {root.parent} to be checked ({error.strerror}). "
                "Make them readable, or set TMPDIR to a folder with room."
            ) from error

    def remove(self) -> None:
        """Remove the copy now."""
        self._remove()


def bundle_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Name, with / between its parts, and path of every plain file, ordered by the parts of the names.

    Folders that are links are not entered.
    """
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not (Path(parent) / name).is_symlink()]
        found += [path for name in files if (path := Path(parent) / name).is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in found}
    for name in sorted(named, key=lambda name: name.split("/")):
        yield name, named[name]


def file_digests(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file of a bundle."""
    return {name: file_sha256(path).hex() for name, path in bundle_files(folder)}


def digest_of_files(digests: Mapping[str, str]) -> str:
    """What `bundle_digest` says of a bundle of these files, 64 hex digits.

    Args:
        digests: name -> SHA-256 of the content.
    """
    return digest_of((name, bytes.fromhex(each)) for name, each in digests.items())


def _copied(path: Path, copy: Path) -> str:
    """SHA-256 of the file, 64 hex digits, whose very bytes go to `copy`."""
    digest = hashlib.sha256()
    with path.open("rb") as source, copy.open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()
