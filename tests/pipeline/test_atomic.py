from pathlib import Path

import pytest
from scanloom.pipeline.atomic import atomic
from scanloom.pipeline.errors import PipelineError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    path = tmp_path / "table.csv"
    message = r"table.csv: can not be written \(No space left on device\). Free space there"
    with pytest.raises(PipelineError, match=message), atomic(path) as temporary:
        temporary.write_text("ha")
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(PipelineError, match=r"can not be written \(File exists\)"), atomic(tmp_path / "out" / "a.csv"):
        pass


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(PipelineError, match="No such file"), atomic(tmp_path / "table.csv"):
        pass
