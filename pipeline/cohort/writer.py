"""The process that writes cases while others are read and labelled.

`WriterProcess` starts it: `python -m scanloom.pipeline.cohort.writer SOCKET FOLDER`. Drawing previews and building
DICOM objects is Python's own work, and would hold up the process that feeds the device.
"""

from __future__ import annotations

import logging
import shutil
import socket
import sys
import tempfile
import warnings

from ..errors import PipelineError
from ..messages import receive, send
from ..prediction import CaseResult, log
from ..worker_process import WorkerEndedError, WorkerProcess
from .finishing import finish_case
from .job import Job
from .labelling import Labelled
from .niceness import give_way
from .reading import Scan

ATTEMPTS = 2


class WriterProcess:
    """Writes one case after the other in a process of its own; it is started again where it ended.

    Args:
        job: what is written of, and where to.
    """

    def __init__(self, job: Job) -> None:
        self._job = job.travelling()
        self._scratch = tempfile.mkdtemp(prefix="scanloom-")
        self._worker = WorkerProcess(
            __name__,
            [self._scratch],
            environment={"TMPDIR": self._scratch},  # so that what a killed process leaves can be found
            shows_errors=log.isEnabledFor(logging.DEBUG),
        )

    @property
    def pid(self) -> int | None:
        """Of the worker; None where none runs."""
        return self._worker.pid

    def __call__(self, result: CaseResult, scan: Scan, labelled: Labelled) -> CaseResult:
        """As `finish_case`; a case that its process does not survive is tried once more, then failed.

        Raises:
            WorkerClosedError: `close` was called, so that it is not known how the case ended.
        """
        for attempt in range(ATTEMPTS):
            try:
                written, _ = self._worker.ask((result, scan, labelled, self._job))
                finished: CaseResult = written
                return finished
            except WorkerEndedError as ending:
                log.debug("attempt %d to write %s: its process ended (%s)", attempt + 1, result.case, ending)
                how = str(ending)
            except (OSError, MemoryError) as error:
                log.debug("attempt %d to write %s", attempt + 1, result.case, exc_info=error)
                how = getattr(error, "strerror", None) or type(error).__name__
        reason = f"{result.case}: its files could not be written in two attempts ({how}). Free memory, and run again."
        result.end(PipelineError(reason), str(result.case))
        return result

    def close(self) -> None:
        """End the process, for good, and remove its temporary files."""
        self._worker.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def main() -> None:
    """Answers requests on the socket until it is closed; then nobody else is left to remove the temporary files."""
    warnings.simplefilter("ignore")
    give_way()
    channel = socket.socket(fileno=int(sys.argv[1]))
    try:
        while (request := receive(channel)) is not None:
            send(channel, finish_case(*request[0]))
    finally:
        shutil.rmtree(sys.argv[2], ignore_errors=True)


if __name__ == "__main__":
    main()
