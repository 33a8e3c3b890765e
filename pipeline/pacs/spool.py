"""What a node has accepted, on disk: nothing is there by halves, and no name tells of the patient.

    incoming/                    being written, or being removed
    work/<study>/                being computed
    studies/<study>/state.json   see `ledger`
                    images/<instance>.dcm
                    other/<instance>.dcm      segmentations, reports …: they call for no computation
                    results-<run>/<case>/     see `outputs`

<study> and <instance> are hashes of UIDs. What lies in incoming and work when a node starts is left over and removed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import threading
from collections.abc import Iterable
from contextlib import suppress
from math import inf
from pathlib import Path

from ..atomic import flush_folder, remove_left_overs
from ..errors import UsageError
from .instance import InstanceName

GIB = 2**30


class NoRoomError(Exception):
    """The instance can not be stored for want of room; `reason` is a word for counters, the message a line."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Spool:
    """The folders of a node; every method may be called from any thread.

    Args:
        folder: made where it is missing; what is inside is readable for its owner alone.
        max_bytes: of all instances and results together.
        max_study_bytes: of the instances of one study.
        min_free_bytes: of the disk, that are left to others.
    Raises:
        UsageError: the folder can not be written.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int = 100 * GIB,
        max_study_bytes: int = 8 * GIB,
        min_free_bytes: int = GIB,
    ) -> None:
        self.folder = folder.absolute()
        self.max_bytes, self.max_study_bytes, self.min_free_bytes = max_bytes, max_study_bytes, min_free_bytes
        self._incoming, self._work = self.folder / "incoming", self.folder / "work"
        self._studies = self.folder / "studies"
        self._lock, self._making = threading.Lock(), threading.Lock()
        try:
            for each in (self._incoming, self._work):
                shutil.rmtree(each, ignore_errors=True)
            for each in (self._incoming, self._work, self._studies):
                _make_folder(each)
                each.chmod(0o700)
        except OSError as error:
            raise UsageError(
                f"can not write to {folder}: {error.strerror or type(error).__name__}. Choose another folder with -o."
            ) from None
        for study in self.studies():
            remove_left_overs(self.study(study))
        self._sizes = {study: _size(self.study(study)) for study in self.studies()}

    def studies(self) -> list[str]:
        """The hashes of all studies that are here."""
        return sorted(path.name for path in self._studies.iterdir() if path.is_dir())

    def study(self, study: str) -> Path:
        """The folder of a study."""
        return self._studies / study

    def images(self, study: str) -> frozenset[str]:
        """Hashes of the images of a study that are here."""
        return _names(self.study(study) / "images")

    def work(self, study: str) -> Path:
        """An empty folder to compute a study in; on the same disk as its results."""
        folder = self._work / study
        shutil.rmtree(folder, ignore_errors=True)
        _make_folder(folder)
        return folder

    def results(self, study: str, run: str) -> Path:
        """Where the results of a run are, once it is done; there as a whole or not at all."""
        return self.study(study) / f"results-{run}"

    @property
    def used_bytes(self) -> int:
        """Of all that is spooled, results included."""
        with self._lock:
            return sum(self._sizes.values())

    @property
    def free_bytes(self) -> int:
        """Of the disk."""
        return shutil.disk_usage(self.folder).free

    def store(self, name: InstanceName, is_image: bool, content: Iterable[bytes | memoryview]) -> bool:
        """Keep an instance; when this returns, it is on the disk. One that is here already stays as it is.

        Args:
            name: of the instance.
            is_image: whether its study is to be computed for it.
            content: of the file, in pieces.
        Returns:
            Whether it was new.
        Raises:
            NoRoomError: a limit is reached, or the disk is full; nothing is left of the instance.
        """
        folder = self.study(name.study) / ("images" if is_image else "other")
        path = folder / f"{name.instance}.dcm"
        try:
            if path.exists():
                flush_folder(folder)  # another sender may have put it there at this moment
                return False
            return self._add(name.study, list(content), path)
        except OSError as error:
            raise NoRoomError("disk", f"the spool can not be written ({error.strerror})") from None

    def _add(self, study: str, pieces: list[bytes | memoryview], path: Path) -> bool:
        """Write the file, and put it in its place if that is still free; returns whether it was."""
        size = sum(memoryview(piece).nbytes for piece in pieces)
        self._claim(study, size)
        temporary = self._incoming / secrets.token_hex(16)
        placed = False
        try:
            _write(temporary, pieces)
            with self._making:  # nobody counts on a folder whose maker has not flushed it yet
                _make_folder(path.parent)
            with self._lock:
                if not path.exists():
                    temporary.replace(path)
                    placed = True
            flush_folder(path.parent)
        finally:
            if not placed:
                self._give_back(study, size)
                with suppress(OSError):
                    temporary.unlink()
        return placed

    def last_change(self, study: str) -> float:
        """When its state changed last, or where it has none its folder, in seconds since 1970; infinite where the study
        has just been removed."""
        for path in (self.study(study) / "state.json", self.study(study)):
            with suppress(FileNotFoundError):
                return path.stat().st_mtime
        return inf

    def link_images(self, study: str, images: Iterable[str], folder: Path) -> None:
        """Put images of a study into a folder of their own, as what they are at this moment: nothing joins them.

        Raises:
            OSError: one is gone, or the disk is full.
        """
        _make_folder(folder)
        for image in images:
            source, target = self.study(study) / "images" / f"{image}.dcm", folder / f"{image}.dcm"
            try:
                target.hardlink_to(source)
            except FileNotFoundError:
                raise
            except OSError:  # a file system without links
                shutil.copyfile(source, target)

    def keep_results(self, study: str, run: str, folder: Path) -> None:
        """Make a folder that was computed the results of a run, in one step, and remove what it was computed from.

        Raises:
            OSError: it can not be moved.
        """
        target = self.results(study, run)
        shutil.rmtree(target, ignore_errors=True)  # there where a full disk kept their end from being written down
        _flush_tree(folder)
        folder.replace(target)
        flush_folder(target.parent)
        self.clear_work(study)
        self.measure(study)

    def clear_work(self, study: str) -> None:
        """Remove what a study was computed in."""
        shutil.rmtree(self._work / study, ignore_errors=True)

    def remove_instances(self, study: str) -> None:
        """Remove the instances of a study, and keep its state and results."""
        for name in ("images", "other"):
            shutil.rmtree(self.study(study) / name, ignore_errors=True)
        self.measure(study)

    def remove_results(self, study: str, run: str) -> None:
        """Remove the results of a run."""
        shutil.rmtree(self.results(study, run), ignore_errors=True)
        self.measure(study)

    def remove(self, study: str) -> None:
        """Remove all of a study, in one step: of what a kill left of its images another result would be made.

        Raises:
            OSError: it can not be removed.
        """
        doomed = self._incoming / secrets.token_hex(16)
        with suppress(FileNotFoundError):
            self.study(study).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        with self._lock:
            self._sizes.pop(study, None)

    def measure(self, study: str) -> None:
        """Take the study's size on disk anew."""
        size = _size(self.study(study))
        with self._lock:
            self._sizes[study] = size

    def _claim(self, study: str, size: int) -> None:
        """Count the bytes before they are written, so that many writers together can not pass a limit."""
        free = self.free_bytes
        with self._lock:
            here = self._sizes.get(study, 0)
            if here + size > self.max_study_bytes:
                raise NoRoomError("study-size", "the study is larger than this node takes")
            if sum(self._sizes.values()) + size > self.max_bytes:
                raise NoRoomError("spool-size", "the spool is full")
            if free - size < self.min_free_bytes:
                raise NoRoomError("disk", "the disk is full")
            self._sizes[study] = here + size

    def _give_back(self, study: str, size: int) -> None:
        with self._lock:
            self._sizes[study] = max(0, self._sizes.get(study, 0) - size)


def _write(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write and flush a file that its owner alone can read."""
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it, each flushed into the one that holds it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    flush_folder(folder.parent)


def _flush_tree(folder: Path) -> None:
    """Wait until every file and folder below is on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if not path.is_symlink():
            flush_folder(path)  # a file is flushed in the same way


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(path.stem for path in folder.iterdir())
    except FileNotFoundError:
        return frozenset()


def _size(folder: Path) -> int:
    """Bytes of the files below, but for those that another thread removes meanwhile."""
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(Path(inside, name)).st_size
    return total
