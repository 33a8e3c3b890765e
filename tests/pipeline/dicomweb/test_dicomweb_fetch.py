"""Studies fetched from a server that behaves, and from one that does not."""

import errno
import io
import os
import stat
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import pydicom
import pytest
from dicomweb_double import BOUNDARY, MULTIPART, Double, as_json, multipart, serving
from factories import write_mr_series
from scanloom.pipeline.dicomweb import StudyAddress
from scanloom.pipeline.dicomweb import fetch as dicomweb_fetch
from scanloom.pipeline.dicomweb import server as dicomweb_server
from scanloom.pipeline.dicomweb import session as dicomweb_session
from scanloom.pipeline.dicomweb.fetch import fetch_study
from scanloom.pipeline.errors import PipelineError, StudyError, UsageError


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", (0.0, 0.01))


@pytest.fixture
def double(tmp_path):
    with serving(Double(write_mr_series(tmp_path / "source"))) as double:
        yield double


def fetch(double: Double, folder: Path, **options) -> int:
    """How many files came."""
    return len(list(fetch_study(StudyAddress.parse(double.address), folder, **options).iterdir()))


def contents(files: Iterable[Path]) -> set[bytes]:
    return {file.read_bytes() for file in files}


def refused(double: Double, folder: Path, match: str, kind: type[PipelineError] = PipelineError, **options) -> str:
    """The line of a fetch that fails, and leaves nothing, and says nothing that it must not."""
    with pytest.raises(kind, match=match) as caught:
        fetch(double, folder, **options)
    line = str(caught.value)
    assert type(caught.value) is kind and "\n" not in line and double.study_uid not in line
    assert not any(uid in line for uid in double.files)
    assert not folder.exists() and list(folder.parent.glob(".part-*")) == []
    return line


def once(fault):
    """The fault at the first request for an instance, and none later."""
    left = [1]

    def at_first(request) -> bool:
        if "/instances/" not in request.path or not left:
            return False
        left.pop()
        return fault(request)

    return at_first


def says(status: int, body: bytes = b"", content_type: str = "text/plain", **headers: str):
    def fault(request) -> bool:
        request.say(status, body, content_type, **headers)
        return True

    return fault


def drops(request) -> bool:
    """Half of an instance, and the connection is gone."""
    body = multipart(b"x" * 100_000)
    request.send_response(200)
    request.send_header("Content-Type", MULTIPART)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[:50_000])
    request.close_connection = True
    return True


def hangs_up(request) -> bool:
    request.close_connection = True
    return True


def ends_early(request) -> bool:
    """A body whose length nobody said, which stops within its part."""
    request.send_response(200)
    request.send_header("Content-Type", MULTIPART)
    request.send_header("Connection", "close")
    request.end_headers()
    request.wfile.write(multipart(b"x" * 1000)[:500])
    request.close_connection = True
    return True


