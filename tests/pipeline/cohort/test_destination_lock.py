import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest
from scanloom.pipeline.cohort import destination_lock
from scanloom.pipeline.cohort.destination_lock import locked_store
from scanloom.pipeline.cohort.destination_store import Store
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.lock import NAME, FolderInUseError, Owner

HOLD = """
import sys, time
from scanloom.pipeline.cohort.destination import destination_of
with destination_of(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def store(bucket: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(destination_lock, "SETTLE_S", 0.0)
    return Store(f"s3://{bucket}/out")


@pytest.fixture
def other(store: Store) -> Iterator[subprocess.Popen]:
    """Another process, which holds the place."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, store.url], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def owner(store: Store) -> Owner | None:
    content = store.read(NAME)
    return None if content is None else Owner.parse(content)


def write_lock(store: Store, **entries: object) -> None:
    me = {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    store.remove(NAME)
    store.create(NAME, json.dumps(me | entries).encode())


@pytest.mark.parametrize("stop", [None, ValueError, KeyboardInterrupt, SystemExit])
def test_a_lock_says_who_holds_it_and_is_given_back_whatever_ends_the_run(store, stop):
    try:
        with locked_store(store):
            assert owner(store) == Owner.of_this_process()
            if stop:
                raise stop
    except BaseException as error:
        assert type(error) is stop
    assert store.read(NAME) is None


def test_a_second_run_stops_at_once_and_the_first_goes_on(store, other):
    message = rf"out: another run is writing there \(process {other.pid}, since .*\). Wait until it is done"
    with pytest.raises(FolderInUseError, match=message), locked_store(store):
        pytest.fail("both ran")
    held = owner(store)
    assert held is not None
    assert held.pid == other.pid


def test_a_run_that_is_told_to_terminate_gives_the_lock_back(store, other):
    other.terminate()
    assert other.wait(240) == 128 + signal.SIGTERM
    assert store.read(NAME) is None


def test_the_lock_of_a_killed_run_of_this_machine_is_taken_over(store, other):
    other.kill()
    other.wait()
    assert store.read(NAME) is not None
    with locked_store(store):
        assert owner(store) == Owner.of_this_process()
    assert store.read(NAME) is None


def test_the_lock_of_another_machine_is_kept_and_the_way_to_remove_it_told(store):
    write_lock(store, host="elsewhere", pid=2**22 + 1)
    message = rf"a run on elsewhere is writing there \(process 4194305, since .*delete s3://results/out/{NAME}"
    with pytest.raises(FolderInUseError, match=message), locked_store(store):
        pytest.fail("both ran")
    held = owner(store)
    assert held is not None
    assert held.host == "elsewhere"


@pytest.mark.parametrize("content", [b"{}", b"no json", b"\xff"])
def test_a_lock_that_names_nobody_is_refused_with_the_object_to_delete(store, content):
    store.create(NAME, content)
    with pytest.raises(FolderInUseError, match=rf"If none is writing there, delete .*{NAME}"), locked_store(store):
        pytest.fail("ran")


def test_of_two_runs_that_both_see_no_lock_one_gets_it(store, monkeypatch):
    write_lock(store, host="elsewhere")
    read = Store.read
    answers: list[bytes | None] = [None]
    monkeypatch.setattr(Store, "read", lambda self, name: answers.pop() if answers else read(self, name))
    with pytest.raises(FolderInUseError, match="a run on elsewhere"), locked_store(store):
        pytest.fail("both ran")


def test_of_two_runs_that_take_over_one_dead_lock_the_first_notices(store, monkeypatch):
    write_lock(store, started=1e9)

    def another_takes_over(seconds: float) -> None:
        write_lock(store, host="elsewhere")

    monkeypatch.setattr(destination_lock.time, "sleep", another_takes_over)
    with pytest.raises(FolderInUseError, match="a run on elsewhere"), locked_store(store):
        pytest.fail("both ran")
    assert store.read(NAME) is not None


def test_a_lock_that_another_run_took_over_is_left_to_it(store):
    with locked_store(store):
        write_lock(store, host="elsewhere")
    assert store.read(NAME) is not None


def test_a_server_that_does_not_say_which_condition_failed_is_understood(store, monkeypatch):
    import s3fs
    from scanloom.pipeline.cohort.destination_store import PRECONDITION_FAILED

    def refuse(*_: object, **__: object) -> None:
        raise OSError(PRECONDITION_FAILED, "At least one of the pre-conditions you specified did not hold")

    monkeypatch.setattr(s3fs.S3FileSystem, "open", refuse)
    store.create(NAME, b"")
    assert store.read(NAME) is None


def test_a_store_that_can_not_create_exclusively_is_looked_at_first(monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    store = Store(f"memory://lock-{threading.get_ident()}")
    real = type(files).open

    def without_x(self: object, path: str, mode: str = "rb", **options: object) -> object:
        if mode == "xb":
            raise ValueError(mode)
        return real(self, path, mode, **options)

    monkeypatch.setattr(type(files), "open", without_x)
    monkeypatch.setattr(type(files), "pipe_file", fsspec.AbstractFileSystem.pipe_file)
    with locked_store(store):
        store.create(NAME, b"another's")
        assert owner(store) == Owner.of_this_process()
        with pytest.raises(FolderInUseError), locked_store(store):
            pytest.fail("both ran")


def test_a_store_that_is_lost_at_the_end_does_not_hide_what_stopped_the_run(store, monkeypatch):
    with pytest.raises(KeyError), locked_store(store):
        monkeypatch.setattr(Store, "read", lambda self, name: (_ for _ in ()).throw(PipelineError("lost")))
        raise KeyError
