"""What an input holds: files recognised by content in folders of any depth, sorted into series."""

from __future__ import annotations

import gzip
import hashlib
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StudyError, UsageError
from ..volume import Notice
from .dicom_series import group_series
from .itk_image import describe_itk, is_itk
from .nifti import describe_nifti, is_nifti
from .study import Series
from .volume_file import SUFFIXES, file_case

if TYPE_CHECKING:
    from .dicom_header import Header

_START = 540
"""Bytes that tell a file's kind: the longest header, NIfTI-2's."""


@dataclass
class _Found:
    """What a walk has come across so far."""

    headers: list[Header] = field(default_factory=list)
    volumes: list[Series] = field(default_factory=list)
    objects: int = 0
    damaged: int = 0
    files: int = 0


def find_series(path: str | Path) -> list[Series]:
    """Every series of an input, the readable and the refused, DICOM by number first.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM file, a DICOMDIR (its folder is read), or a folder of any depth
            that holds such files; DICOM is known by its content, whatever its name, and anything else is passed over.
    Raises:
        UsageError: there is nothing at the path.
        StudyError: nothing in it is a scan.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError(f"no file or folder {path}. Check the path.")
    if path.is_file() and path.name.upper() == "DICOMDIR":
        path = path.parent
    found = _Found()
    for file in _files(path):
        _sort_in(file, found)
    dicom = group_series(found.headers, _damage(found))
    series = [*dicom, *_with_own_names(sorted(found.volumes, key=lambda one: one.files))]
    if not series:
        raise _nothing(path, found)
    return series


def _files(path: Path) -> Iterator[Path]:
    """Regular files under the path, each once, in the order of their names; links are followed, loops are not."""
    if path.is_file():
        yield path
        return
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        inside = Path(folder).stat()
        if (inside.st_dev, inside.st_ino) in seen:
            folders.clear()
            continue
        seen.add((inside.st_dev, inside.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        for name in sorted(names):
            file = Path(folder, name)
            try:
                entry = file.stat()
            except OSError:
                continue
            if stat.S_ISREG(entry.st_mode) and entry.st_size and (entry.st_dev, entry.st_ino) not in seen:
                seen.add((entry.st_dev, entry.st_ino))
                yield file


def _sort_in(file: Path, found: _Found) -> None:
    """Adds one file to what was found, by its content."""
    found.files += 1
    try:
        start = _start(file)
    except OSError:
        found.damaged += 1
        return
    named = file.name.lower().endswith(SUFFIXES) and not file.name.startswith("._")
    if start[128:132] == b"DICM" or _is_bare_dicom(start):
        _sort_in_dicom(file, found, certain=start[128:132] == b"DICM")
    elif is_itk(start, file):
        found.volumes.append(describe_itk(file))
    elif is_nifti(start):
        found.volumes.append(describe_nifti(file))
    elif named:
        reason = StudyError(
            f"case {file_case(file)}: the content is not what the file's name says, or is cut short. Copy it again.",
            "unreadable",
        )
        found.volumes.append(Series(case=file_case(file), kind="nifti", files=(file,), refused=reason))


def _sort_in_dicom(file: Path, found: _Found, certain: bool) -> None:
    from .dicom_header import UNREADABLE, read_header  # pydicom is imported where a file needs it

    try:
        header = read_header(file)
    except UNREADABLE:
        found.damaged += certain
        return
    if header is None:
        found.objects += 1
    else:
        found.headers.append(header)


def _start(file: Path) -> bytes:
    """The first bytes of a file, inflated where its content is gzip."""
    with file.open("rb") as plain:
        start = plain.read(_START)
    if not start.startswith(b"\x1f\x8b"):
        return start
    try:
        with gzip.open(file) as inflated:
            return inflated.read(_START)
    except (OSError, EOFError, zlib.error):
        return b""


def _is_bare_dicom(start: bytes) -> bool:
    """Whether a file begins with a data element of group 0002 or 0008, as DICOM without its preamble does.

    Source: DICOM PS3.5 section 7.1; the element's length or value representation follows its tag.
    """
    group, element = int.from_bytes(start[0:2], "little"), int.from_bytes(start[2:4], "little")
    if group not in (0x0002, 0x0008) or element > 0x0070 or len(start) < 132:
        return False
    return (start[4:6].isalpha() and start[4:6].isupper()) or int.from_bytes(start[4:8], "little") < 1024


def _damage(found: _Found) -> tuple[Notice, ...]:
    if not found.damaged:
        return ()
    text = f"{found.damaged} files look like DICOM but can not be read; they may belong to this series."
    return (Notice("unreadable-files", text),)


def _with_own_names(volumes: list[Series]) -> list[Series]:
    """The volume files with case names that differ, by 8 hex digits of the path's hash where their stems do not."""
    counts = Counter(one.case for one in volumes)

    def name(one: Series) -> str:
        digest = hashlib.sha256(os.fsencode(one.files[0])).hexdigest()[:8]
        return one.case if counts[one.case] == 1 else f"{one.case}-{digest}"

    return [replace(one, case=name(one)) for one in volumes]


def _nothing(path: Path, found: _Found) -> StudyError:
    """Why nothing is a scan: what there is instead."""
    where = "the file" if path.is_file() else "the folder"
    if found.damaged:
        return StudyError(
            f"{where} holds no readable scan: {found.damaged} files can not be read (damaged, or no permission). "
            "Copy or export them again.",
            "unreadable",
        )
    if found.objects:
        return StudyError(
            f"{where} holds no scan: {found.objects} DICOM objects, none an image (reports, segmentations, indexes). "
            "Pass the image series.",
            "no-image",
        )
    return StudyError(
        f"{where} holds no scan: {found.files} files, none DICOM, NIfTI, NRRD or MetaImage. "
        "Unpack archives first, and pass the folder or file.",
        "no-image",
    )
