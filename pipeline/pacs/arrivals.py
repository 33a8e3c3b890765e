"""Which studies are being received, and which have become quiet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

POLL_S = 0.25
"""How often the associations of a study are looked at; nothing tells when one has ended in every way that it can."""
MANY_TIMES = 10
"""An association that stays open for other studies holds a study back for this many quiet times, not for ever."""


class Sender(Protocol):
    """An association."""

    is_established: bool


@dataclass
class _Arrival:
    last: float
    senders: list[Sender] = field(default_factory=list)
    coming: int = 0

    def is_quiet(self, now: float, quiet_s: float) -> bool:
        if self.coming:
            return False
        silent = now - self.last
        sending = any(sender.is_established for sender in self.senders)
        return silent >= (quiet_s * MANY_TIMES if sending else quiet_s)


class Arrivals:
    """Studies between their first instance and their computation; every method may be called from any thread.

    Args:
        quiet_s: a study is complete when nothing has come for so long.
        clock: seconds that only grow.
    """

    def __init__(self, quiet_s: float, clock: Callable[[], float] = monotonic) -> None:
        self.quiet_s, self._clock = quiet_s, clock
        self._studies: dict[str, _Arrival] = {}
        self._taken: str | None = None
        self._changed = threading.Condition()

    def note(self, study: str, sender: Sender | None = None) -> bool:
        """The study is to be looked at when it is quiet. Returns whether it was not known of."""
        with self._changed:
            first = study not in self._studies
            arrival = self._studies.setdefault(study, _Arrival(self._clock()))
            arrival.last = self._clock()
            if sender is not None and sender not in arrival.senders:
                arrival.senders = [each for each in arrival.senders if each.is_established] + [sender]
            return first

    @contextmanager
    def coming(self, study: str, sender: Sender | None = None) -> Iterator[bool]:
        """Within it an instance of the study is being stored, however long the disk takes: until it is there the study
        is not quiet.

        Yields:
            Whether it is the first one.
        """
        with self._changed:
            first = self.note(study, sender)
            arrival = self._studies[study]
            arrival.coming += 1
        try:
            yield first
        finally:
            with self._changed:
                arrival.coming -= 1
                arrival.last = self._clock()

    def names(self) -> set[str]:
        """The studies that are being received."""
        with self._changed:
            return set(self._studies)

    def take(self, timeout_s: float) -> str | None:
        """The study that has been quiet longest, which is then no longer being received but worked on, until `finish`;
        None where none becomes quiet within the time."""
        end = self._clock() + timeout_s
        with self._changed:
            while True:
                now = self._clock()
                quiet = [(each.last, name) for name, each in self._studies.items() if each.is_quiet(now, self.quiet_s)]
                if quiet:
                    _, study = min(quiet)
                    del self._studies[study]
                    self._taken = study
                    return study
                if now >= end:
                    return None
                self._changed.wait(min(POLL_S, max(end - now, 0.001)))

    def finish(self) -> None:
        """The study that was taken is worked on no more."""
        with self._changed:
            self._taken = None

    @contextmanager
    def kept_out(self, study: str) -> Iterator[bool]:
        """Within it nothing of the study can come, so that what it no longer needs can be removed.

        Yields:
            False where something is coming already, or the study is worked on: then leave it alone.
        """
        with self._changed:
            yield study not in self._studies and study != self._taken
