"""A bundle in a zip: one top folder, as MONAI's Model Zoo has it; nothing of it is believed before it is checked.

Refused are names that lead elsewhere, links, devices, two members of one name, encryption, and what inflates to more
than a bundle does; sizes are counted while inflating, whatever the headers say.
"""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from ..bundle import digest_of
from ..errors import BundleError
from .zip_names import clash, unsafe_name

MEMBERS = 10_000
INFLATED_BYTES = 16 * 2**30
RATIO, RATIO_FROM_BYTES = 200, 2**27
"""Inflated bytes to a byte of the zip, once there are so many; weights hardly deflate, zeros to a thousandth."""
METADATA = "configs/metadata.json"

_CHUNK = 2**20
_DIRECTORY_BYTES_A_MEMBER = 2**10
"""The most that a zip's directory may hold a member on average: the whole directory is read at once."""
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # APPNOTE 4.4.4: encrypted, strongly encrypted, its directory entry masked
_KINDS = (0, stat.S_IFREG, stat.S_IFDIR)
_SYSTEM = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini")
"""What operating systems put beside the folder that they zip."""
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    LookupError,
    ValueError,
    OverflowError,
)
"""What the standard library raises where a zip, or what is in it, is damaged."""


class BundleZip:
    """The files of a bundle in a zip, as a context.

    Args:
        path: the zip.

    Attributes:
        folder_name: of the one top folder; "bundle" where the zip has none.
        sha256: of the zip itself.
        inflated_bytes: of all files, as the zip claims.

    Raises:
        BundleError: it is damaged, is not to be trusted, or holds no bundle.
    """

    def __init__(self, path: Path) -> None:
        self._where = f"bundle {path.name}"
        with ExitStack() as stack, _reported(self._where):
            file = stack.enter_context(_SmallReads(path))
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._packed = max(file.tell(), 1)
            self._zip = stack.enter_context(zipfile.ZipFile(file))
            entries = self._checked(self._zip.infolist())
            top, self._entries = self._bundle_in(entries)
            self.folder_name = top or "bundle"
            self.inflated_bytes = sum(entry.file_size for entry in self._entries.values())
            self._check_size(self.inflated_bytes)
            self._stack = stack.pop_all()

    def __enter__(self) -> BundleZip:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def files(self) -> Iterator[tuple[str, Iterator[bytes]]]:
        """Each file's name in the bundle, its parts with "/" between, and its bytes, to be read before the next.

        Raises:
            BundleError: a file is damaged, or inflates to more than is allowed.
        """
        inflated = 0
        for name, entry in self._entries.items():

            def chunks(entry: zipfile.ZipInfo = entry) -> Iterator[bytes]:
                nonlocal inflated
                with _reported(self._where), self._zip.open(entry) as file:
                    while chunk := file.read(_CHUNK):
                        inflated += len(chunk)
                        self._check_size(inflated)
                        yield chunk

            yield name, chunks()

    def digest(self) -> str:
        """What `bundle_digest` says of the bundle once it is unpacked.

        Raises:
            BundleError: as `files`.
        """
        return digest_of((name, _sha256(chunks)) for name, chunks in self.files())

    def is_in(self, folder: Path) -> bool:
        """Whether the folder holds these files, byte for byte, and nothing else.

        Raises:
            BundleError: as `files`.
        """
        try:
            if not _is_plain_folder(folder):
                return False
            found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not _is_plain_folder(path)}
            return found == set(self._entries) and all(
                _holds(folder / name, entry.file_size, chunks)
                for (name, chunks), entry in zip(self.files(), self._entries.values(), strict=True)
            )
        except OSError:
            return False

    def _checked(self, entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
        """The regular files; what is beside the bundle is checked, too."""
        if len(entries) > MEMBERS:
            raise self._refused(f"more than {MEMBERS:,} members")
        for entry in entries:
            # `filename` is cut at a null byte, `orig_filename` is what the zip has
            wrong = unsafe_name(entry.orig_filename.removesuffix("/"))
            if wrong:
                raise self._refused(wrong)
            if stat.S_IFMT(entry.external_attr >> 16) not in _KINDS:
                raise self._refused("a link or a device")
            if entry.flag_bits & _ENCRYPTED:
                raise self._refused("encrypted members")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Python inflates bzip2 and LZMA members without a bound on memory (ZipExtFile._read1)
                raise self._refused(f"members compressed by method {entry.compress_type}, not deflate")
        files = [entry for entry in entries if not entry.is_dir()]
        wrong = clash(entry.filename for entry in files)
        if wrong:
            raise self._refused(wrong)
        return files

    def _bundle_in(self, entries: list[zipfile.ZipInfo]) -> tuple[str, dict[str, zipfile.ZipInfo]]:
        """The top folder, "" where there is none, and the files in it by their names there."""
        ours = [entry for entry in entries if entry.filename.split("/")[0].lower() not in _SYSTEM]
        names = [entry.filename for entry in ours]
        tops = {name.split("/")[0] for name in names}
        top = tops.pop() if len(tops) == 1 else ""
        inside = {name.removeprefix(f"{top}/") if top else name: entry for name, entry in zip(names, ours, strict=True)}
        if METADATA not in inside:
            raise BundleError(
                f"{self._where}: holds no bundle: {METADATA} is missing from its one top folder. Zip the bundle's "
                "folder and nothing else, by `scanloom bundle pack` best."
            )
        return top, inside

    def _check_size(self, inflated: int) -> None:
        if inflated > INFLATED_BYTES:
            raise self._refused(f"more than {INFLATED_BYTES // 2**30} GiB")
        if inflated > max(RATIO_FROM_BYTES, RATIO * self._packed):
            raise self._refused(f"more than {RATIO} times its own size")

    def _refused(self, what: str) -> BundleError:
        return BundleError(
            f"{self._where}: holds {what}, so it is not unpacked. Have it packed again by `scanloom bundle pack`, or "
            "unpack it yourself and pass the folder."
        )


class _SmallReads(io.BufferedReader):
    """A file that refuses to be read in large pieces, as `ZipFile` reads a directory, whatever its length."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > max(_DIRECTORY_BYTES_A_MEMBER * MEMBERS, 2 * _CHUNK):
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(size)


@contextmanager
def _reported(where: str) -> Iterator[None]:
    """Damage, and what the system says, in our own words."""
    try:
        yield
    except DAMAGED:
        raise BundleError(f"{where}: is no zip, or cut short or damaged. Copy it again.") from None
    except OSError as error:
        raise BundleError(
            f"{where}: can not be read ({error.strerror or type(error).__name__}). Copy it again."
        ) from None


def _is_plain_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _holds(path: Path, size: int, chunks: Iterator[bytes]) -> bool:
    """Whether it is a regular file of those bytes."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != size:
        return False
    with path.open("rb") as file:
        return all(file.read(len(chunk)) == chunk for chunk in chunks) and not file.read(1)


def _sha256(chunks: Iterator[bytes]) -> bytes:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.digest()