def test_a_study_comes_byte_for_byte_for_its_owner_alone_in_names_of_hashes(double, tmp_path):
    fetch(double, tmp_path / "study")
    files = list((tmp_path / "study").iterdir())
    assert contents(files) == contents(double.files.values())
    assert stat.S_IMODE((tmp_path / "study").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert not any(uid in file.name for uid in double.files for file in files)


def test_it_goes_into_an_empty_folder_and_into_no_other(double, tmp_path):
    (tmp_path / "study").mkdir()
    fetch(double, tmp_path / "study")
    with pytest.raises(UsageError, match="not empty"):
        fetch(double, tmp_path / "study")
    assert len(list((tmp_path / "study").iterdir())) == len(double.files)


def test_progress_is_told_without_a_uid(double, tmp_path):
    told: list[tuple[str | None, float | None]] = []
    fetch(double, tmp_path / "study", report=lambda line, done=None: told.append((line, done)))
    assert told[0] == (f"{StudyAddress.parse(double.address)}: fetching {len(double.files)} instances", 0.0)
    count = len(double.files)
    assert told[1:] == [(None, (index + 1) / count) for index in range(count)]


def test_a_list_in_pages_is_followed_to_its_end(double, tmp_path):
    def pages(request) -> bool:
        path, _, query = request.path.partition("?")
        offset = int(query.removeprefix("offset=")) if path.endswith("/instances") else 0
        page = as_json([{"00080018": [uid]} for uid in double.listed[offset:][:3]])
        return path.endswith("/instances") and says(200, page)(request)

    double.fault = pages
    assert fetch(double, tmp_path / "study") == len(double.files)


def test_a_server_that_knows_no_pages_is_not_asked_forever(double, tmp_path):
    whole = as_json([{"00080018": [uid]} for uid in double.listed])
    double.fault = lambda request: "/instances?" in request.path and says(200, whole)(request)
    assert fetch(double, tmp_path / "study") == len(double.files)


@pytest.mark.parametrize("fault", [says(503), says(429), says(502), says(504), drops, hangs_up, ends_early])
def test_a_failure_that_passes_is_waited_out(double, tmp_path, fault):
    double.fault = once(fault)
    assert fetch(double, tmp_path / "study") == len(double.files)
    assert {file.read_bytes() for file in (tmp_path / "study").iterdir()} == {
        f.read_bytes() for f in double.files.values()
    }


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (says(503), "answers with status 503"),
        (drops, "breaks off in the middle"),
        (ends_early, "breaks off in the middle"),
        (hangs_up, "can not be reached"),
        (says(500), "answers with status 500"),
        (says(400, b"PHICANARY"), "answers with status 400"),
        (says(200, b"", MULTIPART), "breaks off"),
        (says(200, multipart(), MULTIPART), "not DICOMweb"),
        (says(200, multipart(b"garbage"), MULTIPART), "not DICOMweb"),
        (says(200, b"\x00garbage", MULTIPART), "breaks off"),
        (says(200, b"garbage", "image/png"), "not DICOMweb"),
        (says(200, multipart(b"a", b"b"), MULTIPART), "not DICOMweb"),
        (says(404), "does not give an instance that it lists"),
    ],
)
def test_a_failure_in_the_middle_is_an_error_and_leaves_nothing(double, tmp_path, fault, reason):
    done = [0]

    def fails_at_the_third(request) -> bool:
        done[0] += "/instances/" in request.path
        return done[0] >= 3 and "/instances/" in request.path and fault(request)

    double.fault = fails_at_the_third
    assert "PHICANARY" not in refused(double, tmp_path / "study", reason)


@pytest.mark.parametrize(
    ("fault", "reason", "kind"),
    [
        (says(401), "Set SCANLOOM_DICOMWEB_TOKEN, or write 'machine 127.0.0.1", UsageError),
        (says(403), "refuses .403.", UsageError),
        (says(404), "has no such study or series, or no DICOMweb", StudyError),
        (says(200, b"<html></html>", "text/html; charset=utf-8"), "answers with a page", UsageError),
        (says(200, b"no json"), "not DICOMweb", PipelineError),
        (says(200, b"[1]"), "not DICOMweb", PipelineError),
        (says(200, b'[{"0020000E": {"Value": ["1.2?x=y"]}}]'), "not DICOMweb", PipelineError),
        (says(200, b"[]", "application/dicom+json"), "has no such study", StudyError),
        (says(204), "has no such study", StudyError),
    ],
)
def test_a_server_that_gives_no_list_is_an_error_that_says_what_to_do(double, tmp_path, fault, reason, kind):
    double.fault = fault
    refused(double, tmp_path / "study", reason, kind)


def test_no_server_at_all_is_an_error_that_says_so(double, tmp_path):
    double.port, port = 1, double.port
    refused(double, tmp_path / "study", "can not be reached. Check host and port")
    double.port = port


def test_a_server_that_says_nothing_is_given_up(double, tmp_path, monkeypatch):
    monkeypatch.setattr(dicomweb_server, "SILENCE_S", 0.05)
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", ())
    double.fault = lambda request: bool(request.rfile.read(1)) or True  # waits until the client has gone
    refused(double, tmp_path / "study", "does not answer in time")


def test_a_server_that_falls_silent_within_an_answer_is_given_up(double, tmp_path, monkeypatch):
    monkeypatch.setattr(dicomweb_server, "SILENCE_S", 0.05)
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", ())

    def stalls(request) -> bool:
        request.send_response(200)
        request.send_header("Content-Type", MULTIPART)
        request.send_header("Content-Length", "100")
        request.end_headers()
        request.wfile.flush()
        request.rfile.read(1)  # waits until the client has gone
        return True

    double.fault = once(stalls)
    refused(double, tmp_path / "study", "does not answer in time")


