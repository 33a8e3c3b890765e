"""Files stored by STOW-RS: what the server says of them is what the user hears."""

import socket
from pathlib import Path

import pydicom
import pytest
from dicomweb_double import Double, serving
from factories import write_mr_series
from scanloom.pipeline.dicomweb import StudyAddress
from scanloom.pipeline.dicomweb import server as dicomweb_server
from scanloom.pipeline.dicomweb.store import Stored, store_instances
from scanloom.pipeline.errors import PipelineError, UsageError


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(dicomweb_server, "PAUSES_S", (0.0, 0.01))


@pytest.fixture
def double(tmp_path):
    with serving(Double(write_mr_series(tmp_path / "source")[:1])) as double:
        yield double


def only(double: Double) -> tuple[str, Path]:
    """UID and path of the one file."""
    return next(iter(double.files.items()))


def answer(uid: str, *, failure: int | None = None, warning: int | None = None) -> dict:
    """What a server says of an instance in DICOM JSON."""
    item: dict = {"00081155": {"vr": "UI", "Value": [uid]}}
    if failure is not None:
        return {"00081198": {"vr": "SQ", "Value": [item | {"00081197": {"vr": "US", "Value": [failure]}}]}}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    return {"00081199": {"vr": "SQ", "Value": [item]}}


def store(double: Double, *files: Path) -> Stored:
    return store_instances(StudyAddress.parse(double.address), files or [only(double)[1]])


def test_a_file_goes_whole_and_with_its_length_to_its_study(double):
    uid, file = only(double)
    double.store_answer = 200, answer(uid)
    assert store(double) == Stored(1)
    method, path, headers = double.asked[0]
    assert (method, path) == ("POST", f"/dicom-web/studies/{double.study_uid}")
    assert file.read_bytes() in double.stored[0] and headers["Accept"] == "application/dicom+json"
    assert headers["Content-Type"].startswith('multipart/related; type="application/dicom"')


def test_a_large_file_has_the_time_that_its_way_takes(tmp_path, double, monkeypatch):
    """A socket's timeout bounds each `sendall` as a whole: pieces of any size would limit a file to some seconds."""
    uid, file = only(double)
    dataset = pydicom.dcmread(file)
    dataset.PixelData, dataset.Rows, dataset.Columns = bytes(2 * 1024**2), 1024, 1024
    dataset.save_as(file)
    pieces: list[int] = []

    def sendall(connection, data, *flags):
        pieces.append(len(data))
        return original(connection, data, *flags)

    original = socket.socket.sendall
    monkeypatch.setattr(socket.socket, "sendall", sendall, raising=False)
    double.store_answer = 200, answer(uid)
    assert store(double) == Stored(1)
    assert file.read_bytes() in double.stored[0] and max(pieces) <= 2**17


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (0x0110, "0110H processing failure"),
        (0xA701, "A701H out of resources"),
        (0xA900, "A900H does not fit its SOP class"),
        (0xC122, "C122H transfer syntax not supported"),
        (0xC987, "C987H not understood"),
        (0x0777, "0777H"),
        (0xB00F, "B00FH"),
    ],
)
@pytest.mark.parametrize("status", [200, 202, 409])
def test_a_failure_is_an_error_with_its_code_whatever_the_status(double, status, code, said):
    uid, file = only(double)
    double.store_answer = status, answer(uid, failure=code)
    with pytest.raises(PipelineError, match=f"refuses 1 of 1 files: {file.name} \\({said}\\)") as caught:
        store(double)
    assert uid not in str(caught.value) and double.study_uid not in str(caught.value)


@pytest.mark.parametrize("code", [0x0111, 45070])
def test_what_the_server_has_already_is_stored(double, code):
    uid, _ = only(double)
    double.store_answer = 409, answer(uid, failure=code)
    assert store(double) == Stored(1)


def test_a_warning_is_told_with_its_code(double):
    uid, file = only(double)
    double.store_answer = 202, answer(uid, warning=0xB000)
    assert store(double) == Stored(1, (f"{file.name} (B000H elements coerced)",))


@pytest.mark.parametrize("said", [{}, answer("1.2.3"), answer("1.2.3", failure=0x0110)])
def test_a_server_that_does_not_say_that_it_has_the_file_is_not_believed(double, said):
    double.store_answer = 200, said
    with pytest.raises(PipelineError, match="does not say that it has it"):
        store(double)


def test_one_refusal_does_not_stop_the_others(tmp_path):
    files = write_mr_series(tmp_path / "three")[:3]
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in files]
    with serving(Double(files)) as double:

        def refuses_the_first(request) -> bool:
            index = len(double.stored) - 1
            double.store_answer = 200, answer(uids[index], failure=None if index else 0x0110)
            return False

        double.fault = refuses_the_first
        with pytest.raises(PipelineError, match="refuses 1 of 3 files"):
            store(double, *files)
        assert len(double.stored) == 3


def test_a_store_is_tried_again_while_the_failure_may_pass(double):
    uid, _ = only(double)
    double.store_answer = 200, answer(uid)

    def busy_at_first(request) -> bool:
        if len(double.stored) > 1:
            return False
        request.say(503, b"")
        return True

    double.fault = busy_at_first
    assert store(double) == Stored(1)
    assert len(double.stored) == 2 and double.stored[0] == double.stored[1]


@pytest.mark.parametrize(
    ("status", "body", "reason", "kind"),
    [
        (401, b"", "refuses .401.. Set SCANLOOM_DICOMWEB_TOKEN", UsageError),
        (503, b"", "answers with status 503", PipelineError),
        (413, b"", "answers with status 413", PipelineError),
        (409, b"PHICANARY", "not DICOMweb", PipelineError),
        (200, b"PHICANARY", "not DICOMweb", PipelineError),
    ],
)
def test_a_server_that_does_not_store_is_an_error(double, monkeypatch, tmp_path, status, body, reason, kind):
    monkeypatch.delenv("SCANLOOM_DICOMWEB_TOKEN", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))

    def fault(request) -> bool:
        request.say(status, body)
        return True

    double.fault = fault
    with pytest.raises(kind, match=reason) as caught:
        store(double)
    assert "PHICANARY" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_study_never_leaves(double, tmp_path):
    dataset = pydicom.dcmread(only(double)[1])
    dataset.StudyInstanceUID = "1.2.3"
    dataset.save_as(tmp_path / "other.dcm")
    with pytest.raises(PipelineError, match=r"other\.dcm: is of another study"):
        store(double, tmp_path / "other.dcm")
    assert double.stored == []


def test_a_file_that_is_no_dicom_never_leaves(double, tmp_path):
    (tmp_path / "notes.dcm").write_text("notes")
    with pytest.raises(PipelineError, match=r"notes\.dcm: can not be read as DICOM"):
        store(double, tmp_path / "notes.dcm")
    assert double.stored == []
