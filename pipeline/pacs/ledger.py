"""What has become of each study, in its state.json: which sets of images were computed, how, and who has the results.

With the files of the spool this is all that a node knows. A run that was begun and has its folder of results is done;
one without is made again. Images that no ended run covers are still to be computed.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..atomic import write_whole
from ..errors import PipelineError

COMPUTING, DONE, HELD, REFUSED, FAILED = "computing", "done", "held", "refused", "failed"
"""Of a run: begun; has results; has results that are not to be used; the study does not allow it; it went wrong."""
WAITING, SENT = "waiting", "sent"
"""Of a delivery, which may be FAILED, too."""


@dataclass
class Delivery:
    """How far the results of a run have come on their way to one destination.

    Attributes:
        status: "waiting", "sent" or "failed".
        sent: case and name of the files that the destination has stored.
        reason: why it failed, or why it waits.
    """

    status: str = WAITING
    sent: list[str] = field(default_factory=list)
    reason: str = ""


@dataclass
class Run:
    """One computation on one set of images.

    Attributes:
        name: 16 hex digits for study, images and bundle.
        bundle: for what computes: weights and formats.
        images: hashes of the images, sorted.
        status: "computing", "done", "held", "refused" or "failed".
        attempts: how often it was begun.
        reason: one line: why there is no result, or none to send.
        deliveries: by destination.
        beside: how the worst of the study's series ended, where the status is that of the best.
    """

    name: str
    bundle: str
    images: list[str]
    status: str = COMPUTING
    attempts: int = 0
    reason: str = ""
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    beside: str = DONE

    @property
    def is_waiting(self) -> bool:
        """Whether a destination is still to get its results."""
        return any(delivery.status == WAITING for delivery in self.deliveries.values())

    @property
    def has_failed(self) -> bool:
        """Whether it or a delivery ended badly."""
        return not {self.status, self.beside}.isdisjoint((HELD, REFUSED, FAILED)) or any(
            delivery.status == FAILED for delivery in self.deliveries.values()
        )


@dataclass
class State:
    """What is known of a study.

    Attributes:
        runs: all that still matter, the newest last.
        again: instances of it came after it was computed, and it has not been looked at since.
    """

    runs: list[Run] = field(default_factory=list)
    again: bool = False

    def run(self, name: str) -> Run | None:
        """The run of that name."""
        return next((run for run in self.runs if run.name == name), None)

    def covers(self, images: Iterable[str], bundle: str | None = None) -> bool:
        """Whether these images were all computed together, so that there is nothing new.

        Args:
            images: hashes.
            bundle: ask for this one, and for an end that would come out the same again; None for any end.
        """
        here = set(images)
        return not here or any(
            run.status != COMPUTING
            and here <= set(run.images)
            and (bundle is None or (run.bundle == bundle and FAILED not in (run.status, run.beside)))
            for run in self.runs
        )

    def is_left(self, images: Iterable[str]) -> bool:
        """Whether a node that starts has to look at the study, which has these images."""
        is_begun = any(run.status == COMPUTING for run in self.runs)
        return self.again or is_begun or not self.covers(images)

    @property
    def status(self) -> str:
        """In a word: "new", "computing", "forwarding", "failed" or "finished"."""
        if not self.runs:
            return "new"
        if self.runs[-1].status == COMPUTING:
            return COMPUTING
        if any(run.is_waiting for run in self.runs):
            return "forwarding"
        return FAILED if self.runs[-1].has_failed else "finished"


class Ledger:
    """Reads and writes the states; from any thread, one change at a time.

    Args:
        folder: gives the folder of a study.
    """

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self._folder = folder
        self._lock = threading.RLock()

    def read(self, study: str) -> State:
        """The state; an empty one where there is none, or what is there is none.

        Raises:
            PipelineError: the disk does not give it; an empty one would be written over it.
        """
        path = self._folder(study) / "state.json"
        try:
            content = json.loads(path.read_bytes())
            return State([_run(entry) for entry in content["runs"]], bool(content.get("again")))
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return State()
        except OSError as error:
            raise PipelineError(
                f"{path}: can not be read ({error.strerror or type(error).__name__}). Check disk and permissions."
            ) from None

    def change(self, study: str, edit: Callable[[State], None]) -> State:
        """Read, edit and write a state as one step; the new state.

        Raises:
            PipelineError: it can not be read or written; then the old one stands.
        """
        with self._lock:
            state = self.read(study)
            edit(state)
            content = json.dumps(asdict(state), indent=1)
            write_whole(self._folder(study) / "state.json", content.encode())
            return state


def run_name(study: str, images: Iterable[str], bundle: str) -> str:
    """16 hex digits that stand for a study, a set of its images and what computes them."""
    return hashlib.sha256("\n".join([study, bundle, *sorted(images)]).encode()).hexdigest()[:16]


def _run(entry: dict) -> Run:
    deliveries = {name: Delivery(**delivery) for name, delivery in entry.pop("deliveries").items()}
    return Run(**entry, deliveries=deliveries)