def test_an_answer_that_never_ends_is_given_up(double, tmp_path, monkeypatch):
    monkeypatch.setattr(dicomweb_session, "ANSWER_S", -1.0)
    refused(double, tmp_path / "study", "does not answer in time")


@pytest.mark.parametrize("chunked", [False, True])
def test_an_answer_that_comes_by_drops_is_given_up(double, tmp_path, monkeypatch, chunked):
    monkeypatch.setattr(dicomweb_session, "ANSWER_S", 0.2)
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", ())
    drops = [0]

    def drips(request) -> bool:
        request.send_response(200)
        request.send_header("Content-Type", MULTIPART)
        name, value = ("Transfer-Encoding", "chunked") if chunked else ("Content-Length", "1000")
        request.send_header(name, value)
        request.end_headers()
        request.wfile.write(b"3e8\r\n" if chunked else b"")
        try:
            while drops[0] < 1000:
                drops[0] += request.wfile.write(b"x")
                request.wfile.flush()
                time.sleep(0.01)
        except OSError:
            request.close_connection = True  # the client has gone
        return True

    double.fault = once(drips)
    refused(double, tmp_path / "study", "does not answer in time")
    assert drops[0] < 1000


def test_fewer_instances_than_the_server_counts_are_an_error(double, tmp_path):
    double.listed = double.listed[:-1]
    refused(double, tmp_path / "study", f"lists {len(double.listed)} of the {len(double.files)} instances")


def test_a_server_that_does_not_count_is_believed_and_one_that_lists_nothing_is_not(double, tmp_path):
    double.counted = None
    assert fetch(double, tmp_path / "study") == len(double.files)
    double.listed = []
    refused(double, tmp_path / "other", "lists 0 of the some instances")


def test_an_instance_of_another_study_is_refused(double, tmp_path):
    other = pydicom.dcmread(next(iter(double.files.values())))
    other.StudyInstanceUID = "1.2.3"
    buffer = io.BytesIO()
    other.save_as(buffer)
    double.fault = lambda request: (
        "/instances/" in request.path and says(200, multipart(buffer.getvalue()), MULTIPART)(request)
    )
    refused(double, tmp_path / "study", "gives another instance than the one asked for")


def test_a_study_beyond_the_limit_is_refused_before_it_fills_the_disk(double, tmp_path):
    size = sum(file.stat().st_size for file in double.files.values())
    line = refused(double, tmp_path / "study", "larger than the", StudyError, max_bytes=size)
    assert f"{size:,} bytes" in line
    assert fetch(double, tmp_path / "study", max_bytes=2 * size + 10_000) == len(double.files)


def test_one_endless_answer_is_stopped_at_the_limit(double, tmp_path):
    sent = [0]

    def endless(request) -> bool:
        if "/instances/" not in request.path:
            return False
        request.send_response(200)
        request.send_header("Content-Type", MULTIPART)
        request.send_header("Connection", "close")
        request.end_headers()
        request.close_connection = True
        try:
            while sent[0] < 2**30:
                sent[0] += request.wfile.write(b"x" * 2**16)
        except OSError:
            pass
        return True

    double.fault = endless
    refused(double, tmp_path / "study", "larger than the", StudyError, max_bytes=2**20)
    assert sent[0] < 2**26


def test_an_answer_that_is_too_long_is_refused(double, tmp_path, monkeypatch):
    monkeypatch.setattr(dicomweb_session, "MAX_LISTING_BYTES", 100)
    refused(double, tmp_path / "study", "one answer of the server is longer than 100 bytes")
    monkeypatch.undo()
    monkeypatch.setattr(dicomweb_session, "MAX_INSTANCE_BYTES", 200)
    refused(double, tmp_path / "study", "one answer of the server is longer than 200 bytes")


def test_a_list_that_does_not_end_is_refused(double, tmp_path, monkeypatch):
    monkeypatch.setattr(dicomweb_fetch, "MAX_LISTED", 3)
    refused(double, tmp_path / "study", "lists more than 3 series or instances", StudyError)


