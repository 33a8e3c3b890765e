"""What a cohort folder holds: the files and folders in it that are one study each.

Volume files, pictures and archives are known by their names, and by their first bytes where the name says nothing;
DICOM by its content. Of a folder one DICOM header is read, never a pixel, so that a hundred thousand studies are listed
in seconds. What can not be told so is left as one input, and `predict` refuses it by name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..dicom_reading import UNREADABLE
from ..errors import StudyError, UsageError
from ..studies.archive import is_archive
from ..studies.dicom_elements import read_elements
from ..studies.nifti_header import is_nifti
from ..studies.picture import SUFFIXES as PICTURES
from ..studies.picture import is_picture
from ..studies.raster import is_raster
from ..studies.volume_file import GZIP
from ..studies.volume_file import SUFFIXES as VOLUMES

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".7z", ".rar")
"""Ends of names of archives; the last two are no kinds that are read, and are refused by name."""
DICOM = (".dcm", ".dicom", ".ima")
SIDECARS = (
    *(".json", ".csv", ".tsv", ".txt", ".md", ".yaml", ".yml", ".xml", ".html", ".js", ".pdf", ".log", ".xlsx"),
    *(".bval", ".bvec", ".jpg", ".jpeg", ".raw", ".raw.gz", ".zraw", ".img", ".img.gz"),
)
"""Ends of names of what lies beside scans and is none: tables, notes, and the voxels of a header file."""
_SUMMARY = b"case,status,seconds"
"""How summary.csv begins."""
_START = 540
"""Bytes that tell a file's kind; see `studies.find`."""
_DEEPEST = 32
"""Levels of folders that are looked into; deeper ones belong to what is above them."""


@dataclass
class _Folder:
    """A folder as far as it was looked at.

    Attributes:
        path: of the folder.
        study: StudyInstanceUID of a DICOM file that lies directly in it; None where none does.
        files: what else lies directly in it and is a study by itself.
        folders: in it.
    """

    path: Path
    study: str | None = field(default=None, repr=False)
    files: list[Path] = field(default_factory=list)
    folders: list[_Folder] = field(default_factory=list)

    def studies(self) -> set[str]:
        """The StudyInstanceUIDs in it and below."""
        own = {self.study} if self.study else set()
        return own.union(*(folder.studies() for folder in self.folders))

    def is_bare(self) -> bool:
        """Whether it and the folders in it hold no scan."""
        return not self.study and not self.files and all(folder.is_bare() for folder in self.folders)


def studies_in(folder: Path, but: Collection[Path] = ()) -> list[Path]:
    """The inputs of a cohort folder, each one study and so one case, sorted by path.

    Each volume file, picture and archive in the folder is a study, and so is each folder in it; but a folder whose
    subfolders hold DICOM files of different studies (patient/study/series, at any depth) stands for those. A folder
    whose subfolders are the series of one study is that study, the cohort folder too. DICOM files that lie directly
    in a folder make it one study, whatever else it holds. Passed over are hidden files and folders, __MACOSX, sidecars
    and what an earlier run wrote. Links are followed, and no folder is met twice.

    Two inputs may well lead to cases of one name (a.nii.gz in two folders): names are not looked at here.

    Args:
        folder: the cohort; a file is its own only study.
        but: folders to pass over, such as that of the results; they need not exist.
    Raises:
        UsageError: there is nothing at the path, or it can not be read.
        StudyError: it holds nothing that could be a study.
    """
    if not folder.exists():
        raise UsageError(f"no file or folder {folder}. Check the path.")
    if not folder.is_dir():
        return [folder]
    try:
        entries = _entries(folder)
    except OSError as error:
        raise UsageError(f"{folder}: can not be read ({error.strerror}). Change its permissions.") from None
    seen = {_identity(path) for path in (folder, *but) if path.is_dir()}
    found = _look(folder, entries, seen, _DEEPEST)
    inputs = [folder] if _is_one_study(found) else [*found.files, *_all(found.folders)]
    if not inputs:
        raise StudyError(
            f"the folder {folder} holds no study: no volume file, picture, archive, DICOM file or folder. "
            "Pass the folder that holds the studies.",
            "no-image",
        )
    return sorted(inputs)


