import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from factories import edit_file, make_volume, write_mr_series, write_nifti
from PIL import Image
from scanloom.pipeline.cohort.inputs import studies_in
from scanloom.pipeline.errors import StudyError, UsageError
from scanloom.pipeline.studies import find_series

SMALL = make_volume((4, 4, 3))


def series(folder: Path, study: str, number: int = 1) -> Path:
    """A series of the study in the folder."""
    for file in write_mr_series(folder, *SMALL, number=number, seed=f"{study}{number}"):
        edit_file(file, StudyInstanceUID=f"1.2.3.{study}")
    return folder


def found(folder: Path, but: tuple[Path, ...] = ()) -> list[str]:
    return [str(path.relative_to(folder)) for path in studies_in(folder, but)]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_file_is_its_own_only_study(tmp_path):
    file = touch(tmp_path / "scan.nii.gz")
    assert studies_in(file) == [file]


def test_volumes_pictures_and_archives_are_a_study_each_by_name_alone(tmp_path):
    names = ["a.nii", "b.NII.GZ", "c.nrrd", "d.mha", "e.png", "f.tiff", "g.zip", "h.tar.gz"]
    for name in names:
        (tmp_path / name).symlink_to("not fetched yet")  # so none can have been opened, and none is lost
    assert found(tmp_path) == sorted(names)


def test_a_scan_whose_name_says_nothing_is_known_by_its_first_bytes(tmp_path):
    write_nifti(tmp_path / "scan.nii", *SMALL).rename(tmp_path / "volume")
    write_nifti(tmp_path / "scan.nii.gz", *SMALL).rename(tmp_path / "inflated.gz")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "picture", "PNG")
    shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path)
    (tmp_path / "archive.zip").rename(tmp_path / "archive")
    (tmp_path / "README").write_text("of the cohort")
    assert found(tmp_path) == ["archive", "inflated.gz", "picture", "volume"]


def test_sidecars_hidden_files_and_what_is_no_file_are_passed_over(tmp_path):
    write_nifti(tmp_path / "a.nii", *SMALL)
    for name in ("a.json", "table.csv", "notes.txt", "b.raw", "b.raw.gz", "t.tsv.gz", ".DS_Store", "._a.nii"):
        (tmp_path / name).write_bytes(b"\x1f\x8b or anything")
    for name in (".git", "__MACOSX"):
        touch(tmp_path / name / "a.nii")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to("round")
    assert found(tmp_path) == ["a.nii"]


def test_each_folder_is_a_study_even_an_empty_one_so_that_none_is_lost(tmp_path):
    series(tmp_path / "one", "1")
    write_nifti(tmp_path / "two" / "anat" / "t1.nii", *SMALL)
    (tmp_path / "three").mkdir()
    touch(tmp_path / "four" / "readme.txt")
    assert found(tmp_path) == ["four", "one", "three", "two"]


@pytest.mark.parametrize("above", ["", "site", "site/ward/year"])
def test_patients_are_looked_into_for_their_studies_and_studies_keep_their_series(tmp_path, above):
    cohort = tmp_path / "cohort"
    base = cohort / above
    series(base / "patient1" / "study1" / "a", "1")
    series(base / "patient1" / "study1" / "b", "1", 2)
    series(base / "patient1" / "study2" / "a", "2")
    series(base / "patient2" / "study3" / "deep" / "er", "3")
    write_nifti(base / "patient3" / "t1.nii", *SMALL)
    inner = ["patient1/study1", "patient1/study2", "patient2", "patient3"]
    expected = [str(Path(above, one)) for one in inner]
    assert found(cohort) == expected
    assert [len(find_series(path)) for path in studies_in(cohort)] == [2, 1, 1, 1]


def test_a_volume_in_a_container_is_a_study(tmp_path):
    series(tmp_path / "site" / "a", "1")
    series(tmp_path / "site" / "b", "2")
    write_nifti(tmp_path / "site" / "c.nii", *SMALL)
    assert found(tmp_path) == ["site/a", "site/b", "site/c.nii"]


def test_the_folder_of_one_studys_series_is_that_study(tmp_path):
    series(tmp_path / "a", "1")
    series(tmp_path / "b", "1", 2)
    touch(tmp_path / "reports" / "report.txt")
    assert found(tmp_path) == ["."]


def test_one_dicom_study_beside_other_scans_stays_apart(tmp_path):
    series(tmp_path / "a", "1")
    write_nifti(tmp_path / "b" / "t1.nii", *SMALL)
    assert found(tmp_path) == ["a", "b"]
    series(tmp_path / "c", "1", 2)
    assert found(tmp_path) == ["a", "b", "c"]


def test_a_single_patients_folder_is_the_study_not_the_cohort(tmp_path):
    series(tmp_path / "patient" / "a", "1")
    series(tmp_path / "patient" / "b", "1", 2)
    assert found(tmp_path) == ["patient"]


def test_dicom_files_in_the_cohort_folder_make_it_one_study(tmp_path):
    series(tmp_path, "1")
    series(tmp_path / "more", "1", 2)
    assert found(tmp_path) == ["."]


