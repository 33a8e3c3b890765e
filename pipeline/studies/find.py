"""What an input holds: files recognised by content in folders of any depth, sorted into series."""

from __future__ import annotations

import os
import stat
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StudyError, UsageError
from ..limits import MAX_VOXELS
from ..volume import Notice
from .archive import is_archive, unpack
from .dicom_series import group_series
from .label_maps import mark_label_maps
from .nifti import describe_nifti, is_nifti
from .picture import describe_picture, is_named_picture, is_picture
from .raster import describe_raster, is_raster
from .study import Series
from .volume_file import GZIP, SUFFIXES, file_case, open_volume, read_errors, short_digest

if TYPE_CHECKING:
    from .dicom_header import Header

_START = 540
"""Bytes that tell a file's kind: the longest header, NIfTI-2's."""


@dataclass
class _Found:
    """What a walk has come across so far.

    Attributes:
        max_voxels: of one volume.
        scratch: where archives are unpacked to; made when the first one is met.
        tick: called once a file, to tell that the work goes on.
        pictures: PNG and TIFF files, and what they are called; read where the input holds nothing else, for screenshots
            lie beside studies.
        origins: of volume files and pictures out of archives, what tells those of one name apart.
        objects: DICOM objects that are no images.
        damaged: files that look like DICOM but can not be read, or have no permission.
        empty: files of no bytes.
    """

    max_voxels: int
    scratch: Path | None
    tick: Callable[[], None]
    headers: list[Header] = field(default_factory=list)
    volumes: list[Series] = field(default_factory=list)
    pictures: list[tuple[Path, str]] = field(default_factory=list)
    origins: dict[Path, str] = field(default_factory=dict)
    objects: int = 0
    damaged: int = 0
    empty: int = 0
    files: int = 0
    archives: int = 0