def test_series_are_listed_in_pages_and_perhaps_twice(double, tmp_path):
    """The series that is meant is on the second page, beside one of the first."""
    meant = {"0020000E": [double.series_uid], "00080060": ["MR"], "00201209": [double.counted]}
    others = [{"0020000E": [f"1.2.{number}"], "00080060": ["CT"]} for number in range(3)]

    def pages(request) -> bool:
        path, _, query = request.path.partition("?")
        first = "offset=0" in query
        return path.endswith("/series") and says(200, as_json(others if first else [others[0], meant]))(request)

    double.fault = pages
    assert fetch(double, tmp_path / "study", modality="MR") == len(double.files)


def test_a_count_that_is_no_number_is_an_error(double, tmp_path):
    double.counted = "many"  # type: ignore[assignment]
    refused(double, tmp_path / "study", "not DICOMweb")
    double.counted = str(len(double.files))  # type: ignore[assignment]
    assert fetch(double, tmp_path / "study") == len(double.files)


def test_an_instance_that_can_not_be_kept_is_an_error(double, tmp_path):
    broken = pydicom.dcmread(next(iter(double.files.values())))
    del broken.file_meta.TransferSyntaxUID
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, broken, implicit_vr=False, little_endian=True)
    body = multipart(buffer.getvalue())
    double.fault = lambda request: "/instances/" in request.path and says(200, body, MULTIPART)(request)
    refused(double, tmp_path / "study", "gives an instance that is no DICOM file|not DICOMweb")


def test_a_full_disk_says_where_room_is_needed(double, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(dicomweb_fetch.pydicom, "dcmwrite", full)
    line = refused(double, tmp_path / "study", r"\(No space left on device\)\. .* another folder in TMPDIR")
    assert f"written to {tmp_path} " in line


def test_a_series_that_is_there_twice_under_two_uids_comes_twice(double, tmp_path):
    """With the same SOPInstanceUIDs, as some software copies one."""
    copies = {}
    for uid, file in double.files.items():
        copies[uid] = pydicom.dcmread(file)
        copies[uid].SeriesInstanceUID = "1.2.3"

    def copied(request) -> bool:
        path, uid = request.path.partition("?")[0], request.path.rpartition("/")[2]
        if path.endswith("/series"):
            entry = {"00080060": [double.modality], "00201209": [double.counted]}
            entries = [entry | {"0020000E": [series]} for series in (double.series_uid, "1.2.3")]
            return says(200, as_json(entries))(request)
        if "/series/1.2.3/" not in path or uid not in copies:
            return False
        buffer = io.BytesIO()
        copies[uid].save_as(buffer)
        return says(200, multipart(buffer.getvalue()), MULTIPART)(request)

    double.fault = copied
    assert fetch(double, tmp_path / "study") == 2 * len(double.files)


def test_only_the_series_of_the_modality_are_fetched(tmp_path):
    mr = write_mr_series(tmp_path / "mr")
    with serving(Double(mr)) as double:
        double.modality = "CT"
        refused(double, tmp_path / "study", "has no series of modality MR", StudyError, modality="MR")
        double.modality = None
        assert fetch(double, tmp_path / "study", modality="MR") == len(mr)  # the server does not say


def test_one_series_is_fetched_by_its_uid_whatever_its_modality(double, tmp_path):
    address = StudyAddress.parse(f"{double.address}/series/{double.series_uid}")
    series = fetch_study(address, tmp_path / "series", modality="CT")
    assert contents(series.iterdir()) == contents(double.files.values())
    with pytest.raises(StudyError, match="has no such series"):
        fetch_study(StudyAddress.parse(f"{double.address}/series/1.2.3"), tmp_path / "none")


def test_the_part_type_that_some_servers_send_bare_is_taken_without_a_warning(double, tmp_path):
    def bare(request) -> bool:
        uid = request.path.rpartition("/")[2]
        return uid in double.files and says(200, double.files[uid].read_bytes(), "application/dicom")(request)

    double.fault = bare
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fetch(double, tmp_path / "study") == len(double.files)


def test_the_boundary_is_the_servers_to_choose(double, tmp_path):
    quoted = MULTIPART.replace(BOUNDARY, '"a b:c"')
    double.fault = lambda request: (
        (uid := request.path.rpartition("/")[2]) in double.files
        and says(200, multipart(double.files[uid].read_bytes()).replace(BOUNDARY.encode(), b"a b:c"), quoted)(request)
    )
    assert fetch(double, tmp_path / "study") == len(double.files)
