import errno
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scanloom.pipeline.atomic import atomic, atomic_folder, remove_left_overs, write_whole
from scanloom.pipeline.errors import PipelineError, UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The system lets no file grow beyond `size` bytes, as on a full disk: a real fault, and no root is needed."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_appears_under_its_name_only_when_the_block_has_ended(tmp_path):
    path = tmp_path / "new" / "table.csv"
    with atomic(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent
        assert temporary.name.endswith("table.csv")
    assert path.read_text() == "whole"
    assert names(path.parent) == ["table.csv"]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_stops_the_block_keeps_the_old_file_and_leaves_no_other(tmp_path, stop):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(stop), atomic(path) as temporary:
        temporary.write_text("ha")
        raise stop
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("stop", [RuntimeError, KeyboardInterrupt])
def test_a_stop_within_the_check_keeps_the_old_file(tmp_path, stop):
    write_whole(tmp_path / "table.csv", b"old")

    def check(path: Path) -> None:
        raise stop

    with pytest.raises((PipelineError, stop)), atomic(tmp_path / "table.csv", check=check) as temporary:
        temporary.write_text("new")
    assert (tmp_path / "table.csv").read_bytes() == b"old"
    assert names(tmp_path) == ["table.csv"]


def test_a_full_disk_is_named_with_what_is_needed_and_leaves_nothing(tmp_path):
    message = r"table.csv: can not be written \(No space left on device\). It needs 3 bytes and [\d,]+ are free. Free"
    with pytest.raises(PipelineError, match=message), atomic(tmp_path / "table.csv") as temporary:
        temporary.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert names(tmp_path) == []


def test_a_disk_that_fills_up_while_writing_keeps_the_old_file(tmp_path):
    write_whole(tmp_path / "scan.bin", b"old")
    message = r"scan.bin: can not be written \(File too large\). It needs 100,000 bytes"
    with largest_file(4096), pytest.raises(PipelineError, match=message):
        write_whole(tmp_path / "scan.bin", bytes(100_000))
    assert (tmp_path / "scan.bin").read_bytes() == b"old"
    assert names(tmp_path) == ["scan.bin"]


def test_too_little_room_is_said_before_the_block_runs(tmp_path):
    message = r"can not be written \(No space left on device\). It needs 1,152,921,504,606,846,976 bytes and"
    with pytest.raises(PipelineError, match=message), atomic(tmp_path / "scan.bin", needs_bytes=2**60):
        pytest.fail("the block ran")
    assert names(tmp_path) == []


def test_a_writer_that_silently_truncates_is_found_out(tmp_path):
    write_whole(tmp_path / "table.csv", b"old")

    def check(path: Path) -> None:
        assert len(path.read_bytes()) == 8

    message = "table.csv: what reached the disk does not read as it was written"
    with pytest.raises(PipelineError, match=message), atomic(tmp_path / "table.csv", check=check) as temporary:
        temporary.write_bytes(b"seven b")
    assert (tmp_path / "table.csv").read_bytes() == b"old"
    assert names(tmp_path) == ["table.csv"]


def test_bytes_that_change_on_the_way_to_the_disk_are_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr("scanloom.pipeline.atomic._flush", lambda path: path.write_bytes(b"other"))
    with pytest.raises(PipelineError, match=r"does not read as it was written \(ValueError\), so it was not kept"):
        write_whole(tmp_path / "table.csv", b"whole")
    assert names(tmp_path) == []


def test_an_empty_file_is_never_kept(tmp_path):
    with pytest.raises(PipelineError, match="what reached the disk is empty"), atomic(tmp_path / "a.csv") as temporary:
        temporary.touch()
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(PipelineError, match=r"can not be written \(File exists\)"), atomic(tmp_path / "out" / "a.csv"):
        pass


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(PipelineError, match="No such file"), atomic(tmp_path / "table.csv"):
        pass


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from scanloom.pipeline.atomic import atomic\n"
        "with atomic(Path(sys.argv[1]) / 'case' / 'scan.nii.gz') as temporary:\n"
        "    temporary.write_text('ha'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == -9
    for name in (".part-of-mine", ".hidden", "case/.part-12345678"):
        (tmp_path / name).write_text("kept")
    assert len(names(tmp_path / "case")) == 2
    remove_left_overs(tmp_path)
    assert names(tmp_path) == [".hidden", ".part-of-mine", "case"]
    assert names(tmp_path / "case") == [".part-12345678"]


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "made") as part:
        part.mkdir()
        (part / "file").write_text("whole")
    assert (tmp_path / "made" / "file").read_text() == "whole"
    with pytest.raises(RuntimeError, match="broken"), atomic_folder(tmp_path / "half") as part:
        part.mkdir()
        (part / "file").write_text("half")
        raise RuntimeError("broken")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_a_folder_that_holds_something_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UsageError, match=r"is not empty\. Choose another folder"), atomic_folder(tmp_path):
        pass
    assert (tmp_path / "file").read_text() == "kept"