def _is_one_study(cohort: _Folder) -> bool:
    """Whether the cohort folder is itself a study: DICOM files lie in it, or nothing but folders of its series."""
    if cohort.study:
        return True
    series = [folder for folder in cohort.folders if not folder.is_bare()]
    studies = [folder.studies() for folder in series]
    return not cohort.files and len(series) > 1 and len(studies[0]) == 1 and all(one == studies[0] for one in studies)


def _all(folders: Iterable[_Folder]) -> list[Path]:
    return [path for folder in folders for path in _inputs(folder)]


def _inputs(folder: _Folder) -> list[Path]:
    """The folder, or what it holds where it is a container of several studies."""
    if folder.study or len(folder.studies()) < 2:
        return [folder.path]
    return [*folder.files, *_all(folder.folders)]


def _look(path: Path, entries: Iterable[os.DirEntry[str]], seen: set[tuple[int, int]], levels: int) -> _Folder:
    """What a folder of these entries holds, and what those in it do; `seen` holds the folders not to meet again."""
    found = _Folder(path)
    damaged = False
    for entry in entries:
        inside = Path(entry.path)
        if not _is_folder(entry):
            damaged |= _sort_in(inside, found)
        elif levels and not _is_met(inside, seen):
            theirs = _readable_entries(inside)
            if not _is_ours(inside, {one.name for one in theirs}):
                found.folders.append(_look(inside, theirs, seen, levels - 1))
    if damaged and not found.study:
        found.study = str(path)  # DICOM of no study that it tells: a study of its own
    return found


def _sort_in(file: Path, found: _Folder) -> bool:
    """Add a file to its folder's; True where it is DICOM that tells no study. Only a regular file is opened."""
    name = file.name.lower()
    if found.study or name == "dicomdir" or name.removesuffix(".gz").endswith(SIDECARS):
        return False
    if name.endswith((*VOLUMES, *PICTURES, *ARCHIVES)):
        found.files.append(file)
        return False
    start = _start(file)
    is_dicom = start[128:132] == b"DICM"
    if is_dicom or (start and (name.endswith(DICOM) or not file.suffix)):
        found.study = _study_uid(file)
    if not (found.study or is_dicom) and (name.endswith(DICOM) or _is_scan(start, file)):
        found.files.append(file)
    return is_dicom and not found.study


def _start(file: Path) -> bytes:
    """The first bytes of a regular file; none where it is another (a pipe would wait for ever) or can not be read."""
    try:
        if not file.is_file():
            return b""
        with file.open("rb") as opened:
            return opened.read(_START)
    except OSError:
        return b""


def _study_uid(file: Path) -> str | None:
    """StudyInstanceUID (0020,000D); None where it is absent or the file is no DICOM."""
    try:
        return read_elements(file)["StudyInstanceUID"] or None
    except UNREADABLE:
        return None


def _is_scan(start: bytes, file: Path) -> bool:
    """Whether a file whose name says nothing is a volume, a picture or an archive; gzip of unknown content is, too."""
    named = is_nifti(start) or is_raster(start, file) or is_picture(start) or start.startswith(GZIP)
    return named or is_archive(start, file)


def _is_ours(folder: Path, names: Collection[str]) -> bool:
    """Whether an earlier run wrote the folder: a case's, or that of a whole run."""
    if "report.json" in names and "measurements.json" in names:
        return True
    return "summary.csv" in names and _start(folder / "summary.csv").startswith(_SUMMARY)


def _readable_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Its entries; none of a folder that can not be read, which stays an input that `predict` refuses by name."""
    try:
        return _entries(folder)
    except OSError:
        return []


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is to be looked at, links last, so that a folder is met at its own place first."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
    return sorted(shown, key=lambda entry: (entry.is_symlink(), entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; not where the link leads round in a circle or to what is closed."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_met(folder: Path, seen: set[tuple[int, int]]) -> bool:
    """Whether it was met before; it is from now on. One below a folder that may only be listed can not be told."""
    try:
        identity = _identity(folder)
    except OSError:
        return False
    met = identity in seen
    seen.add(identity)
    return met


def _identity(folder: Path) -> tuple[int, int]:
    entry = folder.stat()
    return entry.st_dev, entry.st_ino
