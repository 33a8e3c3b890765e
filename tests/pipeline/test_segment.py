"""The story of a prediction, with a network that marks what is brighter than the mean."""

from __future__ import annotations

import csv
import html
import json
import os
import shutil
import signal
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from factories import PATIENT, edit_file, make_volume, reorient, write_mr_series, write_nifti
from scanloom.pipeline.bundle import SHIPPED, Bundle, find_bundle
from scanloom.pipeline.cohort import labelling
from scanloom.pipeline.cohort.job import Job
from scanloom.pipeline.errors import BundleError, UsageError, exit_status
from scanloom.pipeline.lock import NAME, FolderInUseError, locked
from scanloom.pipeline.progress import Report
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.studies import Series
from scanloom.pipeline.studies.isolation import StudyProcess
from scanloom.pipeline.volume import Notice, Volume

SHAPE = (12, 13, 14)


class BrightVoxels:
    """Stands for a loaded network: label 1 above the mean, 2 in the brightest tenth."""

    def __init__(self, keeps: bool = False) -> None:
        self.keeps = keeps

    device_name = "cpu"
    facts = {"windows": 1, "precision": "fp32"}  # noqa: RUF012
    notices = (Notice("memory", "one window at a time"),)
    surface_confidence = {1: 0.8, 2: 0.9}  # noqa: RUF012
    confidence: np.ndarray | None = None

    def __call__(self, volume: Volume, report: Report) -> np.ndarray:
        report(None, 0.5)
        if self.keeps:
            self.confidence = np.full(volume.spatial_shape, 204, np.uint8)
        values = volume.array[0]
        return ((values > values.mean()).astype(np.uint8) + (values > np.quantile(values, 0.9))).astype(np.uint8)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the network; holds a line for each time that it was loaded."""
    lines: list[str] = []

    def load(job: Job) -> BrightVoxels:
        lines.append(job.bundle.name)
        return BrightVoxels(job.options.confidence)

    monkeypatch.setattr(labelling, "load_predictor", load)
    return lines


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """A bundle of no network, as if it came with the package."""
    folder = tmp_path / "bundles" / "made_up"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    shutil.copy(SHIPPED / "hippocampus_mr_unet" / "configs" / "metadata.json", folder / "configs")
    (folder / "models" / "model.pt").write_bytes(b"weights")
    monkeypatch.setattr("scanloom.pipeline.trust.SHIPPED", folder.parent.resolve())
    return find_bundle(folder)


def make_scan(path: Path) -> Path:
    array, affine = make_volume(SHAPE)
    return write_nifti(path, array, affine)


def options(tmp_path: Path, *inputs: Path, **settings: object) -> PredictOptions:
    return PredictOptions(list(inputs), tmp_path / "out", **settings)  # type: ignore[arg-type]


def test_a_nifti_case_gets_all_its_files(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    [result] = predict(bundle, options(tmp_path, make_scan(tmp_path / "head.nii.gz")))
    assert (result.status, result.case, exit_status([result])) == ("done", "head", 0)
    names = {path.name for path in (tmp_path / "out" / "head").iterdir()}
    pages = {"view.html", "view-data.js", "image.nii.gz"}
    assert names - pages == {"labels.nii.gz", "measurements.json", "measurements.csv", "preview.png", "report.json"}
    assert "view.html" in names
    report = json.loads((tmp_path / "out" / "head" / "report.json").read_text())
    assert set(report["seconds"]) == {"read", "load", "predict", "verdict", "outputs"}
    assert report["bundle"]["weights_sha256"] == bundle.weights_sha256


def test_a_dicom_case_gets_a_segmentation_object_too(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    array, affine = make_volume(SHAPE)
    write_mr_series(tmp_path / "study", array, affine)
    [result] = predict(bundle, options(tmp_path, tmp_path / "study"))
    assert result.error is None
    assert result.folder is not None
    assert (result.folder / "segmentation.dcm").is_file()
    assert result.folder.name == result.case
    assert str(result.case).startswith("mr-")


def test_one_bad_case_does_not_stop_the_others(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not a scan")
    results = predict(bundle, options(tmp_path, bad, make_scan(tmp_path / "good.nii.gz")))
    assert [result.status for result in results] == ["refused", "done"]
    assert exit_status(results) == 4
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["refused", "done"]
    assert rows[0]["error"] == str(results[0].error)
    assert float(rows[1]["anterior_ml"]) == pytest.approx(results[1].volumes_ml["anterior"], rel=1e-5)


def test_several_matching_series_are_refused_before_the_network_is_loaded(
    tmp_path: Path, bundle: Bundle, loads: list[str]
) -> None:
    array, affine = make_volume(SHAPE)
    write_mr_series(tmp_path / "study" / "a", array, affine, number=1)
    write_mr_series(tmp_path / "study" / "b", array, affine, number=2)
    results = predict(bundle, options(tmp_path, tmp_path / "study"))
    assert exit_status(results) == 3
    assert "Choose one with --series" in str(results[0].error)
    assert [one["number"] for one in results[0].found] == [1, 2]
    assert loads == []
    [picked] = predict(bundle, options(tmp_path, tmp_path / "study", series="2"))
    assert picked.status == "done"


def test_orientation_of_the_slices_changes_no_label_in_the_patient(
    tmp_path: Path, bundle: Bundle, loads: list[str]
) -> None:
    array, affine = make_volume(SHAPE)
    turned = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0), "reversed": (0, 1, 2)}
    maps = []
    for name, axes in turned.items():
        other, other_affine = reorient(array, affine, axes, (name == "reversed",) * 3)
        write_mr_series(tmp_path / name, other, other_affine, number=len(maps) + 1)
        [result] = predict(bundle, options(tmp_path, tmp_path / name))
        assert result.folder is not None, result.error
        maps.append(nib.as_closest_canonical(nib.load(result.folder / "labels.nii.gz")))
    for other in maps[1:]:
        np.testing.assert_array_equal(np.asarray(other.dataobj), np.asarray(maps[0].dataobj))
        np.testing.assert_allclose(other.affine, maps[0].affine, atol=1e-4)


def test_what_these_weights_have_done_is_skipped(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    scan = make_scan(tmp_path / "head.nii.gz")
    predict(bundle, options(tmp_path, scan))
    [again] = predict(bundle, options(tmp_path, scan, skip_existing=True))
    assert again.status == "skipped"
    assert loads == ["hippocampus_mr_unet"]
    (tmp_path / "out" / "head" / "labels.nii.gz").unlink()
    [mended] = predict(bundle, options(tmp_path, scan, skip_existing=True))
    assert mended.status == "done"
    (bundle.folder / "models" / "model.pt").write_bytes(b"other weights")
    [other] = predict(find_bundle(bundle.folder), options(tmp_path, scan, skip_existing=True))
    assert other.status == "done"


@pytest.mark.parametrize("name", ["labels.nii.gz", "preview.png", "measurements.json", "report.json"])
def test_an_output_that_was_cut_short_is_made_again(
    tmp_path: Path, bundle: Bundle, loads: list[str], name: str
) -> None:
    scan = make_scan(tmp_path / "head.nii.gz")
    predict(bundle, options(tmp_path, scan))
    path = tmp_path / "out" / "head" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    [again] = predict(bundle, options(tmp_path, scan, skip_existing=True))
    assert again.status == "done"
    assert name == "report.json" or path.read_bytes() == whole


def test_a_skipped_case_keeps_its_volumes_and_warnings(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    scan = make_scan(tmp_path / "head.nii.gz")
    [first] = predict(bundle, options(tmp_path, scan))
    [again] = predict(bundle, options(tmp_path, scan, skip_existing=True))
    assert first.volumes_ml
    assert (again.volumes_ml, again.warnings) == (first.volumes_ml, first.warnings)
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert row["status"] == "skipped"
    assert float(row["anterior_ml"]) == pytest.approx(first.volumes_ml["anterior"], rel=1e-5)


def test_an_index_ties_the_cases_together(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(b"not a scan")
    one, two = make_scan(tmp_path / "one.nii.gz"), make_scan(tmp_path / "two.nii.gz")
    predict(bundle, options(tmp_path, one))
    predict(bundle, options(tmp_path, bad, one, two, skip_existing=True))
    text = (tmp_path / "out" / "index.html").read_text()
    for words in ("1 refused, 1 skipped, 1 done", "one/view.html", "two/view.html", "two/labels.nii.gz"):
        assert words in text
    assert text.count("one window at a time") == 2
    assert text.count('src="one/preview.png"') == text.count('src="two/preview.png"') == 1


def test_pages_are_left_out_on_demand(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    predict(bundle, options(tmp_path, make_scan(tmp_path / "head.nii.gz"), pages=False))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"head", "summary.csv"}
    assert not list((tmp_path / "out" / "head").glob("view*"))


def test_a_format_that_was_not_written_is_not_skipped(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    array, affine = make_volume(SHAPE)
    write_mr_series(tmp_path / "study", array, affine)
    predict(bundle, options(tmp_path, tmp_path / "study", formats=("nifti",)))
    [same] = predict(bundle, options(tmp_path, tmp_path / "study", formats=("nifti",), skip_existing=True))
    [usual] = predict(bundle, options(tmp_path, tmp_path / "study", skip_existing=True))
    assert (same.status, usual.status) == ("skipped", "done")


def test_a_second_run_on_the_folder_is_refused_before_it_reads_anything(
    tmp_path: Path, bundle: Bundle, loads: list[str]
) -> None:
    scan = make_scan(tmp_path / "head.nii.gz")
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"), pytest.raises(FolderInUseError, match="another run is writing there"):
        predict(bundle, options(tmp_path, scan))
    assert not list((tmp_path / "out").iterdir())
    [result] = predict(bundle, options(tmp_path, scan))
    assert result.status == "done"
    assert not (tmp_path / "out" / NAME).exists()


def test_an_interrupt_leaves_a_true_summary_and_no_lock(
    tmp_path: Path, bundle: Bundle, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = StudyProcess.read

    def stop(studies: StudyProcess, series: Series) -> Volume:
        if series.case == "two":
            raise KeyboardInterrupt
        return read(studies, series)

    monkeypatch.setattr(StudyProcess, "read", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(bundle, options(tmp_path, make_scan(tmp_path / "one.nii.gz"), make_scan(tmp_path / "two.nii.gz")))
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        assert [(row["case"], row["status"]) for row in csv.DictReader(file)] == [("one", "done")]
    assert not (tmp_path / "out" / NAME).exists()


def test_a_reader_that_dies_costs_one_case_which_alone_is_redone(
    tmp_path: Path, bundle: Bundle, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [make_scan(tmp_path / f"{name}.nii.gz") for name in ("one", "two", "three")]
    read = StudyProcess.read

    def die(studies: StudyProcess, series: Series) -> Volume:
        if series.case == "two" and studies.pid:
            os.kill(studies.pid, signal.SIGKILL)
        return read(studies, series)

    with monkeypatch.context() as patch:
        patch.setattr(StudyProcess, "read", die)
        results = predict(bundle, options(tmp_path, *scans))
    assert [result.status for result in results] == ["done", "refused", "done"]
    assert "killed by SIGKILL" in str(results[1].error)
    assert exit_status(results) == 4
    again = predict(bundle, options(tmp_path, *scans, skip_existing=True))
    assert [result.status for result in again] == ["skipped", "done", "skipped"]


def test_nan_reaches_no_network(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    array, affine = make_volume(SHAPE)
    broken = array.astype(np.float32)
    broken[0, 0, 0], broken[1, 1, 1] = np.nan, np.inf
    nib.save(nib.Nifti1Image(broken, affine), tmp_path / "head.nii")
    [result] = predict(bundle, options(tmp_path, tmp_path / "head.nii"))
    assert result.status == "done"
    assert "not-finite" in [warning["code"] for warning in result.warnings]
    assert min(result.volumes_ml.values()) > 0  # the mean of NaN would mark nothing


def verdict_of(folder: Path) -> dict[str, object]:
    return json.loads((folder / "report.json").read_text())["verdict"]


def test_a_verdict_is_in_every_place_that_shows_the_case(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    [result] = predict(bundle, options(tmp_path, make_scan(tmp_path / "head.nii.gz")))  # noise: no hippocampus
    assert result.verdict is not None
    assert (result.status, result.verdict.status, exit_status([result])) == ("done", "reject", 0)
    assert verdict_of(tmp_path / "out" / "head") == result.verdict.to_json()
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    first = result.verdict.reasons[0]
    assert row["verdict"] == "reject"
    assert f"{first.code}: {first.message}" in row["reasons"]
    for page in (tmp_path / "out" / "index.html", tmp_path / "out" / "head" / "view.html"):
        text = page.read_text()
        assert html.escape(first.message, quote=False) in text.replace("&#39;", "'")
        assert "reject" in text
    assert "1 verdict reject" in (tmp_path / "out" / "index.html").read_text()


def test_a_bundle_without_fingerprint_says_so(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    path = bundle.folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["fingerprint"]
    path.write_text(json.dumps(metadata))
    [result] = predict(find_bundle(bundle.folder), options(tmp_path, make_scan(tmp_path / "head.nii.gz")))
    assert result.verdict is not None
    assert result.verdict.status == "ok"
    assert result.verdict.notes[0].startswith("no fingerprint")


def test_a_fingerprint_that_is_none_stops_before_anything_is_read(
    tmp_path: Path, bundle: Bundle, loads: list[str]
) -> None:
    path = bundle.folder / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fingerprint": {"cases": 3}}))
    with pytest.raises(BundleError, match=r"fingerprint in configs/metadata\.json is no fingerprint"):
        predict(find_bundle(bundle.folder), options(tmp_path, make_scan(tmp_path / "head.nii.gz")))
    assert not (tmp_path / "out").exists()


def test_a_skipped_case_keeps_its_verdict(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    scan = make_scan(tmp_path / "head.nii.gz")
    [first] = predict(bundle, options(tmp_path, scan))
    [again] = predict(bundle, options(tmp_path, scan, skip_existing=True))
    assert again.status == "skipped"
    assert again.verdict == first.verdict


def test_a_confidence_map_is_written_on_demand(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    scan = make_scan(tmp_path / "head.nii.gz")
    predict(bundle, options(tmp_path, scan))
    assert not (tmp_path / "out" / "head" / "confidence.nii.gz").exists()
    loads.clear()
    [made] = predict(bundle, options(tmp_path, scan, confidence=True, skip_existing=True))
    assert made.status == "done"  # the earlier run had written none
    assert "confidence.nii.gz" in made.files
    image = nib.load(tmp_path / "out" / "head" / "confidence.nii.gz")
    np.testing.assert_allclose(image.get_fdata(), 0.8, atol=1e-6)
    np.testing.assert_allclose(image.affine, nib.load(scan).affine, atol=1e-5)
    [same] = predict(bundle, options(tmp_path, scan, confidence=True, skip_existing=True))
    assert same.status == "skipped"


def test_two_inputs_of_one_name_do_not_overwrite_each_other(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    first = make_scan(tmp_path / "a" / "head.nii.gz")
    second = make_scan(tmp_path / "b" / "head.nii.gz")
    results = predict(bundle, options(tmp_path, first, second))
    assert [result.status for result in results] == ["done", "refused"]
    assert "two inputs are called head" in str(results[1].error)


def test_an_unknown_format_stops_before_anything_is_read(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    with pytest.raises(UsageError, match="format 'stl' is not known"):
        predict(bundle, options(tmp_path, make_scan(tmp_path / "head.nii.gz"), formats=("stl",)))
    assert not (tmp_path / "out").exists()


def test_a_segmentation_object_of_a_nifti_scan_is_refused_before_the_network_is_loaded(
    tmp_path: Path, bundle: Bundle, loads: list[str]
) -> None:
    results = predict(bundle, options(tmp_path, make_scan(tmp_path / "head.nii.gz"), formats=("dicom-seg",)))
    assert exit_status(results) == 2
    assert loads == []


def test_a_strangers_bundle_runs_only_by_leave(
    tmp_path: Path, bundle: Bundle, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scanloom.pipeline.trust.SHIPPED", tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    scan = make_scan(tmp_path / "head.nii.gz")
    with pytest.raises(BundleError, match="--trust-bundle"):
        predict(bundle, options(tmp_path, scan))
    [result] = predict(bundle, options(tmp_path, scan, trust_bundle=True))
    assert result.status == "done"


def test_an_error_of_our_own_costs_one_case_and_tells_nothing_of_its_values(
    tmp_path: Path, bundle: Bundle, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("PHICANARY")

    monkeypatch.setattr(StudyProcess, "read", fail)
    [result] = predict(bundle, options(tmp_path, make_scan(tmp_path / "head.nii.gz")))
    assert (result.status, exit_status([result])) == ("failed", 1)
    assert "head: ZeroDivisionError in scanloom itself" in str(result.error)
    assert "PHICANARY" not in (tmp_path / "out" / "summary.csv").read_text()


def test_nothing_of_the_patient_is_in_any_output_but_the_segmentation_object(
    tmp_path: Path, bundle: Bundle, loads: list[str]
) -> None:
    array, affine = make_volume(SHAPE)
    for file in write_mr_series(tmp_path / "study", array, affine):
        edit_file(file, **PATIENT)
    lines: list[str] = []
    predict(bundle, options(tmp_path, tmp_path / "study"), lambda line, done=None: lines.append(line))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    holding = [path.name for path in files if b"PHICANARY" in path.read_bytes()]
    assert holding == ["segmentation.dcm"]
    assert lines
    assert not any("PHICANARY" in line for line in lines if line is not None)


def test_a_folder_that_can_not_be_written_is_said_at_once(tmp_path: Path, bundle: Bundle, loads: list[str]) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UsageError, match="can not write to"):
        predict(bundle, options(tmp_path, make_scan(tmp_path / "head.nii.gz")))
