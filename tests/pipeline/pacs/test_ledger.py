"""What is written down of a study."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.pacs.ledger import Delivery, Ledger, Run, State, run_name


def ledger(folder: Path) -> Ledger:
    return Ledger(lambda study: folder / study)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = Run("r", "b", ["1", "2"], "done", 2, "why", {"PACS@h:1": Delivery("failed", ["seg.dcm"], "no")})
    ledger(tmp_path).change("one", lambda state: state.runs.append(run))
    assert ledger(tmp_path).read("one") == State([run])
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["state.json"]


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"runs": 1}', '{"runs": [1]}', '{"runs": [{"a": 1}]}'])
def test_a_state_that_can_not_be_read_is_as_none(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "state.json").write_text(content)
    assert ledger(tmp_path).read("one") == State()


def test_changes_of_many_threads_are_all_kept(tmp_path: Path) -> None:
    book = ledger(tmp_path)

    def add(number: int) -> None:
        book.change("one", lambda state: state.runs.append(Run(str(number), "b", [])))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(book.read("one").runs) == 12


def test_images_that_an_ended_run_had_are_covered() -> None:
    state = State([Run("r", "b", ["1", "2"], "done")])
    assert state.covers(["1"]) and state.covers(["1", "2"]) and not state.covers(["1", "3"])
    assert state.covers(["1"], "b") and not state.covers(["1"], "another")


@pytest.mark.parametrize(
    ("status", "on_restart", "when_sent_again"),
    [
        ("computing", False, False),
        ("done", True, True),
        ("held", True, True),
        ("refused", True, True),
        ("failed", True, False),
    ],
)
def test_only_what_went_wrong_is_run_again_when_it_is_sent_again(
    status: str, on_restart: bool, when_sent_again: bool
) -> None:
    state = State([Run("r", "b", ["1"], status)])
    assert (state.covers(["1"]), state.covers(["1"], "b")) == (on_restart, when_sent_again)


def test_the_state_of_a_study_in_a_word() -> None:
    def word(status: str, **deliveries: str) -> str:
        sent = {name: Delivery(each) for name, each in deliveries.items()}
        return State([Run("r", "b", [], status, deliveries=sent)]).status

    assert State().status == "new"
    assert word("computing") == "computing"
    assert word("done") == word("done", a="sent") == "finished"
    assert word("done", a="sent", b="waiting") == "forwarding"
    assert word("done", a="sent", b="failed") == word("refused") == word("failed") == word("held") == "failed"


def test_a_run_is_named_by_study_images_and_bundle_in_any_order() -> None:
    assert run_name("s", ["1", "2"], "b") == run_name("s", ["2", "1"], "b")
    assert len({run_name("s", ["1", "2"], "b"), run_name("s", ["1"], "b"), run_name("s", ["1", "2"], "c")}) == 3
    assert run_name("s", ["1", "2"], "b") != run_name("t", ["1", "2"], "b")


def test_a_state_that_the_disk_does_not_give_is_not_taken_for_none(tmp_path: Path) -> None:
    (tmp_path / "one" / "state.json").mkdir(parents=True)
    book = ledger(tmp_path)
    with pytest.raises(PipelineError, match=r"state\.json: can not be read \(.+\)\. Check disk and permissions"):
        book.read("one")
    with pytest.raises(PipelineError, match="can not be read"):
        book.change("one", lambda state: state.runs.append(Run("r", "b", [])))
    assert (tmp_path / "one" / "state.json").is_dir()


@pytest.mark.parametrize(
    ("state", "images", "is_left"),
    [
        (State(), [], False),
        (State(), ["1"], True),
        (State([Run("r", "b", ["1"], "done")]), ["1"], False),
        (State([Run("r", "b", ["1"], "done")], again=True), ["1"], True),
        (State([Run("r", "b", ["1"], "done"), Run("s", "c", ["1"])]), ["1"], True),
        (State([Run("r", "b", ["1"], "failed")]), [], False),
    ],
)
def test_what_a_start_has_to_look_at(tmp_path: Path, state: State, images: list[str], is_left: bool) -> None:
    def copy(other: State) -> None:
        other.runs, other.again = state.runs, state.again

    ledger(tmp_path).change("one", copy)
    read = ledger(tmp_path).read("one")
    assert read == state and read.is_left(images) == is_left
