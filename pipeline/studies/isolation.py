"""Studies read in a process of their own, with limits: a codec that crashes, hangs or fills the memory costs one input.

`StudyProcess` gives what `find_series` and `read_series` give. Its worker starts at once, works through any number of
inputs, and is started again after one that it did not survive.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..errors import StudyError
from ..limits import MAX_VOXELS
from ..volume import Volume
from .messages import receive, send
from .shared_memory import array_in
from .study import Series

PATIENCE_SECONDS = 60.0
"""How long the worker may be silent; it tells after each file and slice that it goes on."""
IS_POSSIBLE = os.name == "posix"
_WORKER = f"{__package__}.worker"
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Each thread of a numerical library claims address space, which is limited there."""


class StudyProcess:
    """Finds and reads series in a worker process: `with StudyProcess() as studies: studies.find(path)`.

    What archives hold lies in a folder that vanishes at the end. Where the system has no such processes (Windows), the
    work is done in this one, without limits.

    Args:
        max_voxels: a volume that claims more is refused.
        names_of_source: as `find_series` takes it.
        patience_seconds: after so long without a word the worker is killed.
        shows_errors: let the worker's own words through to standard error; they may hold values of the input.
    """

    def __init__(
        self,
        max_voxels: int = MAX_VOXELS,
        patience_seconds: float = PATIENCE_SECONDS,
        names_of_source: bool = False,
        shows_errors: bool = False,
    ) -> None:
        self.max_voxels, self.names_of_source = max_voxels, names_of_source
        self.patience_seconds, self.shows_errors = patience_seconds, shows_errors
        self._scratch = Path(tempfile.mkdtemp(prefix="scanloom-"))
        self._inputs = 0
        self._worker: subprocess.Popen | None = None
        self._channel: socket.socket | None = None
        if IS_POSSIBLE:
            self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker and remove what archives held."""
        self._stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def find(self, path: str | Path) -> list[Series]:
        """As `find_series`; what archives of inputs before this one held is removed.

        Raises:
            StudyError: also where the worker did not survive the input.
        """
        shutil.rmtree(self._scratch / str(self._inputs), ignore_errors=True)
        self._inputs += 1
        options: dict[str, Any] = {
            "scratch": self._scratch / str(self._inputs),
            "max_voxels": self.max_voxels,
            "names_of_source": self.names_of_source,
        }
        if not IS_POSSIBLE:
            from . import find_series

            return find_series(path, **options)
        found: list[Series] = self._ask("find", {"path": Path(path).absolute(), **options}, "the input")
        return found

    def read(self, series: Series) -> Volume:
        """As `read_series`.

        Raises:
            StudyError: also where the worker did not survive the series.
        """
        if series.refused:
            raise series.refused.with_traceback(None)
        if not IS_POSSIBLE:
            from . import read_series

            return read_series(series)
        volume: Volume = self._ask("read", series, f"series {series.case}")
        return volume

    def _ask(self, kind: str, what: Any, where: str) -> Any:
        """The answer to a request; any other way out leaves no worker that would still give it."""
        if self._channel is None:
            self._start()
        assert self._channel is not None
        try:
            send(self._channel, (kind, what))
            answer, content, descriptors = self._answer(where)
        except (BrokenPipeError, ConnectionResetError):
            raise self._gone(where) from None
        except BaseException:
            self._stop()
            raise
        return _result(answer, content, descriptors)

    def _answer(self, where: str) -> tuple[str, Any, tuple[int, ...]]:
        assert self._channel is not None
        while True:
            try:
                received = receive(self._channel)
            except TimeoutError:
                raise StudyError(
                    f"{where} was given up after {self.patience_seconds:.0f} s without progress: a file is damaged, or "
                    "the disk does not answer. Copy or export it again.",
                    "hang",
                ) from None
            if received is None:
                raise self._gone(where)
            (answer, content), descriptors = received
            if answer != "tick":
                return answer, content, descriptors

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._worker = subprocess.Popen(
                [sys.executable, "-P", "-m", _WORKER, str(theirs.fileno()), str(self._scratch)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if self.shows_errors else subprocess.DEVNULL,
                env={**os.environ, **_ONE_THREAD},
                start_new_session=True,  # Ctrl-C is for this process, which ends the worker
            )
        ours.settimeout(self.patience_seconds)
        self._channel = ours

    def _stop(self) -> None:
        """End the worker; not by closing the channel, which tells it to clear up after a process that is no more."""
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
            self._worker = None
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _gone(self, where: str) -> StudyError:
        """Why the worker is no more, in words."""
        status = self._worker.wait() if self._worker else 0
        self._stop()
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return StudyError(
            f"{where} made its reader end ({how}): a file is damaged or hostile. Copy or export it again; "
            "--debug shows what the reader said.",
            "crash",
        )


def _result(answer: str, content: Any, descriptors: tuple[int, ...]) -> Any:
    """What the worker found, or read into memory or a file that both see."""
    if answer == "failed":
        raise content
    if answer == "found":
        return content
    if answer == "mapped":
        volume, (path, dtype, offset, shape) = content
        return replace(volume, array=np.memmap(path, dtype, "r", offset, shape[1:], order="F")[np.newaxis])
    volume, shape, dtype = content
    array = array_in(descriptors[0], shape, dtype)
    os.close(descriptors[0])
    return replace(volume, array=array.T[np.newaxis])
