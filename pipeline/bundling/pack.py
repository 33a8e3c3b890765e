"""A bundle as a zip: the same files give the same bytes, on any machine, and the trust in the bundle fits its zip."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..atomic import atomic
from ..bundle import Bundle, bundle_digest, digest_of, find_bundle
from ..bundle_files import digest_of_files, file_digests
from ..errors import BundleError, UsageError
from ..trust import record_trust, trust_state
from .zip_file import BundleZip
from .zip_names import clash, unsafe_name

SUFFIX = ".zip"
STAMP = (1980, 1, 1, 0, 0, 0)
"""The earliest time that a zip can hold."""
MODE = stat.S_IFREG | 0o644
_UNIX = 3  # APPNOTE 4.4.2.2: the host system, whose file modes `external_attr` has
_CHUNK = 2**20
_OTHERS = ("__pycache__", "__macosx", "thumbs.db", "desktop.ini")
_BACKUPS = ("~", ".bak", ".orig", ".rej", ".swp", ".tmp")


@dataclass(frozen=True)
class Packed:
    """A bundle that was packed.

    Attributes:
        path: the zip.
        size: its bytes.
        sha256: of the zip.
        digest: `bundle_digest` of what is in it, by which it is trusted.
        left_out: names of files and folders of the bundle that are not in it; where there are none, `digest` is the
            bundle's own.
    """

    path: Path
    size: int
    sha256: str
    digest: str
    left_out: tuple[str, ...]


def pack_bundle(bundle: Bundle, path: Path | None = None) -> Packed:
    """Pack the bundle into a zip of one top folder, which is called like the bundle.

    Left out are names that begin with a dot, `__pycache__`, and editors' backups. The files are stored, not deflated:
    what a deflater writes differs between versions, and weights hardly shrink. The bundle's folder is left as it is.

    Args:
        bundle: what to pack.
        path: of the zip; NAME_vVERSION.zip in the working folder, as the Model Zoo calls them, where None.
    Raises:
        UsageError: the path is no place for it.
        BundleError: the bundle holds a link, something that is no file, or a name that not every system takes; or it
            changed meanwhile.
        PipelineError: the zip can not be written.
    """
    name = folder_name(bundle)
    target = path or Path(f"{name}_v{_safe(str(bundle.metadata.get('version', 0)))}{SUFFIX}")
    _require_place(target, bundle)
    left_out: list[str] = []
    files = dict(sorted(_files(bundle, bundle.folder, left_out), key=lambda file: file[0].split("/")))
    wrong = clash(files)
    if wrong:
        raise BundleError(f"bundle {bundle.name}: holds {wrong} where case does not count. Rename one.")
    size = sum(file.stat().st_size for file in files.values())
    with atomic(target, needs_bytes=size) as temporary:
        digest = digest_of(_written(temporary, name, files, bundle))
        with BundleZip(temporary) as archive:
            whole = archive.digest() == digest
            sha256 = archive.sha256
        if not whole:
            raise BundleError(f"bundle {bundle.name}: its zip does not read as it was written. Pack it again.")
    return Packed(target, target.stat().st_size, sha256, digest, tuple(sorted(left_out)))


def carry_trust(bundle: Bundle, packed: Packed) -> None:
    """Let the zip of a bundle that runs here run here, too, where its digest is not the one that is trusted.

    That is so where files were left out, and for a shipped bundle, which is trusted by its place. What was packed is
    compared with what is trusted, so that nothing else comes in.
    """
    state, digests = trust_state(bundle), file_digests(bundle.folder)
    kept = {name: each for name, each in digests.items() if not any(map(_is_left_out, name.split("/")))}
    same = digest_of_files(digests) == state.digest and digest_of_files(kept) == packed.digest
    if state.runs and same and (packed.left_out or state.state == "shipped"):
        found = find_bundle(packed.path)
        if bundle_digest(found) == packed.digest:
            record_trust(found, "trained" if state.state == "trained" else "trusted")


def folder_name(bundle: Bundle) -> str:
    """The bundle's name with only what every system takes in a file's name."""
    return _safe(bundle.name) or "bundle"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name).strip("._ ")


def _require_place(path: Path, bundle: Bundle) -> None:
    if path.suffix.lower() != SUFFIX:
        raise UsageError(f"-o {path}: a packed bundle is a {SUFFIX} file. Give it that suffix.")
    if path.is_dir():
        raise UsageError(f"-o {path}: is a folder. Name the file to write.")
    if path.resolve().is_relative_to(bundle.folder.resolve()):
        raise UsageError(f"-o {path}: lies in the bundle itself. Choose another folder.")


def _files(bundle: Bundle, folder: Path, left_out: list[str]) -> Iterator[tuple[str, Path]]:
    """Name in the bundle and path of each file that is packed."""
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise _unreadable(bundle, folder, error) from None
    for entry in entries:
        path = Path(entry.path)
        name = path.relative_to(bundle.folder).as_posix()
        if _is_left_out(entry.name):
            left_out.append(name)
            continue
        if entry.is_symlink():
            raise BundleError(f"bundle {bundle.name}: {name} is a link. Put what it points to in its place.")
        wrong = unsafe_name(name)
        if wrong:
            raise BundleError(f"bundle {bundle.name}: {name!r} is {wrong}. Rename it.")
        if entry.is_dir():
            yield from _files(bundle, path, left_out)
        elif entry.is_file():
            yield name, path
        else:
            raise BundleError(f"bundle {bundle.name}: {name} is no regular file. Move it out of the bundle.")


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name.lower() in _OTHERS or name.lower().endswith(_BACKUPS)


def _written(path: Path, top: str, files: dict[str, Path], bundle: Bundle) -> Iterator[tuple[str, bytes]]:
    """Writes the zip; name and SHA-256 of each file as it was read."""
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        for name, file in files.items():
            digest = hashlib.sha256()
            entry = zipfile.ZipInfo(f"{top}/{name}", STAMP)
            entry.create_system, entry.external_attr = _UNIX, MODE << 16
            entry.file_size = file.stat().st_size  # by which zipfile chooses the form of the header
            with archive.open(entry, "w") as target:
                for chunk in _chunks(file, bundle):
                    digest.update(chunk)
                    target.write(chunk)
            yield name, digest.digest()


def _chunks(file: Path, bundle: Bundle) -> Iterator[bytes]:
    try:
        with file.open("rb") as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except OSError as error:
        raise _unreadable(bundle, file, error) from None


def _unreadable(bundle: Bundle, path: Path, error: OSError) -> BundleError:
    name = path.relative_to(bundle.folder).as_posix()
    return BundleError(f"bundle {bundle.name}: {name} can not be read ({error.strerror}). Change its permissions.")
