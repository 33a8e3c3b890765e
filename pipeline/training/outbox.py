"""What a training tells its tracker, kept in a folder until the tracker has it.

Records are appended to a file and delivered in their order by a thread, so that a server that is slow, hangs or goes
away neither stops nor slows a training. What is not delivered stays for the next process that opens the outbox. A
record that was delivered just before a kill is delivered again: delivering has to be idempotent.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("scanloom.training")

RECORDS, SENT, REFUSED = "records.jsonl", "sent", "refused.jsonl"
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LONGEST_ATTEMPT_S = 600.0
"""How long the end waits for one record that is on its way: a large file on a slow line."""

Record = Mapping[str, Any]


class RefusedError(Exception):
    """The tracker has answered, and will never take this record."""


class Outbox:
    """The records of one run, and the thread that delivers them.

    Args:
        folder: of the outbox, made where it is missing; what it holds already is delivered first.
        deliver: given a record; raises RefusedError where there is no use in trying again, anything else where there
            is. What it returns, if not empty, is kept in `notes`.

    Attributes:
        folder: of the outbox; files that records speak of may be put there.
        notes: what `deliver` had to say.
    """

    def __init__(self, folder: Path, deliver: Callable[[Record], str | None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.notes: list[str] = []
        self._deliver = deliver
        self._records = _whole_records(folder / RECORDS)
        self._sent = _number(folder / SENT)
        self._file = (folder / RECORDS).open("a", encoding="utf-8")
        self._changed = threading.Condition()
        self._closing = self._abandoned = self._failing = False
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, record: Record) -> None:
        """Keep a record, to be delivered; a matter of microseconds."""
        with self._changed:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
            self._records.append(record)
            self._changed.notify_all()

    def records(self) -> list[Record]:
        """All that were ever put here, delivered or not."""
        with self._changed:
            return list(self._records)

    def close(self, timeout_s: float) -> int:
        """Wait until all is delivered, or attempts have failed for this long; the number of records that are not."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        sent, since = -1, time.monotonic()
        while self._thread.is_alive():
            if self._sent > sent:
                sent, since = self._sent, time.monotonic()
            elif self._failing or time.monotonic() - since > LONGEST_ATTEMPT_S:
                break
            self._thread.join(timeout_s)
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
            left = len(self._records) - self._sent
            self._file.close()
        return left

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        for number, record in self._pending():
            while not self._try(record):
                with self._changed:
                    if self._abandoned:
                        return
                    self._changed.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
            pause = FIRST_PAUSE_S
            with self._changed:
                self._failing = False
                self._sent = number
                _write_number(self.folder / SENT, number)

    def _pending(self) -> Iterator[tuple[int, Record]]:
        """Each record that is not delivered, with the number of those up to it; ends when the outbox is closed."""
        while True:
            with self._changed:
                while self._sent == len(self._records):
                    if self._closing:
                        return
                    self._changed.wait()
                number, record = self._sent + 1, self._records[self._sent]
            yield number, record

    def _try(self, record: Record) -> bool:
        """Whether the record is done with."""
        try:
            note = self._deliver(record)
        except RefusedError as error:
            log.warning("the tracker refuses a record: %s", error)
            with (self.folder / REFUSED).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            return True
        except Exception as error:  # whatever a network does
            log.info("the tracker does not answer (%s); trying again", type(error).__name__)
            self._failing = True
            return False
        if note:
            self.notes.append(note)
        return True


def unsent(folder: Path) -> int:
    """How many records of the outbox are not delivered."""
    return len(_whole_records(folder / RECORDS)) - _number(folder / SENT)


def refused(folder: Path) -> int:
    """How many records of the outbox the tracker has refused."""
    path = folder / REFUSED
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


def milliseconds() -> int:
    """Now, as trackers stamp metrics."""
    return int(time.time() * 1000)


def _whole_records(path: Path) -> list[Record]:
    """The file's records; what a kill left of a last one is cut off."""
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # none yet, or cut off by a kill: all is delivered again
        return 0


def _write_number(path: Path, number: int) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(str(number))
    aside.replace(path)
