"""Finding series by content, and choosing among them."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from factories import PATIENT, edit_file, make_volume, write_ct_series, write_mr_series, write_nifti
from scanloom.pipeline.bundle import SeriesRule
from scanloom.pipeline.errors import StudyError, UsageError
from scanloom.pipeline.studies import AmbiguousSeriesError, find_series, read_series, select_series


@pytest.fixture
def study(tmp_path):
    """Two MR series, one of three slices, and a CT series."""
    write_mr_series(tmp_path / "a", number=2)
    write_mr_series(tmp_path / "b", make_volume((6, 7, 3))[0], number=1)
    write_ct_series(tmp_path / "c", number=3, seed="other")
    return tmp_path


def test_series_are_found_in_folders_of_any_depth_and_sorted_by_number(study):
    (study / "deep/er").mkdir(parents=True)
    shutil.move(study / "a", study / "deep/er/a")
    found = find_series(study)
    assert [(one.number, one.modality, one.slices) for one in found] == [(1, "MR", 3), (2, "MR", 8), (3, "CT", 8)]
    assert [one.kind for one in found] == ["dicom"] * 3
    assert all(one.case.startswith(f"{one.modality.lower()}-") and len(one.case) == 11 for one in found)


def test_one_series_split_over_folders_is_one(tmp_path):
    files = write_mr_series(tmp_path / "one")
    (tmp_path / "two of it").mkdir()
    for file in files[4:]:
        file.rename(tmp_path / "two of it" / file.name)
    (series,) = find_series(tmp_path)
    assert series.slices == 8


def test_junk_is_passed_over(tmp_path):
    write_mr_series(tmp_path, shuffle_names=True)
    (tmp_path / "README.txt").write_text("not a scan" * 100)
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "._MR01.nii").write_bytes(b"\0\5\x16\7" + bytes(400))
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 4)
    os.mkfifo(tmp_path / "pipe.dcm")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (series,) = find_series(tmp_path)
    assert series.slices == 8
    assert [notice.code for notice in series.notices] == ["empty-files"]


def test_files_of_a_folder_that_may_only_be_listed_are_told_of(tmp_path, monkeypatch):
    write_mr_series(tmp_path / "a")
    closed = write_ct_series(tmp_path / "closed")
    stat = Path.stat

    def no_permission(self, **options):
        if self in closed:
            raise PermissionError
        return stat(self, **options)

    monkeypatch.setattr(Path, "stat", no_permission)
    (series,) = find_series(tmp_path)
    assert f"{len(closed)} files look like DICOM but can not be read" in series.verdict
    shutil.rmtree(tmp_path / "a")
    with pytest.raises(StudyError, match=f"{len(closed)} files can not be read"):
        find_series(tmp_path)


def test_files_without_preamble_are_recognised(tmp_path):
    for file in write_mr_series(tmp_path):
        file.write_bytes(file.read_bytes()[132:])
    (series,) = find_series(tmp_path)
    assert series.slices == 8
    assert read_series(series).array.shape == (1, 6, 7, 8)


def test_a_damaged_file_is_told_with_the_series(tmp_path):
    write_mr_series(tmp_path)
    (tmp_path / "broken").write_bytes(bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0\xff")
    (series,) = find_series(tmp_path)
    assert [notice.code for notice in series.notices] == ["unreadable-files"]
    assert "1 files look like DICOM" in series.verdict


def test_an_image_whose_header_broke_is_damaged_not_passed_over(tmp_path):
    edit_file(write_mr_series(tmp_path)[-1], Rows=None)
    (series,) = find_series(tmp_path)
    assert [notice.code for notice in series.notices] == ["unreadable-files"]


def test_segmentations_and_reports_are_no_series(tmp_path):
    files = write_mr_series(tmp_path / "mr")
    shutil.copy(files[0], tmp_path / "seg")
    edit_file(tmp_path / "seg", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", SOPInstanceUID="1.2.3")
    shutil.copy(files[0], tmp_path / "report")
    edit_file(tmp_path / "report", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", SOPInstanceUID="1.2.4", PixelData=None)
    assert len(find_series(tmp_path)) == 1
    with pytest.raises(StudyError, match=r"the file holds no scan: 1 DICOM objects, none an image"):
        find_series(tmp_path / "seg")


def test_a_volume_file_is_a_case_named_by_its_stem(tmp_path):
    file = write_nifti(tmp_path / "case.12.nii.gz", *make_volume())
    (series,) = find_series(file)
    assert (series.case, series.kind, series.modality, series.slices) == ("case.12", "nifti", None, 8)


def test_volume_files_of_one_stem_get_names_that_differ(tmp_path):
    for folder in ("a", "b"):
        write_nifti(tmp_path / folder / "image.nii.gz", *make_volume())
    one, other = find_series(tmp_path)
    assert one.case != other.case
    assert one.case.startswith("image-") and other.case.startswith("image-")


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, file in files.items():
            archive.write(file, name)
    return path


def test_a_series_in_an_archive_is_read_like_one_in_a_folder(tmp_path):
    files = write_mr_series(tmp_path / "series")
    path = write_zip(tmp_path / "study.zip", {f"a/b/{file.name}": file for file in files})
    (zipped,), (plain,) = find_series(path, scratch=tmp_path / "scratch"), find_series(tmp_path / "series")
    assert (zipped.case, zipped.shape) == (plain.case, plain.shape)
    np.testing.assert_array_equal(read_series(zipped).array, read_series(plain).array)


def test_volume_files_in_an_archive_keep_their_names_even_where_two_are_called_alike(tmp_path):
    file = write_nifti(tmp_path / "x.nii.gz", *make_volume())
    path = write_zip(tmp_path / "all.zip", {"a/head.nii.gz": file, "b/head.nii.gz": file, "c/neck.nii.gz": file})
    cases = sorted(one.case for one in find_series(path, scratch=tmp_path / "scratch"))
    assert cases[2] == "neck"
    assert len(set(cases)) == 3
    assert cases == sorted(one.case for one in find_series(path, scratch=tmp_path / "again"))


def test_an_archive_that_is_refused_does_not_stop_the_others_and_is_told(tmp_path):
    write_mr_series(tmp_path / "in" / "series")
    write_zip(tmp_path / "in" / "PHICANARY.zip", {"../../escape": tmp_path / "in" / "series" / "MR01_0000.dcm"})
    series = find_series(tmp_path / "in", scratch=tmp_path / "scratch")
    refused = [one for one in series if one.refused]
    assert [one.refused.code for one in refused] == ["unsafe-archive"]
    assert "PHICANARY" not in json.dumps([one.summary() for one in series])
    chosen = select_series(series, SeriesRule())
    assert [notice.code for notice in chosen.notices] == ["series-passed-over"]
    shutil.rmtree(tmp_path / "in" / "series")
    with pytest.raises(StudyError) as caught:
        select_series(find_series(tmp_path / "in", scratch=tmp_path / "scratch"), SeriesRule())
    assert caught.value.code == "unsafe-archive"


def test_what_an_archive_held_vanishes_with_python(tmp_path):
    files = write_mr_series(tmp_path / "series")
    path = write_zip(tmp_path / "study.zip", {file.name: file for file in files})
    code = "import sys; from scanloom.pipeline.studies import find_series; print(find_series(sys.argv[1])[0].files[0])"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert not Path(done.stdout.strip()).exists()


def test_a_missing_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"no file or folder .*nowhere"):
        find_series(tmp_path / "nowhere")


def test_a_folder_without_scans_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(StudyError, match="the folder holds no scan: 1 files, none DICOM"):
        find_series(tmp_path)
    (tmp_path / "notes.txt").write_bytes(bytes(128) + b"DICM" + b"\2\0\0\0UL\4\0\xff")
    with pytest.raises(StudyError, match="no readable scan: 1 files can not be read"):
        find_series(tmp_path)


def test_a_dicomdir_stands_for_its_folder(study):
    (study / "DICOMDIR").write_bytes(b"index")
    assert len(find_series(study / "DICOMDIR")) == 3


def test_the_only_series_that_fits_the_rule_is_selected(study):
    series = find_series(study)
    assert select_series(series, SeriesRule("MR", 8)).number == 2
    assert select_series(series, SeriesRule("CT")).number == 3


def test_a_keyword_decides_among_series_that_fit_and_excludes_none(study):
    write_mr_series(study / "d", number=4, description="T2 FLAIR sag")
    rule = SeriesRule("MR", 8, keywords=("flair",))
    assert select_series(find_series(study), rule).number == 4
    shutil.rmtree(study / "d")
    assert select_series(find_series(study), rule).number == 2


def test_a_spacing_range_leaves_series_out(study):
    write_mr_series(study / "d", *make_volume(spacing=(1, 1, 6)), number=4)
    series = find_series(study)
    assert select_series(series, SeriesRule("MR", 8, spacing_mm=(0.5, 3))).number == 2
    with pytest.raises(StudyError, match=r"voxel edges of 7 to 9 mm"):
        select_series(series, SeriesRule("MR", 8, spacing_mm=(7, 9)))


def test_several_fitting_series_are_refused_with_the_candidates(study):
    series = find_series(study)
    with pytest.raises(AmbiguousSeriesError, match=r"3 series found, 2 fit .*\(MR\): mr-.*, mr-.*--series") as caught:
        select_series(series, SeriesRule("MR"))
    assert [one.number for one in caught.value.candidates] == [1, 2]
    assert "\n" not in str(caught.value)
    assert (caught.value.exit_status, caught.value.code) == (3, "several-series")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_the_user_s_choice_is_a_uid_a_case_name_or_a_number(study):
    series = find_series(study)
    for wanted in (series[1].uid, series[1].case, "2"):
        assert select_series(series, SeriesRule("MR"), wanted) is series[1]


def test_a_choice_that_fits_nothing_is_refused(study):
    series = find_series(study)
    with pytest.raises(StudyError, match="no series of that UID, case name or number; found: mr-"):
        select_series(series, SeriesRule(), "17")
    with pytest.raises(StudyError, match=r"\(CT, 8 slices\) does not fit what .* \(MR, at least 4 slices\)"):
        select_series(series, SeriesRule("MR", 4), "3")
    with pytest.raises(StudyError, match=r"no series fits what .* \(PT\); found: mr-\w+ \(MR, 3 slices\)"):
        select_series(series, SeriesRule("PT"))
    shutil.copytree(study / "a", study / "d")
    write_mr_series(study / "e", seed="third", number=2)
    with pytest.raises(AmbiguousSeriesError, match="2 series have that number or name"):
        select_series(find_series(study), SeriesRule("MR"), "2")


def test_a_refused_series_is_passed_over_with_a_notice(study):
    write_mr_series(study / "d", number=4, duplicate=3)
    series = find_series(study)
    chosen = select_series(series, SeriesRule("MR", 7))
    assert chosen.number == 2
    assert [notice.code for notice in read_series(chosen).notices] == ["series-passed-over"]


def test_a_refused_series_that_is_the_only_one_tells_why(tmp_path):
    write_mr_series(tmp_path / "a", duplicate=3)
    series = find_series(tmp_path)
    for wanted in (None, "1"):
        with pytest.raises(StudyError, match="lie at the same place"):
            select_series(series, SeriesRule("MR"), wanted)
    with pytest.raises(StudyError, match="lie at the same place"):
        read_series(series[0])
    write_mr_series(tmp_path / "b", duplicate=2, number=2)
    with pytest.raises(AmbiguousSeriesError, match=r"2 series fit .*, none can be read"):
        select_series(find_series(tmp_path), SeriesRule("MR"))


def test_a_volume_file_fits_any_modality(tmp_path):
    series = find_series(write_nifti(tmp_path / "x.nii", *make_volume()))
    assert select_series(series, SeriesRule("MR", 8)).case == "x"
    with pytest.raises(StudyError, match="no series of that UID"):
        select_series(series, SeriesRule(), "None")
    with pytest.raises(StudyError, match="at least 9 slices"):
        select_series(series, SeriesRule("MR", 9))


def test_nothing_of_the_patient_is_in_repr_summary_or_errors(tmp_path):
    def identify(dataset, _):
        for keyword, value in PATIENT.items():
            setattr(dataset, keyword, value)
        dataset.SeriesDescription = "T1 PHICANARY sag"

    write_mr_series(tmp_path / "PHICANARY", edit=identify)
    write_mr_series(tmp_path / "b", edit=identify, number=2, duplicate=2)
    series = find_series(tmp_path)
    with pytest.raises(StudyError) as refused:
        read_series(series[1])
    with pytest.raises(StudyError) as unknown:
        select_series(series, SeriesRule(), "PHICANARY")
    told = repr(series) + json.dumps([one.summary() for one in series]) + str(refused.value) + str(unknown.value)
    assert "PHICANARY" not in told
    assert "1950" not in told
    assert series[0].uid not in told


def test_a_summary_is_plain_values(study):
    summary = json.loads(json.dumps(find_series(study)[1].summary()))
    assert summary["spacing"] == [1.0, 1.5, 2.0]
    assert summary["size"] == [6, 7, 8]
    assert (summary["plane"], summary["description"], summary["verdict"]) == ("axial", "T1", "ok")


@pytest.mark.data
def test_the_real_study_holds_a_scout_and_two_acquisitions_of_one_case(data_folder):
    series = find_series(data_folder / "dicom" / "hippocampus_study")
    assert [(one.number, one.slices, one.plane) for one in series] == [
        *[(1, 1, "oblique coronal"), (1, 1, "oblique sagittal"), (1, 1, "oblique axial")],
        (2, 34, "oblique sagittal"),
        (3, 52, "oblique coronal"),
    ]
    assert [one.description for one in series] == ["scout"] * 3 + [
        "T1 hippocampus sagittal",
        "T1 hippocampus coronal",
    ]
    assert series[0].part == "orientation 1 of 3"
    with pytest.raises(AmbiguousSeriesError) as caught:
        select_series(series, SeriesRule("MR", 8))
    told = str(caught.value) + repr(series) + json.dumps([one.summary() for one in series])
    assert "PHICANARY" not in told
