"""The command line's face: answers, exit statuses, one-line errors, and what it does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from factories import PATIENT, edit_file, make_volume, write_mr_series, write_nifti
from scanloom.pipeline import cli
from scanloom.pipeline.studies.isolation import StudyProcess
from typer.testing import CliRunner

HEAVY = ("torch", "monai", "numpy", "mlflow", "matplotlib", "pydicom", "nibabel")
COMMANDS = ("predict", "listen", "convert", "inspect", "train", "evaluate", "ui", "doctor", "demo")


def run(*words: str):
    return CliRunner().invoke(cli.app, list(words))


def imported_by(*words: str) -> tuple[int, set[str]]:
    """Exit status of a command in a process of its own, and which heavy packages it imported."""
    code = (
        "import sys, json; sys.argv = ['scanloom', *json.loads(sys.argv[1])]\n"
        "from scanloom.pipeline.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: status = end.code or 0\n"
        f"print(json.dumps([status, [name for name in {HEAVY} if name in sys.modules]]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, json.dumps(words)], capture_output=True, text=True, check=True
    )
    status, names = json.loads(process.stdout.splitlines()[-1])
    return status, set(names)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["predict", "--help"], 0),
        (["predict", "--nonsense"], 2),
        (["predict", "-b", "x"], 2),
        (["predict", "-b", "x", "-i", ".", "-o", "out", "--precision", "fp8"], 2),
        (["predict", "-b", "x", "-i", ".", "-o", "out", "--engine", "steam"], 2),
        (["predict", "-b", "x", "-i", "missing.nii", "-o", "out"], 2),
        (["predict", "-b", "no-such-bundle", "-i", ".", "-o", "out"], 1),
        (["predict", "-b", "x", "-i", "dicomweb://host/no-study", "-o", "out"], 2),
        (["predict", "-b", "x", "-i", "ftp://host/studies/1.2.3", "-o", "out"], 2),
        (["inspect", "missing"], 2),
        (["inspect", "long" * 1000], 2),
        (["train", "-b", "x", "-d", "missing", "-o", "out"], 2),
        (["evaluate", "-b", "x", "-d", "missing", "-o", "out"], 2),
        (["nonsense"], 2),
    ],
)
def test_help_and_wrong_arguments_import_nothing_heavy(words: list[str], status: int) -> None:
    assert imported_by(*words) == (status, set())


def test_a_refused_study_costs_no_torch_and_no_monai(tmp_path: Path) -> None:
    array, affine = make_volume((12, 13, 14))
    write_mr_series(tmp_path / "study" / "a", array, affine, number=1)
    write_mr_series(tmp_path / "study" / "b", array, affine, number=2)
    status, names = imported_by(
        "predict", "-b", "hippocampus_mr_unet", "-i", str(tmp_path / "study"), "-o", str(tmp_path / "out")
    )
    assert status == 3
    assert not {"torch", "monai", "mlflow"} & names


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_an_error_is_one_line_with_its_status(tmp_path: Path) -> None:
    result = run("inspect", str(tmp_path))
    assert result.exit_code == 3
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("scanloom: ")


def test_debug_shows_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["scanloom", "inspect", str(tmp_path), "--debug"])
    assert "Traceback" in run("inspect", str(tmp_path)).stderr


def test_an_unforeseen_error_is_one_line_and_status_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(studies: StudyProcess, path: Path) -> None:
        raise ZeroDivisionError("PHICANARY")

    monkeypatch.setattr(StudyProcess, "find", fail)
    result = run("inspect", str(tmp_path))
    assert result.exit_code == 1
    assert (
        result.stderr
        == "scanloom: ZeroDivisionError in scanloom itself. Run again with --debug and report the trace.\n"
    )


def test_inspect_lists_the_series_and_nothing_of_the_patient(tmp_path: Path) -> None:
    array, affine = make_volume((12, 13, 14))
    write_mr_series(tmp_path / "study" / "a", array, affine, number=1)
    write_mr_series(tmp_path / "study" / "b", array[:, :, :3], affine, number=2)
    table, data = run("inspect", str(tmp_path / "study")), run("inspect", str(tmp_path / "study"), "--json")
    assert (table.exit_code, data.exit_code) == (0, 0)
    series = json.loads(data.stdout)["series"]
    assert [one["slices"] for one in series] == [14, 3]
    for one in series:
        assert one["case"] in table.stdout
    assert "PHICANARY" not in table.output + data.output


def test_predict_prints_the_table_of_an_ambiguous_study(tmp_path: Path) -> None:
    array, affine = make_volume((12, 13, 14))
    for number in (1, 2):
        for file in write_mr_series(tmp_path / "study" / str(number), array, affine, number=number):
            edit_file(file, **PATIENT)
    words = ("predict", "-b", "hippocampus_mr_unet", "-i", str(tmp_path / "study"), "-o", str(tmp_path / "out"))
    result = run(*words)
    assert result.exit_code == 3
    assert "verdict" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("scanloom: 2 series found, 2 fit")
    answer = json.loads(run(*words, "--json").stdout)
    assert [one["number"] for one in answer["cases"][0]["series"]] == [1, 2]
    assert answer["cases"][0]["status"] == "refused"
    assert "PHICANARY" not in result.output + json.dumps(answer)


def test_settings_are_read_as_yaml() -> None:
    assert cli._settings(["a=1", "b=[1, 2]", "c=x=y", "d=0.5"]) == {"a": 1, "b": [1, 2], "c": "x=y", "d": 0.5}


@pytest.mark.parametrize(("word", "message"), [("nonsense", "KEY=VALUE"), ("=1", "KEY=VALUE"), ("a=[1", "not YAML")])
def test_a_setting_that_is_none_is_refused(tmp_path: Path, word: str, message: str) -> None:
    result = run("train", "-b", "hippocampus_mr_unet", "-d", str(tmp_path), "-o", "run", "--set", word)
    assert result.exit_code == 2
    assert message in result.stderr


def test_predict_takes_volume_files_without_a_modality(tmp_path: Path) -> None:
    array, affine = make_volume((12, 13, 3))
    scan = write_nifti(tmp_path / "thin.nii.gz", array, affine)
    result = run("predict", "-b", "hippocampus_mr_unet", "-i", str(scan), "-o", str(tmp_path / "out"))
    assert result.exit_code == 3
    assert "at least 8 slices" in result.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--workers", "2"], "--workers 2: it must be 1 or more, and goes with --cluster"),
        (["--cluster", "auto", "--workers", "0"], "--workers 0: it must be 1 or more"),
        (["--store"], "--store: no input came from a server"),
        (["-i", "dicomweb://127.0.0.1:1/studies/1.2", "--store", "--format", "nifti"], "--store: only DICOM objects"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_read(
    tmp_path: Path, words: list[str], line: str
) -> None:
    result = run("predict", "-b", "hippocampus_mr_unet", "-i", str(tmp_path), "-o", str(tmp_path / "out"), *words)
    assert result.exit_code == 2
    assert line in result.stderr
    assert not (tmp_path / "out").exists()


def test_every_study_of_a_cohort_ends_under_a_name(tmp_path: Path) -> None:
    array, affine = make_volume((12, 13, 14))
    write_mr_series(tmp_path / "cohort" / "small", array, affine)
    (tmp_path / "cohort" / "empty").mkdir()
    (tmp_path / "cohort" / "empty" / "x.dcm").write_bytes(b"")
    (tmp_path / "cohort" / "broken.nii.gz").write_bytes(b"rubbish")
    words = ["predict", "-b", "hippocampus_mr_unet", "-i", str(tmp_path / "cohort"), "-o", str(tmp_path / "out")]
    result = run(*words, "--cohort", "--json", "--series", "7")
    cases = {case["case"]: case["status"] for case in json.loads(result.stdout)["cases"]}
    assert result.exit_code == 3
    assert set(cases.values()) == {"refused"}
    assert len(cases) == 3
    assert "broken" in cases
    assert all(name in result.stderr for name in cases)
