"""`scanloom convert` as it is called: files, statuses, JSON; and that nothing heavy is imported for it."""

import json
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from factories import PATIENT, make_volume, write_mr_series, write_nifti
from scanloom.pipeline.cli import app
from typer.testing import CliRunner


def run(*words):
    return CliRunner().invoke(app, ["convert", *map(str, words)])


def answer(*words):
    result = run(*words, "--json")
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def two_series(tmp_path):
    write_mr_series(tmp_path / "in" / "a", number=1)
    write_mr_series(tmp_path / "in" / "b", make_volume(seed=1)[0], number=2, gap_after=3)
    return tmp_path / "in"


def test_a_series_becomes_a_nifti_of_its_voxels_and_places(tmp_path):
    array, affine = make_volume()
    affine[1, 2] += 0.6  # a tilted gantry stays in the affine
    write_mr_series(tmp_path / "in", array, affine)
    status, told = answer("-i", tmp_path / "in", "-o", tmp_path / "out")
    (volume,) = told["volumes"]
    assert status == 0
    assert [warning["code"] for warning in volume["warnings"]] == ["sheared-slices"]
    image = nibabel.load(volume["output"])
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.get_data_dtype() == np.int16
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"{volume['case']}.nii.gz"]


def test_several_series_are_refused_with_the_candidates(tmp_path, two_series):
    status, told = answer("-i", two_series, "-o", tmp_path / "out")
    assert status == 3
    assert told["volumes"] == []
    assert [refused["code"] for refused in told["refused"]] == ["several-series"]
    assert [one["number"] for one in told["candidates"]] == [1, 2]
    assert not list(tmp_path.glob("out/*"))
    shown = run("-i", two_series, "-o", tmp_path / "out")
    assert shown.exit_code == 3
    assert "Choose one with --series" in shown.stderr


def test_one_of_several_is_chosen_by_number(tmp_path, two_series):
    status, told = answer("-i", two_series, "-o", tmp_path / "out", "--series", "2")
    assert (status, len(told["volumes"])) == (0, 1)
    assert [warning["code"] for warning in told["volumes"][0]["warnings"]] == ["missing-slice"]


def test_all_converts_every_series_and_names_those_it_could_not(tmp_path, two_series):
    write_mr_series(two_series / "c", number=3, duplicate=2)
    status, told = answer("-i", two_series, "-o", tmp_path / "out", "--all")
    assert status == 4
    assert len(told["volumes"]) == len(list((tmp_path / "out").iterdir())) == 2
    assert [refused["code"] for refused in told["refused"]] == ["repeated-position"]


def test_strict_refuses_what_would_be_a_warning(tmp_path, two_series):
    status, told = answer("-i", two_series, "-o", tmp_path / "out", "--series", "2", "--strict")
    assert status == 3
    assert [refused["code"] for refused in told["refused"]] == ["missing-slice"]
    assert not list(tmp_path.glob("out/*.nii.gz"))
    assert answer("-i", two_series, "-o", tmp_path / "out", "--series", "1", "--strict")[0] == 0


def test_a_volume_of_more_than_max_voxels_is_refused(tmp_path):
    write_nifti(tmp_path / "x.nii.gz", *make_volume())
    status, told = answer("-i", tmp_path / "x.nii.gz", "-o", tmp_path / "out", "--max-voxels", 335)
    assert status == 3
    assert told["refused"][0]["code"] == "too-large"
    assert answer("-i", tmp_path / "x.nii.gz", "-o", tmp_path / "out", "--max-voxels", 336)[0] == 0


def test_names_of_the_source_are_used_where_asked_for(tmp_path):
    write_mr_series(tmp_path / "in" / "Knee: 2nd visit")
    _, told = answer("-i", tmp_path / "in", "-o", tmp_path / "out", "--names", "source")
    (volume,) = told["volumes"]
    assert volume["case"] == f"Knee_ 2nd visit-{volume['series'][:8]}"
    assert "Knee" not in json.dumps(answer("-i", tmp_path / "in", "-o", tmp_path / "hashed")[1])


def test_wrong_arguments_are_status_2(tmp_path, two_series):
    assert run("-i", tmp_path / "none", "-o", tmp_path / "out").exit_code == 2
    assert run("-i", two_series, "-o", tmp_path / "out", "--all", "--series", "1").exit_code == 2
    (tmp_path / "file").write_text("in the way")
    assert run("-i", two_series / "a", "-o", tmp_path / "file" / "out").exit_code == 2


def test_nothing_of_the_patient_is_in_any_output(tmp_path):
    def identify(dataset, _):
        for keyword, value in PATIENT.items():
            setattr(dataset, keyword, value)
        dataset.SeriesDescription = "PHICANARY"

    write_mr_series(tmp_path / "in" / "a", edit=identify)
    write_mr_series(tmp_path / "in" / "b", number=2, edit=identify, duplicate=2)
    result = run("-i", tmp_path / "in", "-o", tmp_path / "out", "--all", "--json")
    told = result.stdout + result.stderr + " ".join(map(str, (tmp_path / "out").rglob("*")))
    assert "PHICANARY" not in told
    for path in (tmp_path / "out").iterdir():
        assert b"PHICANARY" not in nibabel.load(path).header.binaryblock


def test_convert_and_inspect_import_neither_torch_nor_monai(tmp_path):
    write_mr_series(tmp_path / "in")
    code = (
        "import sys; from scanloom.pipeline.cli import app\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "print([name for name in ('torch', 'monai', 'mlflow') if name in sys.modules])"
    )
    for words in (["convert", "-i", "in", "-o", "out"], ["inspect", "in"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=os.environ
        )
        assert done.stdout.splitlines()[-1] == "[]", done.stderr
