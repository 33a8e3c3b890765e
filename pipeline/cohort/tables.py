"""The tables of a run, summary.csv and index.html, which grow as cases end."""

from __future__ import annotations

from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Self

from ..outputs import install_viewer, write_index, write_summary
from ..prediction import CaseResult
from .job import Job

SHARE = 0.05
"""Of the time that writing the tables may take; they are written whole, and a large cohort's take a while."""


class Tables:
    """Collects how cases ended, and shows it in OUT; at the end of the block, however it ends, the tables are true.

    Args:
        job: what is run, and where its results go.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self._results: dict[int, CaseResult] = {}
        self._one_at_a_time = Lock()
        self._next_write = 0.0
        self._told = 0

    def __enter__(self) -> Self:
        if self.job.options.pages:
            with self.job.destination.run_folder() as folder:
                install_viewer(folder)  # before the first case, whose page looks for it
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._one_at_a_time:
            if self._told < len(self._results):
                self._write()

    @property
    def results(self) -> list[CaseResult]:
        """Those so far, in the order of their inputs."""
        return [result for _, result in sorted(self._results.items())]

    def add(self, number: int, result: CaseResult) -> None:
        """The case of an input has ended.

        Raises:
            PipelineError: a table can not be written.
        """
        result.let_go()
        with self._one_at_a_time:
            self._results[number] = result
            if monotonic() >= self._next_write:
                self._write()

    def _write(self) -> None:
        started = monotonic()
        rows = [result.row for result in self.results]
        with self.job.destination.run_folder() as folder:
            write_summary(folder / "summary.csv", rows)
            if self.job.options.pages:
                write_index(folder / "index.html", rows, self.job.bundle)
        self._told = len(rows)
        now = monotonic()
        self._next_write = now + (now - started) * (1 / SHARE - 1)