def test_a_disc_is_the_studies_on_it_whatever_its_index_says(tmp_path):
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM and the records")
    series(tmp_path / "DICOM" / "PAT1", "1")
    series(tmp_path / "DICOM" / "PAT2", "2")
    assert found(tmp_path) == ["DICOM/PAT1", "DICOM/PAT2"]


@pytest.mark.parametrize("rename", [lambda name: name, lambda name: Path(name).stem, lambda name: f"{name}.7"])
def test_dicom_is_known_by_content_and_damaged_files_before_it_do_no_harm(tmp_path, rename: Callable[[str], str]):
    for number in (1, 2):
        folder = series(tmp_path / "site" / f"s{number}", str(number))
        for file in list(folder.iterdir()):
            file.rename(folder / rename(file.name))
        (folder / "0").write_bytes(bytes(128) + b"DICM cut short")
        (folder / "00").touch()
    assert found(tmp_path) == ["site/s1", "site/s2"]


def test_dicom_without_preamble_is_found(tmp_path):
    for number in (1, 2):
        for file in series(tmp_path / "site" / f"s{number}", str(number)).iterdir():
            bare = pydicom.Dataset(pydicom.dcmread(file))
            pydicom.dcmwrite(file, bare, implicit_vr=True, little_endian=True)
            assert file.read_bytes()[:2] == b"\x08\x00"
    assert found(tmp_path) == ["site/s1", "site/s2"]


def test_damaged_dicom_is_left_as_an_input_that_can_be_refused(tmp_path):
    write_nifti(tmp_path / "a.nii", *SMALL)
    (tmp_path / "b.dcm").write_bytes(b"no DICOM at all")
    assert found(tmp_path) == ["a.nii", "b.dcm"]
    with pytest.raises(StudyError, match="holds no scan"):
        find_series(tmp_path / "b.dcm")


def test_results_of_earlier_runs_are_passed_over_wherever_they_lie(tmp_path):
    write_nifti(tmp_path / "a.nii", *SMALL)
    (tmp_path / "a").mkdir()  # results beside the scans: -o COHORT
    for name in ("report.json", "measurements.json", "labels.nii.gz"):
        touch(tmp_path / "a" / name)
    touch(tmp_path / "old" / "mr-01234567" / "labels.nii.gz")
    (tmp_path / "old" / "summary.csv").write_text("case,status,seconds,left_ml,verdict,reasons,error\n")
    touch(tmp_path / "new" / "b.nii")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "summary.csv").write_text("patient,age\n")
    assert found(tmp_path, (tmp_path / "new", tmp_path / "not made yet")) == ["a.nii", "tables"]


def test_results_that_go_to_the_cohort_folder_itself_do_not_hide_it(tmp_path):
    write_nifti(tmp_path / "a.nii", *SMALL)
    (tmp_path / "summary.csv").write_text("case,status,seconds\n")
    assert found(tmp_path, (tmp_path,)) == ["a.nii"]


def test_links_are_followed_and_loops_are_not(tmp_path):
    cohort = tmp_path / "cohort"
    series(cohort / "b", "1")
    series(tmp_path / "elsewhere", "2")
    (cohort / "c").symlink_to(tmp_path / "elsewhere")
    (cohort / "a").symlink_to(cohort / "b")  # met at its own place
    (cohort / "b" / "up").symlink_to(cohort)
    (cohort / "d").symlink_to("d")
    assert found(cohort) == ["b", "c"]


def test_a_folder_that_can_not_be_read_stays_an_input(tmp_path, monkeypatch):
    write_nifti(tmp_path / "a.nii", *SMALL)
    closed = tmp_path / "closed"
    closed.mkdir()
    scan = os.scandir

    def scandir(path: Path):
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert found(tmp_path) == ["a.nii", "closed"]
    with pytest.raises(UsageError, match=r"closed: can not be read \(Permission denied\)"):
        studies_in(closed)


def test_a_folder_that_may_be_listed_and_not_entered_stays_an_input(tmp_path, monkeypatch):
    write_nifti(tmp_path / "a.nii", *SMALL)
    inner = tmp_path / "listed" / "inner"
    inner.mkdir(parents=True)
    stat = Path.stat

    def closed(path: Path, **options):
        if path == inner:
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", closed)
    assert found(tmp_path) == ["a.nii", "listed"]


def test_nothing_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no file or folder"):
        studies_in(tmp_path / "nowhere")
    touch(tmp_path / "readme.txt")
    with pytest.raises(StudyError, match="holds no study"):
        studies_in(tmp_path)


def test_one_header_of_a_folder_is_read_however_many_files_it_holds(tmp_path, monkeypatch):
    opened = []
    real = Path.open

    def count(path: Path, *args, **kwargs):
        opened.append(path.parent.name)
        return real(path, *args, **kwargs)

    for number in range(3):
        folder = series(tmp_path / f"study{number}", str(number))
        for copy in range(30):
            shutil.copy(next(folder.glob("*.dcm")), folder / f"z{copy}")
    monkeypatch.setattr(Path, "open", count)
    assert len(found(tmp_path)) == 3
    assert sorted(opened) == sorted(["study0", "study1", "study2"] * 2)  # its kind, then its header
