"""Records that reach a tracker in order, however it behaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from scanloom.pipeline.training import outbox as module
from scanloom.pipeline.training.outbox import Outbox, Record, RefusedError, refused, unsent


class Tracker:
    """Takes records, unless it is away, hangs, or refuses them."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.away = False
        self.hangs = threading.Event()
        self.hangs.set()

    def __call__(self, record: Record) -> str | None:
        self.hangs.wait(240)
        if self.away:
            raise ConnectionError
        if record["n"] == "never":
            raise RefusedError("no such thing")
        self.taken.append(record["n"])
        return f"note {record['n']}" if record["n"] == 3 else None


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr(module, "LONGEST_ATTEMPT_S", 0.3)


def put(outbox: Outbox, *numbers: int | str) -> None:
    for number in numbers:
        outbox.put({"n": number})


def eventually(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 240
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.005)
    return is_so()


def test_records_arrive_in_order_and_notes_are_kept(tmp_path: Path) -> None:
    tracker = Tracker()
    outbox = Outbox(tmp_path, tracker)
    put(outbox, *range(50))
    assert outbox.close(10) == 0
    assert tracker.taken == list(range(50)) and outbox.notes == ["note 3"] and unsent(tmp_path) == 0


def test_a_tracker_that_goes_away_and_comes_back_misses_nothing(tmp_path: Path) -> None:
    tracker = Tracker()
    outbox = Outbox(tmp_path, tracker)
    put(outbox, 1)
    assert eventually(lambda: tracker.taken == [1])
    tracker.away = True
    put(outbox, 2, 3)
    time.sleep(0.1)
    assert tracker.taken == [1]
    tracker.away = False
    assert outbox.close(10) == 0 and tracker.taken == [1, 2, 3]


def test_a_tracker_that_hangs_does_not_slow_who_puts(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.hangs.clear()
    outbox = Outbox(tmp_path, tracker)
    began = time.perf_counter()
    put(outbox, *range(1000))
    assert time.perf_counter() - began < 30  # it hangs for a minute
    assert outbox.close(0.05) == 1000
    assert unsent(tmp_path) == 1000
    tracker.hangs.set()


def test_the_end_waits_for_a_record_that_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_ATTEMPT_S", 10)
    tracker = Tracker()
    tracker.hangs.clear()
    outbox = Outbox(tmp_path, tracker)
    put(outbox, 1, 2)
    threading.Timer(0.3, tracker.hangs.set).start()
    assert outbox.close(0.01) == 0 and tracker.taken == [1, 2]


def test_what_was_not_sent_is_sent_by_the_next_one(tmp_path: Path) -> None:
    tracker = Tracker()
    tracker.away = True
    first = Outbox(tmp_path, tracker)
    put(first, 1, 2)
    assert first.close(0.05) == 2
    again = Tracker()
    second = Outbox(tmp_path, again)
    put(second, 3)
    assert second.close(10) == 0 and again.taken == [1, 2, 3]
    assert [record["n"] for record in second.records()] == [1, 2, 3]


def test_a_record_cut_off_by_a_kill_is_dropped_and_the_next_is_whole(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"n": 1}\n{"n": 2}\n{"n": ')
    tracker = Tracker()
    outbox = Outbox(tmp_path, tracker)
    put(outbox, 4)
    assert outbox.close(10) == 0 and tracker.taken == [1, 2, 4]
    assert [json.loads(line)["n"] for line in (tmp_path / "records.jsonl").read_text().splitlines()] == [1, 2, 4]


def test_a_count_cut_off_by_a_kill_sends_again_rather_than_not(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"n": 1}\n')
    (tmp_path / "sent").write_text("")
    tracker = Tracker()
    assert Outbox(tmp_path, tracker).close(10) == 0
    assert tracker.taken == [1]


def test_what_is_refused_for_good_is_kept_aside_and_holds_nothing_up(tmp_path: Path) -> None:
    tracker = Tracker()
    outbox = Outbox(tmp_path, tracker)
    put(outbox, 1, "never", 2)
    assert outbox.close(10) == 0
    assert tracker.taken == [1, 2] and refused(tmp_path) == 1
    assert json.loads((tmp_path / "refused.jsonl").read_text()) == {"n": "never"}
