"""The main job with a PACS: a study comes by C-STORE or STOW, is predicted over DICOMweb, and has SEG and SR there."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from orthanc import Orthanc, orthanc_fixture  # noqa: F401
from scanloom.pipeline.demo import write_study
from scanloom.pipeline.dicomweb import StudyAddress
from scanloom.pipeline.dicomweb.store import store_instances

SCANLOOM = [sys.executable, "-m", "scanloom.pipeline.cli"]


def c_store(orthanc: Orthanc, folder: Path) -> None:
    """By dcmtk; pynetdicom has a program of the same name in the environment's own folder."""
    program = shutil.which("storescu", path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")
    if not program:
        pytest.skip("needs dcmtk: apt-get install dcmtk")
    words = [program, "-aec", orthanc.aet, "+sd", "127.0.0.1", str(orthanc.dicom_port), str(folder)]
    subprocess.run(words, check=True, timeout=240)


def stow(orthanc: Orthanc, folder: Path) -> None:
    files = sorted(folder.iterdir())
    store_instances(StudyAddress.parse(address_of(orthanc, files[0])), files)


def address_of(orthanc: Orthanc, file: Path) -> str:
    study_uid = pydicom.dcmread(file, stop_before_pixels=True).StudyInstanceUID
    return f"dicomweb://127.0.0.1:{orthanc.http_port}/dicom-web/studies/{study_uid}"


def of_modality(orthanc: Orthanc, modality: str) -> bytes:
    """The one instance of the one series of that modality, in the one study."""
    (study,), (series,) = orthanc.studies(), orthanc.series(modality)
    assert series["ParentStudy"] == study["ID"]
    (instance,) = series["Instances"]
    return orthanc.instance(instance)


@pytest.mark.slow
@pytest.mark.parametrize("send", [c_store, stow])
def test_a_study_in_a_pacs_is_predicted_and_has_its_seg_and_sr_there(orthanc: Orthanc, tmp_path, send):
    source = write_study(tmp_path / "source")[0]
    send(orthanc, source)
    image = pydicom.dcmread(next(source.iterdir()), stop_before_pixels=True)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    words = ["predict", "-b", "hippocampus_mr_unet", "-i", address_of(orthanc, next(source.iterdir()))]
    words += ["-o", str(tmp_path / "out"), "--format", "dicom-seg", "--format", "dicom-sr", "--store"]
    done = subprocess.run(
        [*SCANLOOM, *words], capture_output=True, text=True, timeout=300, env={**os.environ, "TMPDIR": str(scratch)}
    )
    assert done.returncode == 0, done.stderr
    for uid in (image.StudyInstanceUID, image.SeriesInstanceUID, str(image.PatientName)):
        assert uid not in done.stdout + done.stderr
    assert list(scratch.rglob("*.dcm")) == []

    seg = highdicom.seg.segread(io.BytesIO(of_modality(orthanc, "SEG")))
    sr = highdicom.sr.srread(io.BytesIO(of_modality(orthanc, "SR")))
    for stored, name in ((seg, "segmentation.dcm"), (sr, "measurements.dcm")):
        (written,) = (tmp_path / "out").glob(f"*/{name}")
        assert stored.SOPInstanceUID == pydicom.dcmread(written).SOPInstanceUID
        assert stored.StudyInstanceUID == image.StudyInstanceUID and stored.PatientID == image.PatientID
    instances = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in source.iterdir()]
    labels = seg.get_pixels_by_source_instance(instances, combine_segments=True, assert_missing_frames_are_empty=True)
    assert set(np.unique(labels)) == {0, 1, 2}
    assert len(orthanc.instances()) == len(instances) + 2
