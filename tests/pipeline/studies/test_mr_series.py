"""The MR series that the demo and the tests write."""

import shutil
import subprocess

import numpy as np
import pydicom
import pytest
from factories import make_affine, make_volume
from scanloom.pipeline.errors import GeometryError
from scanloom.pipeline.studies.mr_series import write_mr_series


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy of dicom3tools (apt install dicom3tools)")
@pytest.mark.parametrize("shift", [0, 500])
def test_dciodvfy_finds_no_error(tmp_path, shift):
    array, affine = make_volume(degrees=(6, 7, 8))
    for file in write_mr_series(tmp_path, array - shift, affine):
        verdict = subprocess.run(["dciodvfy", str(file)], capture_output=True, text=True, check=False)
        assert "Error" not in verdict.stdout + verdict.stderr


def test_a_seed_decides_the_uids(tmp_path):
    array, affine = make_volume()

    def uids(folder, **kwargs):
        datasets = [pydicom.dcmread(file) for file in write_mr_series(tmp_path / folder, array, affine, **kwargs)]
        assert len({dataset.SOPInstanceUID for dataset in datasets}) == 8
        return [
            str(datasets[0][word].value) for word in ("StudyInstanceUID", "FrameOfReferenceUID", "SeriesInstanceUID")
        ]

    first = uids("a", seed="one")
    assert uids("b", seed="one") == first
    second = uids("c", seed="one", series_number=2)
    assert second[:2] == first[:2] and second[2] != first[2]
    assert not set(uids("d")) & set(uids("e"))


def test_decimal_strings_fit_and_keep_their_digits(tmp_path):
    array, _ = make_volume()
    affine = make_affine((0.123456789012, 1.1, 1 / 3), (6, 7, 200), (-123.456789012345, -5.5e-17, 1 / 7))
    for file in write_mr_series(tmp_path, array, affine):
        dataset = pydicom.dcmread(file)
        for word in ("PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"):
            assert all(len(part.original_string) <= 16 for part in dataset[word].value)
        assert dataset.PatientName == "ANONYMOUS^EXAMPLE"


@pytest.mark.parametrize(
    "array", [np.full((2, 2, 2), 0.5), np.full((2, 2, 2), 70000), np.array([[[-1, 65535]]]), np.zeros((2, 2))]
)
def test_what_16_bits_can_not_hold_is_refused(tmp_path, array):
    with pytest.raises(ValueError, match="whole 16-bit numbers"):
        write_mr_series(tmp_path, array, make_affine())


def test_grids_that_dicom_can_not_say_are_refused(tmp_path):
    array, affine = make_volume()
    leaning = affine.copy()
    leaning[0, 1] = 0.5
    with pytest.raises(GeometryError, match="degrees, not 90"):
        write_mr_series(tmp_path, array, leaning)
    affine[:3, 2] = affine[:3, 1]
    with pytest.raises(GeometryError, match="slices lie in one plane"):
        write_mr_series(tmp_path, array, affine)
