"""Results on their way to the destinations: each has a thread and a queue of its own, and none holds up another."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Protocol

from ..errors import PipelineError, our_own
from .addresses import Destination
from .instance import study_name
from .ledger import FAILED, SENT, WAITING, Delivery, Ledger, State
from .metrics import Metrics
from .sending import Sent

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
Say = Callable[[str], None]


class Sends(Protocol):
    """What `sending.Sender` does."""

    def send(self, destination: Destination, files: Sequence[Path]) -> Sent:
        """Try to store every file."""

    def close(self) -> None:
        """Break off what is being sent."""


class Forwarder:
    """Brings results to one destination, however long it is away.

    Args:
        destination: where to.
        sender: how.
        ledger: where each delivery is written down before it counts.
        files: the objects of a study's run, in the order in which they are sent.
        ended: told of a study of which nothing is left to deliver here.
        metrics, say: counters and log.
        first_pause_s: after the first failure; each one after it doubles, up to the longest.
    """

    def __init__(
        self,
        destination: Destination,
        sender: Sends,
        ledger: Ledger,
        files: Callable[[str, str], list[Path]],
        ended: Callable[[str], None],
        metrics: Metrics,
        say: Say,
        first_pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        self.destination, self.name = destination, str(destination)
        self._sender, self._ledger, self._files, self._ended = sender, ledger, files, ended
        self._metrics, self._say = metrics, say
        self._first_pause_s, self._longest_pause_s = first_pause_s, longest_pause_s
        self._queue: list[tuple[float, int, str, str, int]] = []  # due, order, study, run, failures so far
        self._order = 0
        self._failures = 0  # in a row, of the destination
        self._not_before = 0.0
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=f"forward {self.name}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, patience_s: float = 5.0) -> None:
        """End after the study that is being sent, or in the middle of it where that takes long: it is sent again."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def add(self, study: str, run: str) -> None:
        """Deliver the results of this run."""
        self._push(study, run, monotonic(), 0)

    @property
    def waiting(self) -> int:
        """How many results are in the queue."""
        with self._changed:
            return len(self._queue)

    def _push(self, study: str, run: str, due: float, failures: int) -> None:
        with self._changed:
            if not any(entry[2:4] == (study, run) for entry in self._queue):
                self._order += 1
                heapq.heappush(self._queue, (due, self._order, study, run, failures))
                self._changed.notify_all()

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            study, run, failures = entry
            try:
                self._deliver(study, run, failures)
            except Exception as error:  # the outermost loop of this thread: one study must not end it
                reason = str(error) if isinstance(error, PipelineError) else our_own(error)
                self._say(f"{study_name(study)}: not sent to {self.name} yet: {reason}")
                self._push(study, run, monotonic() + self._pause(failures + 1), failures + 1)

    def _next(self) -> tuple[str, str, int] | None:
        """The next delivery when it is due, as is the destination; None at the end."""
        with self._changed:
            while not self._stopping:
                due = max(self._queue[0][0], self._not_before) if self._queue else None
                if due is not None and due <= monotonic():
                    _, _, study, run, failures = heapq.heappop(self._queue)
                    return study, run, failures
                self._changed.wait(None if due is None else due - monotonic())
            return None

    def _pause(self, failures: int) -> float:
        return min(self._first_pause_s * 2 ** min(failures - 1, 30), self._longest_pause_s)

    def _deliver(self, study: str, run: str, failures: int) -> None:
        delivery = self._delivery(self._ledger.read(study), run)
        if delivery is None or delivery.status != WAITING:  # a newer run has taken its place
            self._ended(study)
            return
        every = self._files(study, run)
        files = [file for file in every if _short(file) not in delivery.sent]
        if not every:
            result = Sent(refused={Path(): "there are no result objects to send"})
        elif files:
            with self._metrics.forward_seconds.labels(self.name).time():
                result = self._sender.send(self.destination, files)
            self._note_reached(result)
        else:
            result = Sent()
        delivery = self._write_down(study, run, result)
        if result.problem:
            failures += result.was_reached
            pause = self._pause(failures if result.was_reached else self._failures)
            self._metrics.not_sent.labels(self.name, "retried").inc()
            self._say(f"{study_name(study)}: {self.name}: {result.problem}; tried again in {pause:.0f} s")
            self._push(study, run, monotonic() + (pause if result.was_reached else 0), failures)
            return
        if delivery is None:
            return
        if delivery.status == FAILED:
            self._metrics.not_sent.labels(self.name, "refused").inc()
            self._say(f"{study_name(study)}: failed at {self.name}: {delivery.reason}")
        else:
            self._say(f"{study_name(study)}: sent to {self.name} ({len(files)} objects)")
        self._ended(study)

    def _note_reached(self, result: Sent) -> None:
        """While the destination is away no study is tried there; then every one at once."""
        self._metrics.reached.labels(self.name).set(result.was_reached)
        self._metrics.sent.labels(self.name).inc(len(result.stored))
        with self._changed:
            self._failures = 0 if result.was_reached else self._failures + 1
            self._not_before = 0.0 if result.was_reached else monotonic() + self._pause(self._failures)

    def _write_down(self, study: str, run: str, result: Sent) -> Delivery | None:
        """What the attempt has changed, in the ledger."""

        def edit(state: State) -> None:
            delivery = self._delivery(state, run)
            if delivery is None:
                return
            delivery.sent += [_short(file) for file in result.stored]
            delivery.reason = result.problem
            if not result.problem:
                delivery.status = FAILED if result.refused else SENT
                delivery.reason = "; ".join(dict.fromkeys(result.refused.values()))

        return self._delivery(self._ledger.change(study, edit), run)

    def _delivery(self, state: State, run: str) -> Delivery | None:
        found = state.run(run)
        return found.deliveries.get(self.name) if found else None


def _short(file: Path) -> str:
    """Case and name of a result."""
    return f"{file.parent.name}/{file.name}"
