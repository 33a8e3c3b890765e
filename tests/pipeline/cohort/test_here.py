"""A run on this machine: three cases at a time, in order, in bounds, and none lost to what dies."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from factories import make_bundle, make_volume, write_nifti
from scanloom.pipeline import worker_process
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.cohort import here, labelling
from scanloom.pipeline.cohort.destination import destination_of
from scanloom.pipeline.cohort.here import Room
from scanloom.pipeline.cohort.job import Job, inputs_of
from scanloom.pipeline.cohort.writer import WriterProcess
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.prediction import CaseResult
from scanloom.pipeline.progress import Report
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.volume import Volume


class Labels:
    """Stands for a loaded network, and tells when it works on what."""

    device_name = "cpu"
    facts: dict[str, Any] = {}  # noqa: RUF012
    notices = ()
    surface_confidence: dict[int, float] = {}  # noqa: RUF012
    confidence = None

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.on_begin: dict[str, Any] = {}

    def __call__(self, volume: Volume, report: Report) -> np.ndarray:
        self.begun.append(volume.case)
        self.on_begin.get(volume.case, lambda: None)()
        return (volume.array[0] > volume.array.mean()).astype(np.uint8)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Labels:
    made = Labels()
    monkeypatch.setattr(labelling, "load_predictor", lambda job: made)
    return made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def options(tmp_path: Path, count: int, **settings: Any) -> PredictOptions:
    """Of a prediction of scans that are called scan0, scan1, …"""
    array, affine = make_volume((12, 13, 14))
    scans = [write_nifti(tmp_path / f"scan{number}.nii.gz", array, affine) for number in range(count)]
    return PredictOptions(scans, tmp_path / "out", trust_bundle=True, pages=False, **settings)


def writer_of(thread_name: str = "write") -> psutil.Process:
    """The process that writes, found among this one's children."""
    for child in psutil.Process().children():
        if "scanloom.pipeline.cohort.writer" in child.cmdline():
            return child
    raise AssertionError("nobody writes")


