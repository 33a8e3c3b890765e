import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from scanloom.pipeline import lock as lock_module
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.lock import NAME, FolderInUseError, locked

HOLD = """
import sys, time
from pathlib import Path
from scanloom.pipeline.atomic import atomic
from scanloom.pipeline.lock import locked
with locked(Path(sys.argv[1])), atomic(Path(sys.argv[1]) / "scan.nii") as temporary:
    temporary.write_text("half")
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen:
    """Another process, which holds the folder and is writing a file there."""
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    other.stdout.close()
    return other


def write_lock(folder: Path, **entries: object) -> None:
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    (folder / NAME).write_text(json.dumps(me | entries))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_lock_says_who_holds_it_and_is_given_back(tmp_path):
    with locked(tmp_path):
        entry = json.loads((tmp_path / NAME).read_text())
        assert (entry["host"], entry["pid"]) == (socket.gethostname(), os.getpid())
    assert names(tmp_path) == []


@pytest.mark.parametrize("stop", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_lock_is_given_back_whatever_stops_the_run(tmp_path, stop):
    with pytest.raises(stop), locked(tmp_path):
        raise stop
    assert names(tmp_path) == []


def test_a_second_run_stops_at_once_and_the_first_goes_on(tmp_path):
    other = hold(tmp_path)
    try:
        before = names(tmp_path)
        message = rf"another run is writing there \(process {other.pid}, since .*\). Wait until it is done, stop it, or"
        with pytest.raises(FolderInUseError, match=message) as caught, locked(tmp_path):
            pytest.fail("both ran")
        assert caught.value.exit_status == 1
        assert names(tmp_path) == before
    finally:
        other.kill()
        other.wait()


def test_a_run_that_is_told_to_terminate_leaves_nothing(tmp_path):
    other = hold(tmp_path)
    other.terminate()
    assert other.wait(240) == 128 + signal.SIGTERM
    assert names(tmp_path) == []


def test_the_lock_and_half_a_file_of_a_killed_run_are_cleared_away(tmp_path):
    other = hold(tmp_path)
    other.kill()
    other.wait()
    assert len(names(tmp_path)) == 2
    with locked(tmp_path):
        assert names(tmp_path) == [NAME]
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_another_process_of_the_same_number_does_not_hold_the_lock(tmp_path):
    write_lock(tmp_path, started=1e9)
    with locked(tmp_path):
        assert json.loads((tmp_path / NAME).read_text())["started"] > 1e9


def test_a_lock_of_another_machine_is_never_taken_over(tmp_path):
    write_lock(tmp_path, host="elsewhere", pid=2**22 + 1)
    message = rf"a run on elsewhere is writing there \(process 4194305, .*if that run has ended, delete .*{NAME}"
    with pytest.raises(FolderInUseError, match=message), locked(tmp_path):
        pytest.fail("both ran")
    assert json.loads((tmp_path / NAME).read_text())["host"] == "elsewhere"


@pytest.mark.parametrize("content", ["", "{}", "no json", '{"host": "a", "pid": null, "started": 0}'])
def test_a_lock_that_names_nobody_is_refused_with_the_file_to_delete(tmp_path, monkeypatch, content):
    monkeypatch.setattr(lock_module, "PAUSE_S", 0)
    (tmp_path / NAME).write_text(content)
    with pytest.raises(FolderInUseError, match=rf"If none is writing there, delete .*{NAME}"), locked(tmp_path):
        pytest.fail("ran")


def test_of_many_that_find_a_dead_lock_one_gets_it(tmp_path):
    write_lock(tmp_path, started=1e9)
    inside, most, refused = [], [], []
    barrier = threading.Barrier(8)

    def run() -> None:
        barrier.wait()
        try:
            with locked(tmp_path):
                inside.append(1)
                most.append(len(inside))
                barrier.wait(240)
                inside.pop()
        except FolderInUseError:
            refused.append(1)
            barrier.wait(240)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(refused)) == ([1], 7)


def test_a_lock_that_another_run_is_taking_over_is_that_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(lock_module, "ATTEMPTS", 300)
    write_lock(tmp_path, started=1e9)
    parent = psutil.Process(os.getppid())

    def take() -> None:
        time.sleep(0.2)
        write_lock(tmp_path, pid=parent.pid, started=parent.create_time())

    with (tmp_path / NAME).open("r+") as file:
        lock_module._lock_file(file.fileno())
        other = threading.Thread(target=take)
        other.start()
        message = rf"another run is writing there \(process {parent.pid},"
        with pytest.raises(FolderInUseError, match=message), locked(tmp_path):
            pytest.fail("ran")
        other.join()


def test_a_lock_that_another_run_took_over_is_left_to_it(tmp_path):
    with locked(tmp_path):
        write_lock(tmp_path, host="elsewhere")
    assert names(tmp_path) == [NAME]


def test_an_own_handler_of_the_signal_stays(tmp_path):
    before = signal.signal(signal.SIGTERM, handler := lambda number, frame: None)
    try:
        with locked(tmp_path):
            assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)
    with locked(tmp_path):
        assert signal.getsignal(signal.SIGTERM) is lock_module._stop
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_is_made_and_one_that_can_not_be_is_named(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b" / NAME).exists()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match=r"can not write to .*file/out"), locked(tmp_path / "file" / "out"):
        pytest.fail("ran")
