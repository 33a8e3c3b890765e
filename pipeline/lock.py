"""One run at a time in an output folder: a lock file that says which process writes there."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

import psutil

try:
    import fcntl
except ImportError:  # only POSIX has it; elsewhere two runs might take over one dead lock at the same instant
    fcntl = None  # type: ignore[assignment]

from .atomic import remove_left_overs
from .errors import PipelineError, UsageError

NAME = ".scanloom.lock"
SAME_START_S = 2.0
"""Start times of one process agree to this; they are derived from the clock, which may have been set since."""
ATTEMPTS, PAUSE_S = 5, 0.1
"""How often a lock that is being made or taken over is looked at again."""


class FolderInUseError(PipelineError):
    """Another run writes to the folder."""


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock.

    Attributes:
        host: the machine's name.
        pid: its number there.
        started: when it began, in seconds since 1970; tells it from a later process of the same number.
    """

    host: str
    pid: int
    started: float

    @classmethod
    def of_this_process(cls) -> Owner:
        """This process as an owner."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str | bytes) -> Owner | None:
        """What `text` said; None where that names nobody."""
        try:
            entry = json.loads(text)
            return cls(str(entry["host"]), int(entry["pid"]), float(entry["started"]))
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def text(self) -> str:
        """The content of a lock."""
        return json.dumps(asdict(self))

    @property
    def shown(self) -> str:
        """Which process it is, for people."""
        return f"process {self.pid}, since {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.started))}"

    def is_gone(self) -> bool:
        """Whether the process has ended. One on another machine can not be seen, and counts as running."""
        if self.host != socket.gethostname():
            return False
        try:
            process = psutil.Process(self.pid)
            dead = process.status() == psutil.STATUS_ZOMBIE
            return dead or abs(process.create_time() - self.started) > SAME_START_S
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone while the block runs; what a killed run left there is removed first.

    The lock is given back however the block ends: by an error, an interrupt, or the signal to terminate, which becomes
    a SystemExit here. A lock whose process has ended is taken over.

    Args:
        folder: made where it is missing.
    Raises:
        UsageError: it can not be made.
        FolderInUseError: another run holds it; says which one, and what to do.
        PipelineError: no lock can be made there.
    """
    _make_folder(folder)
    path = folder / NAME
    me = Owner.of_this_process()
    with terminated_gently():
        _take(path, me)
        try:
            remove_left_overs(folder)
            yield
        finally:
            if _owner(path) == me:
                with suppress(OSError):
                    path.unlink()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"can not write to {folder}: {error.strerror}. Choose another folder with -o.") from None


def _take(path: Path, me: Owner) -> None:
    """Make the lock file, or say whose it is."""
    for _ in range(ATTEMPTS):
        try:
            _make(path, me)
            return
        except FileExistsError:
            owner = _owner(path)
        except OSError as error:
            raise PipelineError(
                f"{path.parent}: can not be locked ({error.strerror or type(error).__name__}). "
                "Change its permissions, or choose another folder with -o."
            ) from None
        if owner is not None and not owner.is_gone():
            _refuse(path, owner)
        if owner is not None and _take_over(path, owner, me):
            return
        time.sleep(PAUSE_S)  # it is being made or taken over at this moment, or is gone again, or not ours to read
    raise FolderInUseError(
        f"{path.parent}: its lock does not say which run holds it. If none is writing there, delete {path}; "
        "else choose another folder with -o."
    )


def _make(path: Path, me: Owner) -> None:
    """Create the file, which fails where there is one already, and put the owner's name into it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(me.text)
        file.flush()
        os.fsync(file.fileno())


def _owner(path: Path) -> Owner | None:
    """Whose lock it is; None where there is none or it says no owner."""
    try:
        return Owner.parse(path.read_bytes())
    except OSError:
        return None


def _take_over(path: Path, gone: Owner, me: Owner) -> bool:
    """Put this process's name in the place of one that has ended; False where another run is faster.

    The file stays where it is, so that there is no moment in which a third run could make it, and the system's lock on
    it lets one run at a time look and write.
    """
    try:
        with path.open("r+", encoding="utf-8") as file:
            _lock_file(file.fileno())
            if not os.path.samestat(os.fstat(file.fileno()), path.stat()) or _owner(path) != gone:
                return False
            file.truncate(0)
            file.write(me.text)
            file.flush()
            os.fsync(file.fileno())
            return True
    except OSError:
        return False


def _lock_file(descriptor: int) -> None:
    """The system's own lock, until the file is closed; BlockingIOError where another process has it."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _refuse(path: Path, owner: Owner) -> NoReturn:
    if owner.host == socket.gethostname():
        raise FolderInUseError(
            f"{path.parent}: another run is writing there ({owner.shown}). "
            "Wait until it is done, stop it, or choose another folder with -o."
        )
    raise FolderInUseError(
        f"{path.parent}: a run on {owner.host} is writing there ({owner.shown}). "
        f"Choose another folder with -o; if that run has ended, delete {path}."
    )


@contextmanager
def terminated_gently() -> Iterator[None]:
    """The signal to terminate raises SystemExit, so that files and lock are put in order; nobody else's handler is
    replaced, and only the main thread may set one."""
    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if not ours:
        yield
        return
    signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)
