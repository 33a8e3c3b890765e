"""A run on this machine: while one case is labelled, the next is read and the last one is written.

Reading has a process of its own, and so has writing where there are several cases; labelling stays in this process and
thread, where torch's threads are warm. At most four scans are held at a time, fewer where memory is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Condition
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..prediction import CaseResult
from ..progress import Report, Share
from ..worker_process import IS_POSSIBLE
from .case_names import Names
from .finishing import finish_case
from .job import Job
from .labelling import Labelled, Labeller
from .reading import CaseReader, Scan
from .writer import WriterProcess

if TYPE_CHECKING:
    from ..inference.predictor import Predictor

Done = Callable[[int, CaseResult], None]
"""What is told of a case that has ended: the number of its input, and how."""
WRITERS = 2
"""Cases that may be written at a time."""
HELD = 2 + WRITERS
"""Scans that may be held: one read ahead, one being labelled, and those being written."""
ROOM = 4
"""Times the bytes of a scan that are to be free before it is read while others are held."""
LOOK_AGAIN_SECONDS = 0.2


def run_here(job: Job, done: Done, report: Report, loaded: list[Predictor]) -> None:
    """Every input of the job, in their order.

    Args:
        job: what is asked for.
        done: told of each case as it ends, from this thread.
        report: told how far it is.
        loaded: the bundle as an earlier run has loaded it, or an empty list, which keeps it.
    """
    count = len(job.inputs)
    room, names, label = Room(), Names(job.destination), Labeller(job, loaded)
    with CaseReader(job, keeps=HELD) as reader, Writing(job, room, done, aside=count > 1) as writing:

        def read(number: int) -> tuple[CaseResult, Scan | None]:
            return reader(number, job.inputs[number], Share(report, number / count, (number + 1) / count), room.wait)

        def stop() -> None:
            room.close()
            reader.stop()

        for number, (result, scan) in enumerate(_read_ahead(read, count, stop)):
            share = Share(report, number / count, (number + 1) / count)
            names.claim(number, result)
            if scan is None or result.error:
                done(number, result)
                continue
            room.take()
            labelled = label(result, scan, share.part(0.1, 0.9))
            if labelled is None:
                room.give()
                done(number, result)
            else:
                share(f"{result.case}: writing", 0.9)
                writing(number, result, scan, labelled)


def _read_ahead(
    read: Callable[[int], tuple[CaseResult, Scan | None]], count: int, stop: Callable[[], None]
) -> Iterator[tuple[CaseResult, Scan | None]]:
    """What `read` returns of each number, the next being read while the caller works on one; `stop` ends reading."""
    with ExitStack() as stack:
        thread = stack.enter_context(ThreadPoolExecutor(1, "read"))
        stack.callback(stop)  # the thread ends at once where the caller wants no more
        coming = thread.submit(read, 0) if count else None
        for number in range(count):
            assert coming is not None
            read_case = coming.result()
            coming = thread.submit(read, number + 1) if number + 1 < count else None
            yield read_case


class Room:
    """Holds up the reading of a scan that would not fit beside those that are worked on."""

    def __init__(self) -> None:
        self._held = 0
        self._closed = False
        self._changed = Condition()

    def take(self) -> None:
        """A scan is worked on from here on."""
        with self._changed:
            self._held += 1

    def give(self) -> None:
        """It is done."""
        with self._changed:
            self._held -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more is to be read."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait(self, size: int) -> None:
        """Returns where a scan of so many bytes may be read; in any case where no other is worked on.

        Raises:
            CancelledError: `close` was called.
        """
        with self._changed:
            while not self._closed and self._held and not _fits(size):
                self._changed.wait(LOOK_AGAIN_SECONDS)
            if self._closed:
                raise CancelledError


def _fits(size: int) -> bool:
    """Whether there is room for a scan of so many bytes, and for what is made of it."""
    import torch  # which has been imported where a scan is labelled

    from ..inference.memory import available_bytes

    available = available_bytes(torch.device("cpu"))
    return available is None or available >= ROOM * size


class Writing:
    """Writes cases behind the one that is labelled, two at a time where writing takes longer than labelling.

    Args:
        job: what is written of, and where to.
        room: told when a case is done.
        done: told of each case, from a thread of its own where written aside.
        aside: write in other processes; else in this one, at once.
    """

    def __init__(self, job: Job, room: Room, done: Done, aside: bool) -> None:
        self.job, self.room, self.done = job, room, done
        self._writers = [WriterProcess(job)] if aside and IS_POSSIBLE else []
        self._free = SimpleQueue[WriterProcess]()
        for writer in self._writers:
            self._free.put(writer)
        self._threads = ThreadPoolExecutor(WRITERS, "write")
        self._under_way: set[Future[None]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Waits for what is being written, however the run ends."""
        try:
            self._settle(0)
        finally:
            for writer in self._writers:
                writer.close()
            self._threads.shutdown()

    def __call__(self, number: int, result: CaseResult, scan: Scan, labelled: Labelled) -> None:
        """Write a case as soon as a process is free for it; returns before it is written."""
        if not self._writers:
            self._write(None, number, result, scan, labelled)
            return
        self._settle(WRITERS - 1)
        if self._free.empty() and len(self._writers) < WRITERS:
            self._writers.append(WriterProcess(self.job))
            self._free.put(self._writers[-1])
        self._under_way.add(self._threads.submit(self._write, self._free.get(), number, result, scan, labelled))

    def _write(
        self, writer: WriterProcess | None, number: int, result: CaseResult, scan: Scan, labelled: Labelled
    ) -> None:
        try:
            finished = (
                finish_case(result, scan, labelled, self.job) if writer is None else writer(result, scan, labelled)
            )
        finally:
            self.room.give()
            if writer is not None:
                self._free.put(writer)
        self.done(number, finished)

    def _settle(self, most: int) -> None:
        """Returns when no more than so many cases are being written; raises what one of them raised."""
        while len(self._under_way) > most or any(one.done() for one in self._under_way):
            ended, self._under_way = wait(self._under_way, return_when=FIRST_COMPLETED)
            for one in ended:
                one.result()
