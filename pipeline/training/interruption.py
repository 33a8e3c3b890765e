"""How a signal ends a training: Ctrl-C and SIGTERM alike, and never unheard."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether a signal came.

    Python drops an exception that a signal raises inside a finaliser or a callback of a weak reference, and goes on; so
    a training asks `check` as it goes.
    """

    def __init__(self) -> None:
        self.came = False

    def interrupt(self, signum: int, frame: object) -> None:
        """A handler of signals."""
        self.came = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raises KeyboardInterrupt where a signal came."""
        if self.came:
            raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Let SIGTERM end the block as Ctrl-C does, so that the run's status becomes KILLED."""
    interruption = Interruption()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, interruption.interrupt) for each in signals]
    try:
        yield interruption
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)
