"""DICOMweb with a real PACS: what goes in comes out, with and without a password."""

import tracemalloc
from pathlib import Path

import numpy as np
import pydicom
import pytest
from factories import make_affine, write_ct_series, write_mr_series
from orthanc import Orthanc, orthanc_fixture, running_orthanc  # noqa: F401
from scanloom.pipeline.dicomweb import StudyAddress
from scanloom.pipeline.dicomweb.fetch import fetch_study
from scanloom.pipeline.dicomweb.store import Stored, store_instances
from scanloom.pipeline.errors import StudyError, UsageError


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("SCANLOOM_DICOMWEB_TOKEN", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def address_of(orthanc: Orthanc, file: Path) -> StudyAddress:
    study_uid = pydicom.dcmread(file, stop_before_pixels=True).StudyInstanceUID
    return StudyAddress.parse(f"dicomweb://127.0.0.1:{orthanc.http_port}/dicom-web/studies/{study_uid}")


def contents(folder: Path) -> set[bytes]:
    return {file.read_bytes() for file in folder.iterdir()}


def test_a_study_that_was_stored_comes_back_byte_for_byte(orthanc: Orthanc, tmp_path):
    files = write_mr_series(tmp_path / "source")
    address = address_of(orthanc, files[0])
    assert store_instances(address, files) == Stored(len(files))
    assert store_instances(address, files) == Stored(len(files))  # again, which does no harm
    assert len(orthanc.instances()) == len(files)
    assert contents(fetch_study(address, tmp_path / "study")) == contents(tmp_path / "source")


def test_of_two_modalities_the_one_that_is_meant_is_fetched(orthanc: Orthanc, tmp_path):
    mr = write_mr_series(tmp_path / "mr", number=1)
    study_uid = pydicom.dcmread(mr[0]).StudyInstanceUID
    ct = write_ct_series(
        tmp_path / "ct", number=2, edit=lambda dataset, _: setattr(dataset, "StudyInstanceUID", study_uid)
    )
    orthanc.upload(*mr, *ct)
    address = address_of(orthanc, mr[0])
    assert contents(fetch_study(address, tmp_path / "all")) == contents(tmp_path / "mr") | contents(tmp_path / "ct")
    assert contents(fetch_study(address, tmp_path / "some", modality="CT")) == contents(tmp_path / "ct")
    with pytest.raises(StudyError, match="no series of modality PT"):
        fetch_study(address, tmp_path / "none", modality="PT")


def test_a_compressed_study_comes_as_it_is_stored(orthanc: Orthanc, tmp_path):
    files = write_mr_series(tmp_path / "source")
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        dataset.save_as(file)
    orthanc.upload(*files)
    fetch_study(address_of(orthanc, files[0]), tmp_path / "study")
    assert contents(tmp_path / "study") == contents(tmp_path / "source")


def test_a_study_that_is_not_there_is_refused(orthanc: Orthanc, tmp_path):
    address = StudyAddress.parse(f"dicomweb://127.0.0.1:{orthanc.http_port}/dicom-web/studies/1.2.3")
    with pytest.raises(StudyError, match="has no such study"):
        fetch_study(address, tmp_path / "study")


@pytest.mark.parametrize("root", ["", "/wrong", "/app/explorer.html"])
def test_a_wrong_path_says_which_it_may_be(orthanc: Orthanc, tmp_path, root):
    address = StudyAddress.parse(f"dicomweb://127.0.0.1:{orthanc.http_port}{root}/studies/1.2.3")
    with pytest.raises(StudyError, match=r"no DICOMweb at this path .404.* Orthanc's is /dicom-web"):
        fetch_study(address, tmp_path / "study")


def test_a_password_of_netrc_opens_an_orthanc_that_asks_for_one(tmp_path, monkeypatch):
    files = write_mr_series(tmp_path / "source")
    with running_orthanc(tmp_path, credentials=("reader", "hunter2")) as orthanc:
        address = address_of(orthanc, files[0])
        with pytest.raises(UsageError, match=r"refuses .401.* Set SCANLOOM_DICOMWEB_TOKEN, or write"):
            store_instances(address, files)
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login reader password hunter2\n")
        monkeypatch.setenv("NETRC", str(netrc))
        assert store_instances(address, files) == Stored(len(files))
        assert len(list(fetch_study(address, tmp_path / "study").iterdir())) == len(files)


def test_memory_holds_instances_and_not_the_study(orthanc: Orthanc, tmp_path):
    array = np.random.default_rng(0).integers(0, 4000, (512, 512, 48), dtype=np.int16)
    files = write_mr_series(tmp_path / "source", array, make_affine())
    orthanc.upload(*files)
    tracemalloc.start()
    try:
        fetch_study(address_of(orthanc, files[0]), tmp_path / "study")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < sum(file.stat().st_size for file in files) / 4 and len(contents(tmp_path / "study")) == 48
