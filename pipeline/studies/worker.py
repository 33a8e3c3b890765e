"""The process that parses strangers' files: `python -m scanloom.pipeline.studies.worker SOCKET FOLDER`.

`isolation` starts it. It answers one request after the other: which series there are, which voxels one holds. It may
crash or be killed at any moment; nothing of a run is lost but the one answer.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from ..errors import PipelineError, StudyError, our_own
from ..messages import receive, send
from ..shared_memory import new_memory
from ..volume import Volume
from ..worker_process import TICK
from . import find_series, read_series
from .study import Series

BASE_BYTES = 2**31
"""Address space for Python, its libraries and headers; the voxels come on top."""
COPIES = 3
"""Of a volume as 64-bit numbers that reading one may take."""
TICK_SECONDS = 0.5
NO_VOXELS = np.empty((0, 0, 0, 0))


def main() -> None:
    """Answers requests on the socket until it is closed; then nobody is left to remove what archives held but this."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        while (request := receive(channel)) is not None:
            answer = _Answer(_Ticking(channel))
            message = answer.to(*request[0])
            send(channel, message, answer.descriptors)
            answer.close()
    finally:  # also where it was closed while this worked, so that the answer can not be sent
        shutil.rmtree(sys.argv[2], ignore_errors=True)


class _Ticking:
    """Tells the other side that the work goes on, twice a second at most."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel, self.last = channel, time.monotonic()

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.last > TICK_SECONDS:
            self.last = now
            send(self.channel, TICK)


class _Answer:
    """The answer to one request, and the memory that its voxels lie in."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick
        self.memory: list[tuple[int, np.ndarray]] = []
        self.descriptors: tuple[int, ...] = ()

    def to(self, kind: str, what: Any) -> tuple[str, Any]:
        """What happened, and the result or the error."""
        try:
            if kind == "find":
                limit_memory(BASE_BYTES)
                return "found", find_series(tick=self.tick, **what)
            return self._read(what)
        except PipelineError as error:
            return "failed", error.with_traceback(None)
        except MemoryError:
            return "failed", StudyError("the input needs more memory than its size allows; is it damaged?", "too-large")
        except Exception as error:  # the outermost door of this process; its standard error is shown with --debug
            traceback.print_exc()
            return "failed", PipelineError(f"reading the input: {our_own(error)}")

    def _read(self, series: Series) -> tuple[str, Any]:
        files = sum(file.stat().st_size for file in series.files if file.exists())
        limit_memory(BASE_BYTES + files + COPIES * 8 * prod(series.shape or (0,)))
        volume = read_series(series, allocate=self._allocate, tick=self.tick)
        if volume.is_mapped:
            return "read", (volume, None, None)
        stack = volume.array[0].T
        held = next((number for number, array in self.memory if np.shares_memory(array, stack)), None)
        if held is None:
            self._allocate(stack.shape, stack.dtype)[...] = stack
            held = self.memory[-1][0]
        self.descriptors = (held,)
        return "read", (_without_voxels(volume), stack.shape, stack.dtype)

    def _allocate(self, shape: tuple[int, ...], kind: Any) -> np.ndarray:
        descriptor, array = new_memory(shape, np.dtype(kind))
        self.memory.append((descriptor, array))
        return array

    def close(self) -> None:
        """Leave the memory to the other side."""
        for descriptor, _ in self.memory:
            os.close(descriptor)
        self.memory.clear()


def _without_voxels(volume: Volume) -> Volume:
    return replace(volume, array=NO_VOXELS)


def limit_memory(size: int) -> None:
    """The address space of this process from here on, where the system can limit it."""
    try:
        import resource
    except ImportError:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


if __name__ == "__main__":
    main()
