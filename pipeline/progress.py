"""How far a command is: a bar on a terminal, plain lines elsewhere; always on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.progress import Progress


class Report(Protocol):
    """What a long piece of work calls as it goes on."""

    def __call__(self, line: str | None, done: float | None = None) -> None:
        """Say one line, or with None only move on; `done` is the share of the work behind it, 0 to 1, if known."""


def silent(line: str | None, done: float | None = None) -> None:
    """A `Report` that says nothing."""


class Share:
    """A part of the whole run's progress, from `begin` to `end` of it."""

    def __init__(self, report: Report, begin: float, end: float) -> None:
        self.report, self.begin, self.end = report, begin, end

    def __call__(self, line: str | None, done: float | None = None) -> None:
        """Say one line; `done` is the share of this part that is behind it."""
        self.report(line, None if done is None else self.begin + (self.end - self.begin) * done)

    def part(self, begin: float, end: float) -> Share:
        """A part of this part."""
        return Share(self, begin, end)


class ProgressBar:
    """A `Report` for people: `with ProgressBar("training") as report: report("epoch 1", 0.01)`.

    On a terminal the lines scroll above a bar with the time left; elsewhere they are all there is.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self.title, total=1.0)
        return self

    def __call__(self, line: str | None, done: float | None = None) -> None:
        """Say one line, or only move the bar."""
        if self._progress is None:
            if line is not None:
                print(line, file=sys.stderr, flush=True)
            return
        if line is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        if done is not None:
            self._progress.update(self._task, completed=done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
