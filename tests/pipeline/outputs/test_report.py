import csv
import json
import platform
from importlib.metadata import version

import pytest
from scanloom.pipeline.errors import PipelineError
from scanloom.pipeline.outputs import (
    RunFacts,
    SummaryRow,
    build_report,
    measure,
    package_versions,
    write_report,
    write_summary,
)
from scanloom.pipeline.outputs import report as report_module
from scanloom.pipeline.volume import Notice


def test_a_report_leads_back_to_input_weights_run_and_software(make_volume, make_labels, make_bundle):
    bundle = make_bundle(training={"mlflow_run_id": "abc123"})
    volume = make_volume(modality="MR", series_sha256="f" * 64, notices=(Notice("duplicate", "One copy dropped."),))
    windows = {"windows": 12, "precision": "bf16"}
    facts = RunFacts("cpu", {"read": 0.12345}, (Notice("window", "Smaller than the network's window."),), windows)

    report = build_report(volume, bundle, measure(make_labels(), volume, bundle), facts, ["labels.nii.gz"])

    assert report["case"] == "case_1"
    assert report["device"] == "cpu"
    assert report["inference"] == windows
    assert report["bundle"] == {
        "name": "test_bundle",
        "version": "1.2.3",
        "weights_sha256": bundle.weights_sha256,
        "mlflow_run_id": "abc123",
    }
    assert report["input"]["series_sha256"] == "f" * 64
    assert report["input"]["shape_voxels"] == [9, 8, 7]
    assert report["input"]["spacing_mm"] == [1.0, 2.0, 3.0]
    assert report["seconds"] == {"read": 0.123}
    assert [warning["code"] for warning in report["warnings"]] == ["duplicate", "window"]
    assert [label["name"] for label in report["labels"]] == ["anterior", "posterior"]
    assert report["versions"]["torch"] == version("torch")
    assert report["outputs"] == ["labels.nii.gz"]


def test_weights_without_a_run_say_so(make_volume, make_labels, bundle):
    volume = make_volume()
    report = build_report(volume, bundle, measure(make_labels(), volume, bundle), RunFacts("cpu"))
    assert report["bundle"]["mlflow_run_id"] is None
    assert report["input"]["kind"] == "image file"


def test_a_report_is_read_back_as_it_was(tmp_path, make_volume, make_labels, bundle):
    volume = make_volume()
    report = build_report(volume, bundle, measure(make_labels(), volume, bundle), RunFacts("cpu"))
    write_report(tmp_path / "report.json", report)
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_a_value_that_json_can_not_hold_leaves_the_old_report(tmp_path):
    path = tmp_path / "report.json"
    write_report(path, {"case": "old"})
    with pytest.raises(ValueError, match="Out of range float values"):
        write_report(path, {"case": float("nan")})
    assert json.loads(path.read_text()) == {"case": "old"}
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(report_module, "PACKAGES", ("numpy", "no-such-package"))
    assert package_versions() == {"python": platform.python_version(), "numpy": version("numpy")}


def test_the_summary_has_a_row_a_case_and_a_column_a_label(tmp_path):
    rows = [
        SummaryRow("one", "done", 1.234, {"anterior": 1.5504321, "posterior": 0.0}),
        SummaryRow(None, "refused", 0.1, error="series x: gap of 3 mm.\nExport it again."),
        SummaryRow("three", "done", 2.0, {"tumour": 3.0}),
    ]
    write_summary(tmp_path / "summary.csv", rows)
    with (tmp_path / "summary.csv").open(newline="") as file:
        one, two, three = csv.DictReader(file)
    assert list(one) == [
        "case",
        "status",
        "seconds",
        "anterior_ml",
        "posterior_ml",
        "tumour_ml",
        "verdict",
        "reasons",
        "error",
    ]
    assert (one["anterior_ml"], one["posterior_ml"], one["tumour_ml"]) == ("1.55043", "0", "")
    assert (two["case"], two["status"], two["error"]) == ("", "refused", "series x: gap of 3 mm. Export it again.")
    assert three["tumour_ml"] == "3"


def test_a_summary_of_nothing_has_a_header(tmp_path):
    write_summary(tmp_path / "summary.csv", [])
    assert (tmp_path / "summary.csv").read_text() == "case,status,seconds,verdict,reasons,error\n"


def test_a_folder_that_can_not_be_made_is_an_error(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(PipelineError, match="choose another folder with -o"):
        write_summary(tmp_path / "out" / "summary.csv", [])
