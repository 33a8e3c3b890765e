"""Studies read in a process of their own, with limits: a codec that crashes, hangs or fills the memory costs one input.

`StudyProcess` gives what `find_series` and `read_series` give. Its worker starts at once, works through any number of
inputs, and is started again after one that it did not survive.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..errors import StudyError
from ..limits import MAX_VOXELS
from ..shared_memory import array_in
from ..volume import Volume
from ..worker_process import IS_POSSIBLE, WorkerEndedError, WorkerProcess
from .study import Series

PATIENCE_SECONDS = 60.0
"""How long the worker may be silent; it tells after each file and slice that it goes on."""
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
        keeps: how many inputs' archives stay unpacked, that of the last `find` among them.
    """

    def __init__(
        self,
        max_voxels: int = MAX_VOXELS,
        patience_seconds: float = PATIENCE_SECONDS,
        names_of_source: bool = False,
        shows_errors: bool = False,
        keeps: int = 1,
    ) -> None:
        self.max_voxels, self.names_of_source, self.keeps = max_voxels, names_of_source, keeps
        self.patience_seconds = patience_seconds
        self._scratch = Path(tempfile.mkdtemp(prefix="scanloom-"))
        self._inputs = 0
        self._worker: WorkerProcess | None = None
        if IS_POSSIBLE:
            self._worker = WorkerProcess(
                _WORKER,
                [str(self._scratch)],
                patience_seconds=patience_seconds,
                environment=_ONE_THREAD,
                shows_errors=shows_errors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the worker; None where none runs."""
        return self._worker.pid if self._worker else None

    def stop(self) -> None:
        """End the worker, and with it what is being read now."""
        if self._worker is not None:
            self._worker.stop()

    def close(self) -> None:
        """End the worker and remove what archives held."""
        self.stop()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def forget(self) -> None:
        """Remove what the last archive held, before the next `find` does; nothing more can be read of it."""
        shutil.rmtree(self._scratch / str(self._inputs), ignore_errors=True)

    def find(self, path: str | Path) -> list[Series]:
        """As `find_series`; what archives held is removed `keeps` inputs later.

        Raises:
            StudyError: also where the worker did not survive the input.
        """
        self._inputs += 1
        shutil.rmtree(self._scratch / str(self._inputs - self.keeps), ignore_errors=True)
        options: dict[str, Any] = {
            "scratch": self._scratch / str(self._inputs),
            "max_voxels": self.max_voxels,
            "names_of_source": self.names_of_source,
        }
        if self._worker is None:
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
        if self._worker is None:
            from . import read_series

            return read_series(series)
        volume: Volume = self._ask("read", series, f"series {series.case}")
        return volume

    def _ask(self, kind: str, what: Any, where: str) -> Any:
        """The answer to a request."""
        assert self._worker is not None
        try:
            (answer, content), descriptors = self._worker.ask((kind, what))
        except TimeoutError:
            raise StudyError(
                f"{where} was given up after {self.patience_seconds:.0f} s without progress: a file is damaged, or "
                "the disk does not answer. Copy or export it again.",
                "hang",
            ) from None
        except WorkerEndedError as ending:
            raise StudyError(
                f"{where} made its reader end ({ending}): a file is damaged or hostile. Copy or export it again; "
                "--debug shows what the reader said.",
                "crash",
            ) from None
        return _result(answer, content, descriptors)


def _result(answer: str, content: Any, descriptors: tuple[int, ...]) -> Any:
    """What the worker found, or read into memory or a file that both see."""
    if answer == "failed":
        raise content
    if answer == "found":
        return content
    volume, shape, dtype = content
    if shape is None:
        return volume
    array = array_in(descriptors[0], shape, dtype)
    os.close(descriptors[0])
    return replace(volume, array=array.T[np.newaxis])
