"""When a study is complete."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from scanloom.pipeline.pacs.arrivals import MANY_TIMES, Arrivals


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Arrivals, Clock]:
    clock = Clock()
    return Arrivals(10.0, clock), clock


def test_a_study_is_quiet_after_its_last_instance() -> None:
    arrivals, clock = make()
    assert arrivals.note("one")
    clock.now += 9
    assert not arrivals.note("one")
    clock.now += 9
    assert arrivals.take(0) is None
    clock.now += 1
    assert arrivals.take(0) == "one"
    assert arrivals.take(0) is None
    assert arrivals.names() == set()


def test_the_study_that_has_waited_longest_comes_first() -> None:
    arrivals, clock = make()
    for study in ("b", "a", "c"):
        arrivals.note(study)
        clock.now += 1
    clock.now += 20
    assert [arrivals.take(0) for _ in range(3)] == ["b", "a", "c"]


def test_an_open_association_that_sent_it_holds_a_study_back_but_not_for_ever() -> None:
    arrivals, clock = make()
    sender, other = SimpleNamespace(is_established=True), SimpleNamespace(is_established=True)
    arrivals.note("one", sender)
    arrivals.note("two", other)
    other.is_established = False
    clock.now += 11
    assert arrivals.take(0) == "two"
    assert arrivals.take(0) is None
    sender.is_established = False
    assert arrivals.take(0) == "one"
    sender.is_established = True
    arrivals.note("one", sender)
    clock.now += 10 * MANY_TIMES - 1
    assert arrivals.take(0) is None
    clock.now += 1
    assert arrivals.take(0) == "one"


def test_what_comes_after_a_study_was_taken_makes_it_a_new_arrival() -> None:
    arrivals, clock = make()
    arrivals.note("one")
    clock.now += 10
    assert arrivals.take(0) == "one"
    assert arrivals.note("one")
    assert arrivals.names() == {"one"}


def test_nothing_comes_while_a_study_is_cleared_away() -> None:
    arrivals, _ = make()
    noted = threading.Event()

    def note() -> None:
        arrivals.note("one")
        noted.set()

    with arrivals.kept_out("one") as is_alone:
        assert is_alone
        thread = threading.Thread(target=note)
        thread.start()
        assert not noted.wait(0.2)
    thread.join()
    assert noted.is_set()
    with arrivals.kept_out("one") as is_alone:
        assert not is_alone


def test_a_study_that_was_taken_is_left_alone_until_it_is_finished() -> None:
    arrivals, clock = make()
    arrivals.note("one")
    clock.now += 10
    assert arrivals.take(0) == "one"
    with arrivals.kept_out("one") as is_alone, arrivals.kept_out("two") as other_is_alone:
        assert not is_alone and other_is_alone
    arrivals.finish()
    with arrivals.kept_out("one") as is_alone:
        assert is_alone


def test_a_study_is_not_quiet_while_an_instance_is_stored_however_long_that_takes() -> None:
    arrivals, clock = make()
    gone = SimpleNamespace(is_established=False)
    with arrivals.coming("one", gone) as is_first:
        assert is_first
        clock.now += 1000
        assert arrivals.take(0) is None
    clock.now += 9
    assert arrivals.take(0) is None
    clock.now += 1
    assert arrivals.take(0) == "one"
