import pickle
from pathlib import Path

import pytest
from scanloom.pipeline.cohort.case_names import Names
from scanloom.pipeline.cohort.destination import FolderDestination, destination_of
from scanloom.pipeline.errors import UsageError
from scanloom.pipeline.lock import NAME, FolderInUseError
from scanloom.pipeline.prediction import CaseResult


def test_a_folder_gets_its_files_where_they_belong(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    destination = destination_of("out")
    with destination.locked():
        with destination.case_folder("case") as folder:
            assert folder == tmp_path / "out" / "case"
        with destination.run_folder() as folder:
            assert folder == tmp_path / "out"
        with pytest.raises(FolderInUseError), destination.locked():
            pytest.fail("both ran")
    assert destination.shown("case") == Path("out/case")
    assert destination.whole_report("case", "0" * 64) is None


def test_a_folder_is_the_same_for_a_process_that_runs_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sent = pickle.dumps(destination_of(Path("out")))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    with pickle.loads(sent).run_folder() as folder:
        assert folder == tmp_path / "out"


@pytest.mark.parametrize("output", ["/data/out", Path("/data/out"), "file:///data/out"])
def test_a_path_is_a_folder_however_it_is_written(output):
    assert destination_of(output) == FolderDestination(Path("/data/out"), "/data/out")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://KEY:hunter2@bucket/out", "holds credentials or a query"),
        ("s3://hunter2@bucket/out", "holds credentials or a query"),
        ("sftp://me:hunter2@host/out", "holds credentials or a query"),
        ("az://container/out?sig=hunter2", "holds credentials or a query"),
        ("nonsense://place", "nonsense:// is no scheme that results can go to"),
        ("s3://[bucket/out", "has no valid host"),
        ("s3://", "names no place for results"),
        ("simplecache::s3://KEY:hunter2@bucket/out", "names no place for results"),
        (Path("s3://bucket/out"), "has lost a slash"),
    ],
)
def test_an_address_that_can_not_be_used_is_refused_before_anything_is_opened(url, message):
    with pytest.raises(UsageError, match=message) as caught:
        destination_of(url)
    assert "hunter2" not in str(caught.value)


def test_a_missing_package_is_named_with_the_way_to_install_it(monkeypatch):
    fsspec = pytest.importorskip("fsspec")

    def missing(scheme: str) -> None:
        raise ImportError(scheme)

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UsageError, match=r'not installed: pip install "scanloom\[s3\]"\.'):
        destination_of("s3://bucket/out")
    with pytest.raises(UsageError, match=r"gs:// needs a package .* install gcsfs"):
        destination_of("gs://bucket/out")


@pytest.mark.parametrize(("upper", "statuses"), [(False, ["done"] * 3), (True, ["done", "refused", "refused"])])
def test_names_are_told_apart_by_case_where_the_disk_does(tmp_path, upper, statuses):
    destination = destination_of(tmp_path)
    with destination.locked():
        if upper:  # as a disk that ignores case answers
            (tmp_path / NAME.upper()).touch()
        assert destination.ignores_case() == upper
        names, results = Names(destination), [CaseResult(name) for name in ("sc\u00e4n", "Sc\u00e4n", "sca\u0308n")]
        for number, result in enumerate(results):
            names.claim(number, result)
    assert [result.status for result in results] == statuses
