import errno
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from scanloom.pipeline.cohort import destination_store
from scanloom.pipeline.cohort.destination import Destination, destination_of
from scanloom.pipeline.errors import PipelineError, StudyError, UsageError

fsspec = pytest.importorskip("fsspec")

FILES = {"labels.nii.gz": b"labels", "preview.png": b"picture", "segmentation.dcm": b"segmentation"}
WEIGHTS = "5" * 64
SECRET = "what a store says may repeat a key"
PUBLISH = """
import sys
from scanloom.pipeline.cohort.destination import destination_of
with destination_of(sys.argv[1]).run_folder() as folder:
    (folder / "summary.csv").write_text("case")
"""


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders go; pauses between attempts are left out."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(destination_store, "PAUSES_S", (0.0, 0.0))
    return tmp_path


@pytest.fixture
def s3(bucket: str) -> Destination:
    return destination_of(f"s3://{bucket}/out/")


def write(folder: Path, files: dict[str, bytes], **entries: Any) -> None:
    """As `write_case` does: every file, and a report that vouches for them."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    report = {
        "bundle": {"weights_sha256": WEIGHTS},
        "outputs": [*files],
        "formats": {"written": ["nifti"], "usual": ["nifti"]},
        "files": {name: {"bytes": len(content), "sha256": ""} for name, content in files.items()},
    }
    (folder / "report.json").write_text(json.dumps(report | entries))


def publish(destination: Destination, files: dict[str, bytes] = FILES) -> None:
    with destination.case_folder("case") as folder:
        write(folder, files)


def stored(place: str) -> dict[str, bytes]:
    """Path below the place -> content."""
    files, root = fsspec.core.url_to_fs(place)
    files.invalidate_cache()
    return {path.removeprefix(f"{root.rstrip('/')}/"): files.cat_file(path) for path in files.find(root)}


def failing(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, times: int = 10**6) -> list[str]:
    """Let uploads of files of this name end by the error as many times; the names of all uploads, as they come."""
    import s3fs

    real, uploads = s3fs.S3FileSystem._put_file, []

    async def put_file(self: Any, here: str, there: str, **options: Any) -> None:
        uploads.append(Path(here).name)
        if Path(here).name == name and uploads.count(name) <= times:
            raise error
        await real(self, here, there, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", put_file)
    return uploads


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_every_file_arrives_and_a_later_run_finds_the_case_whole(kind, scratch, request):
    place = f"memory://{uuid4()}/out" if kind == "memory" else f"s3://{request.getfixturevalue('bucket')}/out"
    destination = destination_of(place)
    publish(destination)
    with destination.run_folder() as folder:
        (folder / "summary.csv").write_text("case,status,seconds\n")
    found = stored(place)
    assert set(found) == {*(f"case/{name}" for name in (*FILES, "report.json")), "summary.csv"}
    assert found["case/labels.nii.gz"] == b"labels"
    report = destination.whole_report("case", WEIGHTS, (), ("preview.png",))
    assert report is not None
    assert report["outputs"] == [*FILES]
    assert destination.shown("case") == f"{place}/case"
    assert list(scratch.iterdir()) == []


def test_a_case_is_not_whole_for_other_weights_formats_or_files(s3):
    publish(s3)
    assert s3.whole_report("case", WEIGHTS, ("nifti",))
    assert s3.whole_report("case", "6" * 64) is None
    assert s3.whole_report("case", WEIGHTS, ("dicom-seg",)) is None
    assert s3.whole_report("case", WEIGHTS, (), ("confidence.nii.gz",)) is None
    assert s3.whole_report("another", WEIGHTS) is None


@pytest.mark.parametrize("content", [None, b"lab", b""])
def test_a_case_whose_file_is_gone_or_shorter_is_not_whole(s3, bucket, content):
    publish(s3)
    files = fsspec.filesystem("s3")
    path = f"{bucket}/out/case/labels.nii.gz"
    files.rm_file(path) if content is None else files.pipe_file(path, content)
    assert s3.whole_report("case", WEIGHTS) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"bundle": null}', b"\xff"])
def test_a_report_that_is_none_vouches_for_nothing(s3, bucket, content):
    fsspec.filesystem("s3").pipe_file(f"{bucket}/out/case/report.json", content)
    assert s3.whole_report("case", WEIGHTS) is None


def test_the_report_goes_first_and_comes_last(s3, monkeypatch):
    publish(s3)
    uploads = failing(monkeypatch, "", OSError())
    publish(s3, FILES | {"labels.nii.gz": b"other labels"})
    assert uploads[-1] == "report.json"
    assert sorted(uploads[:-1]) == sorted(FILES)


def test_a_case_that_breaks_off_half_way_has_no_report_and_is_done_again(s3, bucket, monkeypatch, scratch):
    publish(s3)
    with monkeypatch.context() as broken:
        uploads = failing(broken, "preview.png", ConnectionResetError(f"{SECRET} was refused"))
        with pytest.raises(
            PipelineError, match=r"s3://results/out: can not be reached .*\(ConnectionResetError\)"
        ) as caught:
            publish(s3)
        assert uploads.count("preview.png") == 3
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "case/report.json" not in stored(f"s3://{bucket}/out")
    assert s3.whole_report("case", WEIGHTS) is None
    publish(s3)
    assert s3.whole_report("case", WEIGHTS)
    assert list(scratch.iterdir()) == []


def test_a_connection_that_is_lost_once_costs_nothing(s3, monkeypatch):
    uploads = failing(monkeypatch, "preview.png", ConnectionResetError(), times=1)
    publish(s3)
    assert uploads.count("preview.png") == 2
    assert s3.whole_report("case", WEIGHTS)


def test_a_file_that_does_not_arrive_in_full_is_noticed(s3, bucket, monkeypatch):
    import s3fs

    real = s3fs.S3FileSystem._put_file

    async def put_less(self: Any, here: str, there: str, **options: Any) -> None:
        if here.endswith(".dcm"):
            os.truncate(here, 3)
        await real(self, here, there, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_put_file", put_less)
    with pytest.raises(PipelineError, match="does not answer as it should"):
        publish(s3)
    assert "case/report.json" not in stored(f"s3://{bucket}/out")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, SECRET), r"no permission \(PermissionError\)"),
        (NotImplementedError(SECRET), "can not be written to"),
        (type("NoCredentialsError", (Exception,), {})(SECRET), r"no permission \(NoCredentialsError\)"),
    ],
)
def test_what_trying_again_would_not_mend_is_told_at_once(s3, monkeypatch, error, message):
    uploads = failing(monkeypatch, "preview.png", error)
    with pytest.raises(UsageError, match=message) as caught:
        publish(s3)
    assert uploads.count("preview.png") == 1
    assert SECRET not in str(caught.value)


def test_a_bucket_that_is_missing_is_named_and_not_made(bucket):
    destination = destination_of("s3://elsewhere/out")
    with pytest.raises(UsageError, match="s3://elsewhere/out: there is no such bucket"), destination.locked():
        pytest.fail("ran")
    with pytest.raises(UsageError, match="s3://elsewhere/out: there is no such bucket"):
        publish(destination)
    assert not fsspec.filesystem("s3").exists("elsewhere")


def test_a_bucket_that_vanishes_during_a_run_ends_the_case(s3, bucket):
    publish(s3)
    fsspec.filesystem("s3").rm(bucket, recursive=True)
    with pytest.raises(UsageError, match="there is no such bucket"):
        publish(s3)


def test_a_server_that_does_not_answer_is_an_error_of_one_line(bucket, monkeypatch):
    import s3fs

    monkeypatch.setattr(destination_store, "PAUSES_S", ())
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3fs.S3FileSystem, "_cache", {})
    message = r"s3://results/out: can not be reached .*\(EndpointConnectionError\).*AWS_ENDPOINT_URL"
    with pytest.raises(PipelineError, match=message), destination_of(f"s3://{bucket}/out").locked():
        pytest.fail("ran")


def fails_after(report: bool) -> Callable[[Path], None]:
    def block(folder: Path) -> None:
        write(folder, FILES)
        if not report:
            (folder / "report.json").unlink()
        raise StudyError("no DICOM SEG can be written on this source")

    return block


@pytest.mark.parametrize("report", [True, False])
def test_an_error_of_the_case_goes_on_and_only_a_report_lets_its_files_count(s3, bucket, scratch, report):
    with pytest.raises(StudyError, match="no DICOM SEG"), s3.case_folder("case") as folder:
        fails_after(report)(folder)
    expected = {f"case/{name}" for name in (*FILES, "report.json")} if report else set()
    assert set(stored(f"s3://{bucket}/out")) == expected
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_publishes_nothing(s3, bucket, scratch, stop):
    with pytest.raises(stop), s3.case_folder("case") as folder:
        write(folder, FILES)
        raise stop
    assert stored(f"s3://{bucket}/out") == {}
    assert list(scratch.iterdir()) == []


def test_the_viewer_stands_beside_the_case_and_is_copied_once(s3, bucket, monkeypatch):
    pytest.importorskip("nilearn")
    from scanloom.pipeline.outputs import install_viewer

    with s3.case_folder("case") as folder:
        assert (folder.parent / "niivue.js").is_file()
        write(folder, FILES)
    uploads = failing(monkeypatch, "", OSError())
    for _ in range(2):
        with s3.run_folder() as folder:
            install_viewer(folder)
            (folder / "index.html").write_text("page")
    assert sorted(uploads) == ["index.html", "index.html", "niivue.js"]
    assert set(stored(f"s3://{bucket}/out")) >= {"niivue.js", "index.html"}


def test_half_a_file_of_a_writer_is_not_copied(s3, bucket):
    with s3.case_folder("case") as folder:
        write(folder, FILES)
        (folder / ".part-0123abcd-labels.nii.gz").write_text("half")
    assert len(stored(f"s3://{bucket}/out")) == len(FILES) + 1


def test_a_destination_travels_without_what_opens_the_store(s3):
    publish(s3)  # opened now
    sent = pickle.dumps(s3)
    assert os.environ["AWS_SECRET_ACCESS_KEY"].encode() not in sent
    assert pickle.loads(sent) == s3
    assert pickle.loads(sent).whole_report("case", WEIGHTS)


def test_a_large_file_goes_in_parts(s3, bucket):
    with s3.case_folder("case") as folder:
        write(folder, {})
        with (folder / "confidence.nii.gz").open("wb") as file:
            file.truncate(101 * 2**20)
    info = fsspec.filesystem("s3").info(f"{bucket}/out/case/confidence.nii.gz")
    assert info["size"] == 101 * 2**20
    assert info["ETag"].strip('"').endswith("-3")  # of a multipart upload, with its number of parts


def test_a_server_of_ones_own_can_be_named_to_fsspec_alone(bucket, s3_server):
    environment = {**os.environ, "FSSPEC_S3_ENDPOINT_URL": s3_server}
    del environment["AWS_ENDPOINT_URL"]
    subprocess.run([sys.executable, "-c", PUBLISH, f"s3://{bucket}/out"], env=environment, check=True, timeout=240)
    assert stored(f"s3://{bucket}/out") == {"summary.csv": b"case"}
