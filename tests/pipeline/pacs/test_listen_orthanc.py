"""The whole chain with real peers: dcmtk or Orthanc send, the shipped bundle labels, Orthanc gets SEG and SR."""

from __future__ import annotations

import shutil
import signal
import subprocess
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from listening import Listening, listening
from orthanc import Orthanc, free_ports, orthanc_fixture, running_orthanc  # noqa: F401

BUNDLE = "hippocampus_mr_unet"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.data,
    pytest.mark.skipif(not shutil.which("storescu"), reason="needs dcmtk: apt-get install dcmtk"),
]


@pytest.fixture
def whole_study(data_folder: Path) -> Path:
    """A folder of MR images: a scout, and two series that fit the bundle."""
    folder = data_folder / "dicom" / "hippocampus_study"
    if not folder.is_dir():
        pytest.skip(f"needs real data: no folder {folder}")
    return folder


@pytest.fixture
def study(whole_study: Path, tmp_path: Path) -> Path:
    """The scout and the first series of it."""
    folder = tmp_path / "study"
    folder.mkdir()
    for file in whole_study.iterdir():
        if pydicom.dcmread(file).SeriesNumber in (1, 2):
            shutil.copy(file, folder)
    return folder


def store(node: Listening, folder: Path) -> None:
    words = ["storescu", "+sd", "-aet", "SENDER", "-aec", "SCANLOOM", "127.0.0.1", str(node.port), str(folder)]
    subprocess.run(words, check=True, timeout=120, capture_output=True)


def of_modality(orthanc: Orthanc, modality: str) -> list[pydicom.Dataset]:
    """What Orthanc has, read back."""
    return [
        pydicom.dcmread(BytesIO(orthanc.instance(instance)))
        for series in orthanc.series(modality)
        for instance in series["Instances"]
    ]


def test_a_study_from_dcmtk_is_labelled_and_found_in_orthanc_under_the_same_study(
    tmp_path: Path, study: Path, orthanc: Orthanc
) -> None:
    images = [pydicom.dcmread(file) for file in study.iterdir()]
    place = f"{orthanc.aet}@127.0.0.1:{orthanc.dicom_port}"
    words = ["-b", BUNDLE, "--allow-aet", "SENDER@127.0.0.1", "--forward", place, "--quiet", "1"]
    with listening(tmp_path, *words) as node:
        subprocess.run(["echoscu", "-aet", "SENDER", "-aec", "SCANLOOM", "127.0.0.1", str(node.port)], check=True)
        store(node, study)
        node.wait_to_say(rf"sent to {place} \(2 objects\)")
        (segmentation,), (report,) = of_modality(orthanc, "SEG"), of_modality(orthanc, "SR")
        store(node, study)
        node.wait_to_say("not run again")
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(240) == 0
        log = node.log.read_text()
    assert {segmentation.StudyInstanceUID, report.StudyInstanceUID} == {images[0].StudyInstanceUID}
    assert [each["MainDicomTags"]["StudyInstanceUID"] for each in orthanc.studies()] == [images[0].StudyInstanceUID]
    read = highdicom.seg.Segmentation.from_dataset(segmentation)
    assert {uid for _, _, uid in read.get_source_image_uids()} <= {image.SOPInstanceUID for image in images}
    assert read.number_of_segments == 2 and np.unique(read.pixel_array).tolist() == [0, 1]
    assert highdicom.sr.srread(BytesIO(_file(report))).SOPInstanceUID == report.SOPInstanceUID
    assert len(orthanc.instances()) == 2
    for value in (images[0].get("PatientID"), images[0].get("PatientName"), images[0].StudyInstanceUID):
        assert not value or str(value) not in log


