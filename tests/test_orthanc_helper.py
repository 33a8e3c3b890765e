"""The tests' Orthanc: stores, answers, comes back with what it had, and guards itself where told."""

import io
import subprocess

import orthanc as helper
import pydicom
import pytest
import requests
from factories import write_mr_series
from orthanc import Orthanc, orthanc_fixture, running_orthanc  # noqa: F401


def test_what_is_uploaded_is_listed_and_comes_back_byte_for_byte(orthanc: Orthanc, tmp_path):
    files = write_mr_series(tmp_path / "study")
    orthanc.upload(*files)
    assert [len(study["Series"]) for study in orthanc.studies()] == [1]
    assert [len(series["Instances"]) for series in orthanc.series("MR")] == [len(files)]
    assert orthanc.series("SEG") == []
    stored = {orthanc.instance(each["ID"]) for each in orthanc.instances()}
    assert stored == {file.read_bytes() for file in files}


def test_it_answers_over_dicomweb(orthanc: Orthanc, tmp_path):
    file = write_mr_series(tmp_path / "study")[0]
    orthanc.upload(file)
    found = requests.get(f"{orthanc.dicomweb}/studies", timeout=240).json()
    assert [study["0020000D"]["Value"] for study in found] == [[pydicom.dcmread(file).StudyInstanceUID]]


@pytest.mark.parametrize("kill", [False, True])
def test_it_comes_back_on_its_ports_with_what_it_had(orthanc: Orthanc, tmp_path, kill):
    orthanc.upload(write_mr_series(tmp_path / "study")[0])
    orthanc.stop(kill=kill)
    with pytest.raises(requests.ConnectionError):
        orthanc.get("/system")
    orthanc.start()
    assert len(orthanc.instances()) == 1


def test_it_asks_for_a_password_where_told(tmp_path):
    with running_orthanc(tmp_path, credentials=("reader", "secret")) as orthanc:
        assert orthanc.studies() == []
        assert requests.get(f"{orthanc.url}/studies", timeout=240).status_code == 401


def test_it_sends_by_c_store_to_its_peers(tmp_path):
    with (
        running_orthanc(tmp_path / "archive", aet="ARCHIVE") as archive,
        running_orthanc(tmp_path, peers={"archive": ("ARCHIVE", "127.0.0.1", archive.dicom_port)}) as orthanc,
    ):
        orthanc.upload(write_mr_series(tmp_path / "study")[0])
        orthanc.store("archive", orthanc.instances()[0]["ID"])
        dataset = pydicom.dcmread(io.BytesIO(archive.instance(archive.instances()[0]["ID"])))
        assert dataset.Modality == "MR"


def test_an_orthanc_that_can_not_start_says_why_and_leaves_no_process(tmp_path):
    orthanc = Orthanc(tmp_path, settings={"HttpPort": "no number"})
    with pytest.raises(RuntimeError, match="ended"):
        orthanc.start()
    assert subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True).returncode == 1


def test_a_machine_without_orthanc_skips_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(helper, "PROGRAM", "no-such-program")
    with pytest.raises(pytest.skip.Exception, match="apt-get install orthanc"):
        Orthanc(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(helper, "PLUGIN_FOLDERS", (str(tmp_path),))
    with pytest.raises(pytest.skip.Exception, match="orthanc-dicomweb"):
        Orthanc(tmp_path)
