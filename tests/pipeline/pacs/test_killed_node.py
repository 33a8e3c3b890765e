"""kill -9 at every step, then a new start: each study is finished, once, and the PACS has one set of results."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pydicom
import pytest
from killed_node import PLACES
from nodes import FakePacs, associated, fake_pacs, make_study, send, wait_for

SCRIPT = Path(__file__).with_name("killed_node.py")
MADE_TWICE = {
    "before a run is computed",
    "after a run is computed",
    "before the end lies with the results",
    "before the results take their place",
}
"""Where the first computation was begun, and is lost because its results are not yet in their place."""
pytestmark = pytest.mark.slow


@contextmanager
def node_process(folder: Path, pacs: FakePacs, *place: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process, and its port."""
    words = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), str(pacs.destination), *place]
    paths = os.pathsep.join([str(SCRIPT.parent), str(SCRIPT.parents[2])])
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths})
    try:
        assert process.stdout is not None
        port = next(line for line in process.stdout if line.startswith("port ")).split()[1]
        yield process, int(port)
    finally:
        process.kill()
        process.communicate()


def sent_until_killed(port: int, files: list[Path]) -> int:
    """How many instances were answered with success; the association may break off."""
    answered = 0
    with suppress(RuntimeError), associated(port, files) as association:
        for file in files:
            answered += association.send_c_store(file).get("Status") == 0
    return answered


def computed(folder: Path) -> list[str]:
    file = folder / "computed.txt"
    return file.read_text().split() if file.exists() else []


@pytest.mark.parametrize("place", PLACES)
def test_a_study_survives_kill_nine(tmp_path: Path, place: str) -> None:
    files, folder = make_study(tmp_path), tmp_path / "node"
    with fake_pacs() as pacs:
        with node_process(folder, pacs, place) as (process, port):
            answered = sent_until_killed(port, files)
            assert process.wait(240) == -signal.SIGKILL
        kept = {pydicom.dcmread(file).SOPInstanceUID for file in images(folder)}
        assert len(kept) >= answered or place == "after the images are removed"
        with node_process(folder, pacs) as (_, port):
            if answered < len(files):
                assert send(port, files) == [0] * len(files)  # as a sender does whose association broke off
            wait_for(lambda: '"sent"' in state(folder), "the delivery")
            wait_for(lambda: not images(folder), "the images to go")
            assert '"status": "done"' in state(folder)
            assert send(port, files) == [0] * len(files)
            wait_for(lambda: not images(folder), "the images to go again")
    results = [pydicom.dcmread(file) for file in folder.rglob("results-*/**/*.dcm")]
    assert {each.SOPInstanceUID for each in pacs.stored} == {each.SOPInstanceUID for each in results}
    assert len(results) == 2
    assert set(computed(folder)) == {"8"}
    assert len(computed(folder)) == (2 if place in MADE_TWICE else 1)


def images(folder: Path) -> list[Path]:
    return found(folder, "images/*.dcm")


def state(folder: Path) -> str:
    return "".join(file.read_text() for file in found(folder, "studies/*/state.json"))


def found(folder: Path, pattern: str) -> list[Path]:
    """Files below that match; `rglob` fails where one of its folders is removed at that moment."""
    files = [Path(inside, name) for inside, _, names in os.walk(folder) for name in names]
    return [file for file in files if file.match(pattern)]


def test_a_transfer_that_a_kill_cut_is_mended_by_sending_the_study_again(tmp_path: Path) -> None:
    files, folder = make_study(tmp_path), tmp_path / "node"
    with fake_pacs() as pacs:
        with node_process(folder, pacs) as (process, port), associated(port, files) as association:
            for file in files[:5]:
                assert association.send_c_store(file).Status == 0
            process.kill()
            process.wait()
        with node_process(folder, pacs) as (_, port):
            assert send(port, files) == [0] * len(files)
            wait_for(lambda: len(pacs.stored) == 2, "the results")
    assert computed(folder) == ["8"]


def test_a_kill_while_many_studies_are_on_their_way_loses_none(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    studies = [make_study(tmp_path, f"study{number}") for number in range(4)]

    def delivered() -> Any:
        return len({each.StudyInstanceUID for each in pacs.stored}) == 4

    with fake_pacs() as pacs:
        with node_process(folder, pacs) as (process, port):
            for files in studies:
                send(port, files)
            wait_for(lambda: computed(folder), "the first computation")
            process.kill()
        for _ in range(2):  # and again in the middle of what is taken up
            with node_process(folder, pacs) as (process, _):
                wait_for(lambda: len(computed(folder)) > 1, "another computation")
                process.kill()
        with node_process(folder, pacs):
            wait_for(delivered, "every study at the PACS")
            wait_for(lambda: not images(folder), "the images to go")
    results = {pydicom.dcmread(file).SOPInstanceUID for file in folder.rglob("results-*/**/*.dcm")}
    assert {each.SOPInstanceUID for each in pacs.stored} == results
    assert len(results) == 8