def find_series(
    path: str | Path,
    *,
    max_voxels: int = MAX_VOXELS,
    names_of_source: bool = False,
    scratch: Path | None = None,
    tick: Callable[[], None] = lambda: None,
) -> list[Series]:
    """Every series of an input, the readable and the refused, DICOM by number first.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a DICOM file, a DICOMDIR (its folder is read), a PNG or TIFF picture, a
            zip or tar archive, or a folder of any depth that holds such files; DICOM is known by its content, whatever
            its name, and anything else is passed over, as are pictures where there is any of the others.
        max_voxels: a volume that claims more is refused.
        names_of_source: call DICOM cases after the folders of their files, which may name a patient.
        scratch: a folder for what archives hold, to be kept until the volumes have been read; one that vanishes when
            Python ends where None.
        tick: called now and then, to tell that the work goes on.
    Raises:
        UsageError: there is nothing at the path.
        StudyError: nothing in it is a scan.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UsageError(f"no file or folder {path}. Check the path.")
    if path.is_file() and path.name.upper() == "DICOMDIR":
        path = path.parent
    found = _Found(max_voxels, scratch, tick)
    for file in _files(path, found):
        _sort_in(file, found)
    dicom = group_series(found.headers, _damage(found), max_voxels, names_of_source)
    if not (dicom or found.volumes or found.objects or found.damaged):
        found.volumes += _pictures(found)
    volumes = _with_own_names(sorted(found.volumes, key=lambda one: one.files), found.origins)
    series = [*dicom, *mark_label_maps(volumes)]
    if not series:
        raise _nothing(path, found)
    return series


def _files(path: Path, found: _Found) -> Iterator[Path]:
    """Regular files under the path, each once, in the order of their names; links are followed, loops are not."""
    if path.is_file():
        yield path
        return
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(path, followlinks=True, onerror=lambda _: _count_damaged(found)):
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
            except FileNotFoundError:  # a link to nothing
                continue
            except OSError:
                _count_damaged(found)
                continue
            if stat.S_ISREG(entry.st_mode) and (entry.st_dev, entry.st_ino) not in seen:
                seen.add((entry.st_dev, entry.st_ino))
                yield file


def _count_damaged(found: _Found) -> None:
    found.damaged += 1


def _sort_in(file: Path, found: _Found, name: str | None = None) -> None:
    """Adds one file to what was found, by its content; `name` is what it was called in an archive."""
    found.tick()
    found.files += 1
    name = file.name if name is None else name
    try:
        start = _start(file)
    except OSError:
        found.damaged += 1
        return
    named = name.lower().endswith(SUFFIXES) and not name.startswith("._")
    if start[128:132] == b"DICM" or _is_bare_dicom(start):
        _sort_in_dicom(file, found, certain=start[128:132] == b"DICM")
    elif is_raster(start, file):
        found.volumes.append(describe_raster(file, found.max_voxels, file_case(Path(name))))
    elif is_nifti(start):
        found.volumes.append(describe_nifti(file, found.max_voxels, file_case(Path(name))))
    elif is_archive(start, file):
        _sort_in_archive(file, found)
    elif named:
        case = file_case(Path(name))
        reason = StudyError(
            f"case {case}: the content is not what the file's name says, or is cut short. Copy it again.", "unreadable"
        )
        found.volumes.append(Series(case=case, kind="nifti", files=(file,), refused=reason))
    else:
        found.empty += not start and not name.startswith(".")
        if is_picture(start) or is_named_picture(name):
            found.pictures.append((file, name))


def _pictures(found: _Found) -> Iterator[Series]:
    """The series of the pictures, each by its header."""
    for file, name in found.pictures:
        found.tick()
        yield describe_picture(file, found.max_voxels, file_case(Path(name)))


def _sort_in_archive(file: Path, found: _Found) -> None:
    """Adds what an archive holds; one that is refused becomes a refused series, so that it does not stop the others."""
    found.archives += 1
    if found.scratch is None:
        found.scratch = _vanishing_folder()
    before = len(found.volumes), len(found.headers), len(found.pictures)
    try:
        for member in unpack(file, found.scratch / f"archive{found.archives}"):
            known = len(found.volumes), len(found.pictures)
            _sort_in(member.file, found, member.name or member.origin)
            found.origins |= {one.files[0]: member.origin for one in found.volumes[known[0] :]}
            found.origins |= {file: member.origin for file, _ in found.pictures[known[1] :]}
    except StudyError as reason:
        del found.volumes[before[0] :], found.headers[before[1] :], found.pictures[before[2] :]
        digest = short_digest(os.fsencode(file.name))
        found.volumes.append(Series(case=f"archive-{digest}", kind="archive", files=(file,), refused=reason))


def _vanishing_folder() -> Path:
    """A folder of this process's own that is removed when Python ends."""
    folder = tempfile.TemporaryDirectory(prefix="scanloom-")
    weakref.finalize(_vanishing_folder, folder.cleanup)
    return Path(folder.name)


def _sort_in_dicom(file: Path, found: _Found, certain: bool) -> None:
    from ..dicom_reading import UNREADABLE  # pydicom is imported where a file needs it
    from .dicom_header import read_headers

    try:
        headers = read_headers(file)
    except UNREADABLE:
        found.damaged += certain
        return
    found.objects += not headers
    found.headers += headers


def _start(file: Path) -> bytes:
    """The first bytes of a file, inflated where its content is gzip."""
    with file.open("rb") as plain:
        start = plain.read(_START)
    if not start.startswith(GZIP):
        return start
    try:
        with open_volume(file) as inflated:
            return inflated.read(_START)
    except read_errors():
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
    notices = []
    if found.damaged:
        text = f"{found.damaged} files look like DICOM but can not be read; they may belong to this series."
        notices.append(Notice("unreadable-files", text))
    if found.empty:
        text = f"{found.empty} files are empty (0 bytes); they may have been slices of this series."
        notices.append(Notice("empty-files", text))
    return tuple(notices)


def _with_own_names(volumes: list[Series], origins: Mapping[Path, str]) -> list[Series]:
    """The volume files with case names that differ, by 8 hex digits of the path's hash where their stems do not."""
    counts = Counter(one.case for one in volumes)

    def name(one: Series) -> str:
        path = one.files[0]
        digest = origins.get(path) or short_digest(os.fsencode(path))
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
        f"{where} holds no scan: {found.files} files, none DICOM, NIfTI, NRRD, MetaImage, PNG, TIFF, "
        f"zip or tar ({found.empty} empty). Pass the folder or file of the images.",
        "no-image",
    )