def wait_for(condition: Any, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_the_next_case_is_read_and_the_last_one_written_while_one_is_labelled(
    tmp_path: Path, bundle: Bundle, network: Labels
) -> None:
    lines: list[str] = []

    def both() -> None:
        """In the middle of the second case: it does not end before both have happened."""
        wait_for((tmp_path / "out" / "scan0" / "report.json").is_file)
        wait_for(lambda: any("scan2: reading" in line for line in lines))

    network.on_begin["scan1"] = both
    results = predict(bundle, options(tmp_path, 3), lambda line, done=None: lines.append(line or ""))
    assert [(result.case, result.status) for result in results] == [(f"scan{number}", "done") for number in range(3)]


def test_one_scan_is_read_beside_the_one_that_is_labelled_and_no_more(
    tmp_path: Path, bundle: Bundle, network: Labels
) -> None:
    lines: list[str] = []

    def look() -> None:
        wait_for(lambda: any("scan1: reading" in line for line in lines))
        time.sleep(1)  # in which a third might be read
        assert sum(": reading" in line for line in lines) == 2

    network.on_begin["scan0"] = look
    results = predict(bundle, options(tmp_path, 6), lambda line, done=None: lines.append(line or ""))
    assert {result.status for result in results} == {"done"}


def test_a_writer_that_is_killed_loses_no_case(
    tmp_path: Path, bundle: Bundle, network: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    ask = worker_process.WorkerProcess.ask

    def kill_first(self: worker_process.WorkerProcess, request: Any) -> Any:
        """The process that is asked to write scan1 dies while it does, once."""
        if isinstance(request[0], CaseResult) and request[0].case == "scan1" and not killed:
            (tmp_path / "out" / "scan1").mkdir()
            (tmp_path / "out" / "scan1" / ".part-0123abcd-labels.nii.gz").write_text("half")
            assert self.pid is not None
            killed.append(self.pid)
            os.kill(self.pid, signal.SIGKILL)
        return ask(self, request)

    monkeypatch.setattr(worker_process.WorkerProcess, "ask", kill_first)
    results = predict(bundle, options(tmp_path, 4))
    assert killed
    assert [result.status for result in results] == ["done"] * 4
    for number in range(4):
        assert (tmp_path / "out" / f"scan{number}" / "report.json").is_file()
    assert not list((tmp_path / "out").rglob(".part-*"))


def test_a_case_that_no_writer_survives_is_named_as_failed(
    tmp_path: Path, bundle: Bundle, network: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = WriterProcess.__call__
    stop = threading.Event()

    def killing(self: WriterProcess, result: Any, scan: Any, labelled: Any) -> Any:
        """Kills each process that writes scan1."""
        if result.case != "scan1":
            return write(self, result, scan, labelled)

        def kill() -> None:
            while not stop.wait(0.01):
                with suppress(ProcessLookupError):
                    if self.pid:
                        os.kill(self.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            return write(self, result, scan, labelled)
        finally:
            stop.set()
            killer.join()

    monkeypatch.setattr(WriterProcess, "__call__", killing)
    results = predict(bundle, options(tmp_path, 3))
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert "scan1: its files could not be written in two attempts (killed by SIGKILL)" in str(results[1].error)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def test_an_interrupt_leaves_the_last_case_written_and_no_process(
    tmp_path: Path, bundle: Bundle, network: Labels
) -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)

    network.on_begin["scan1"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        predict(bundle, options(tmp_path, 3))
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        assert [(row["case"], row["status"]) for row in csv.DictReader(file)] == [("scan0", "done")]
    assert not [child for child in psutil.Process().children() if "scanloom" in " ".join(_command(child))]


def test_a_second_interrupt_ends_what_is_being_written_and_leaves_no_process(
    tmp_path: Path, bundle: Bundle, network: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, settle = WriterProcess.__call__, here.Writing._settle

    def stopped(self: WriterProcess, *arguments: Any) -> Any:
        """Writes in a process that stands still."""
        assert self.pid is not None
        os.kill(self.pid, signal.SIGSTOP)
        return write(self, *arguments)

    def interrupt() -> None:
        raise KeyboardInterrupt

    def settle_interrupted(self: here.Writing, most: int) -> None:
        if most == 0:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        settle(self, most)

    monkeypatch.setattr(WriterProcess, "__call__", stopped)
    monkeypatch.setattr(here.Writing, "_settle", settle_interrupted)
    network.on_begin["scan1"] = interrupt
    with pytest.raises(KeyboardInterrupt):
        predict(bundle, options(tmp_path, 3))
    assert not [child for child in psutil.Process().children() if "scanloom" in " ".join(_command(child))]
    assert not list((tmp_path / "out").glob("*.csv"))


@pytest.mark.parametrize("asking_process_is_gone", [False, True])
def test_what_a_writer_left_is_removed(tmp_path: Path, bundle: Bundle, asking_process_is_gone: bool) -> None:
    writer = WriterProcess(Job(bundle, (), options(tmp_path, 0), destination_of(tmp_path / "out")))
    try:
        scratch = Path(psutil.Process(writer.pid).environ()["TMPDIR"])
        (scratch / "preview.png").touch()
        if asking_process_is_gone:
            channel = writer._worker._channel
            assert channel is not None
            channel.close()
            wait_for(lambda: not scratch.exists(), 60)
    finally:
        writer.close()
    assert not scratch.exists()


def test_a_case_that_can_not_be_handed_to_its_writer_is_failed_and_the_others_go_on(
    tmp_path: Path, bundle: Bundle, network: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = worker_process.send

    def full(channel: Any, message: Any) -> None:
        if isinstance(message[0], CaseResult) and message[0].case == "scan1":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        send(channel, message)

    monkeypatch.setattr(worker_process, "send", full)
    results = predict(bundle, options(tmp_path, 3))
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert "scan1: its files could not be written in two attempts (Cannot allocate" in str(results[1].error)


def test_a_table_that_can_not_be_written_stops_the_run(
    tmp_path: Path, bundle: Bundle, network: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise PipelineError("summary.csv: can not be written")

    monkeypatch.setattr("scanloom.pipeline.cohort.tables.write_summary", full)
    with pytest.raises(PipelineError, match="can not be written"):
        predict(bundle, options(tmp_path, 6))
    assert len(network.begun) < 6


def test_a_single_case_needs_no_process_to_write_it(tmp_path: Path, bundle: Bundle, network: Labels) -> None:
    def look() -> None:
        with pytest.raises(AssertionError, match="nobody writes"):
            writer_of()

    network.on_begin["scan0"] = look
    [result] = predict(bundle, options(tmp_path, 1))
    assert result.status == "done"


def test_where_memory_is_short_a_scan_waits_until_those_before_it_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "_fits", lambda size: size < 100)
    room, read = Room(), []

    def reader() -> None:
        room.wait(50)
        read.append("small")
        room.wait(500)
        read.append("large")

    room.take()
    thread = threading.Thread(target=reader)
    thread.start()
    wait_for(lambda: read == ["small"])
    time.sleep(3 * here.LOOK_AGAIN_SECONDS)
    assert read == ["small"]
    room.give()
    thread.join(30)
    assert read == ["small", "large"]


def test_an_interrupt_where_memory_is_short_does_not_wait_for_what_will_not_come(
    tmp_path: Path, bundle: Bundle, network: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_up = threading.Event()

    def never(size: int) -> bool:
        held_up.set()
        return False

    def interrupt() -> None:
        assert held_up.wait(240)
        raise KeyboardInterrupt

    monkeypatch.setattr(here, "_fits", never)
    network.on_begin["scan0"] = interrupt
    ended = threading.Event()

    def run() -> None:
        with suppress(KeyboardInterrupt):
            predict(bundle, options(tmp_path, 3))
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    assert ended.wait(240)


def test_a_scan_fits_where_there_is_room_for_what_is_made_of_it() -> None:
    assert here._fits(2**10)
    assert not here._fits(2**50)


def test_scans_of_one_name_in_a_cohort_s_folders_are_told_apart_and_the_unreadable_are_named(
    tmp_path: Path, bundle: Bundle, network: Labels
) -> None:
    array, affine = make_volume((12, 13, 14))
    for patient in ("one", "two"):
        (tmp_path / "cohort" / patient).mkdir(parents=True)
        write_nifti(tmp_path / "cohort" / patient / "t1.nii.gz", array, affine)
    (tmp_path / "cohort" / "broken").mkdir()
    (tmp_path / "cohort" / "broken" / "x.dcm").write_bytes(bytes(128) + b"DICM" + b"rubbish" * 20)
    asked = PredictOptions([tmp_path / "cohort"], tmp_path / "out", cohort=True, trust_bundle=True, pages=False)
    results = predict(bundle, asked)
    names = [str(result.case) for result in results]
    assert len({*names}) == 3
    assert sorted(name.partition("-")[0] for name in names) == ["input", "t1", "t1"]
    assert sorted(result.status for result in results) == ["done", "done", "refused"]
    shutil.move(tmp_path / "cohort", tmp_path / "moved")
    moved = PredictOptions(
        [tmp_path / "moved"], tmp_path / "out", cohort=True, trust_bundle=True, pages=False, skip_existing=True
    )
    assert [result.case for result in predict(bundle, moved)] == names


def test_inputs_are_the_same_for_a_process_that_runs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = write_nifti(tmp_path / "cohort" / "t1.nii.gz", *make_volume((12, 13, 14)))
    (tmp_path / "cohort" / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    for output in ("cohort/out", f"file://{tmp_path}/cohort/out"):
        [given] = inputs_of(PredictOptions([Path("cohort")], output, cohort=True))
        assert given.given == scan
    [given] = inputs_of(PredictOptions([Path("cohort/t1.nii.gz")], "out"))
    assert given.given == scan


def test_what_travels_to_other_processes_holds_no_other_inputs(tmp_path: Path, bundle: Bundle) -> None:
    asked = options(tmp_path, 3)
    job = Job(bundle, inputs_of(asked), asked, destination_of(asked.output))
    travelling = job.travelling()
    assert (travelling.inputs, travelling.options.inputs) == ((), ())
    assert travelling.bundle.private_copy is None


def test_cases_that_take_long_to_write_are_written_two_at_a_time(
    tmp_path: Path, bundle: Bundle, network: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writing, most = WriterProcess.__call__, [0], [0]
    both = threading.Event()

    def slow(self: WriterProcess, *arguments: Any) -> Any:
        writing[0] += 1
        most[0] = max(most[0], writing[0])
        if writing[0] == here.WRITERS:
            both.set()
        assert both.wait(240)
        try:
            return write(self, *arguments)
        finally:
            writing[0] -= 1

    monkeypatch.setattr(WriterProcess, "__call__", slow)
    results = predict(bundle, options(tmp_path, 6))
    assert [result.status for result in results] == ["done"] * 6
    assert most == [here.WRITERS]