def test_a_study_with_several_series_that_fit_is_refused_or_every_one_is_labelled(
    tmp_path: Path, whole_study: Path, orthanc: Orthanc
) -> None:
    place = f"{orthanc.aet}@127.0.0.1:{orthanc.dicom_port}"
    words = ["-b", BUNDLE, "--forward", place, "--quiet", "1"]
    with listening(tmp_path, *words, "--one-series") as node:
        store(node, whole_study)
        node.wait_to_say("refused: 5 series found, 2 fit")
    with listening(tmp_path, *words, log="every.log") as node:
        store(node, whole_study)
        node.wait_to_say(rf"sent to {place} \(4 objects\)")
    assert len(of_modality(orthanc, "SEG")) == len(of_modality(orthanc, "SR")) == 2
    assert len({each.SeriesInstanceUID for each in of_modality(orthanc, "SEG")}) == 2


def test_orthanc_sends_a_study_and_gets_its_results_though_it_was_down(tmp_path: Path, study: Path) -> None:
    """Orthanc's own sender; it is killed while the study is labelled, and comes back."""
    with running_orthanc(tmp_path, settings={"DicomModalitiesInDatabase": True}) as orthanc:
        place = f"{orthanc.aet}@127.0.0.1:{orthanc.dicom_port}"
        with listening(tmp_path, "-b", BUNDLE, "--forward", place, "--quiet", "1") as node:
            orthanc.upload(*study.iterdir())
            _name_peer(orthanc, node.port)
            orthanc.store("scanloom", *(each["ID"] for each in orthanc.studies()))
            orthanc.stop(kill=True)
            node.wait_to_say(f"{place}: can not be reached; tried again in 5 s")
            orthanc.start()
            node.wait_to_say(rf"sent to {place} \(2 objects\)")
            assert len(of_modality(orthanc, "SEG")) == len(of_modality(orthanc, "SR")) == 1
            assert len(orthanc.studies()) == 1
            (whole,) = orthanc.studies()
            orthanc.store("scanloom", whole["ID"])  # with the SEG and SR in it, which call for no new run
            node.wait_to_say("not run again")
            assert len(orthanc.series("SEG")) == 1


def test_kill_nine_while_the_bundle_works_costs_nothing(tmp_path: Path, study: Path, orthanc: Orthanc) -> None:
    place = f"{orthanc.aet}@127.0.0.1:{orthanc.dicom_port}"
    words = ["-b", BUNDLE, "--forward", place, "--quiet", "1"]
    with listening(tmp_path, *words) as node:
        store(node, study)
        node.wait_to_say("computing")
        node.process.kill()
        node.process.wait()
    with listening(tmp_path, *words, log="again.log") as node:
        node.wait_to_say("taken up again")
        node.wait_to_say(rf"sent to {place} \(2 objects\)")
    assert len(of_modality(orthanc, "SEG")) == len(of_modality(orthanc, "SR")) == 1


def test_a_study_that_the_bundle_does_not_fit_is_refused_and_nothing_is_sent(
    tmp_path: Path, study: Path, orthanc: Orthanc
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted(study.iterdir(), key=lambda file: pydicom.dcmread(file).SeriesNumber)[:5]:
        shutil.copy(file, few)
    place = f"{orthanc.aet}@127.0.0.1:{orthanc.dicom_port}"
    with listening(tmp_path, "-b", BUNDLE, "--forward", place, "--quiet", "1") as node:
        store(node, few)
        images = Path(node.wait_to_say(r"refused: (.*)\. Images: (.*)\n").group(2))
        assert len(list(images.iterdir())) == 5
        store(node, study)  # the rest of it
        node.wait_to_say(rf"sent to {place} \(2 objects\)")
    assert len(of_modality(orthanc, "SEG")) == 1


def _name_peer(orthanc: Orthanc, port: int) -> None:
    orthanc._request("PUT", "/modalities/scanloom", data=f'["SCANLOOM", "127.0.0.1", {port}]')


def _file(data: pydicom.Dataset) -> bytes:
    content = BytesIO()
    data.save_as(content, enforce_file_format=True)
    return content.getvalue()
