"""The story of an evaluation, with a network that reads the labels off the image, and with a real tiny one."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from factories import make_affine, make_bundle, write_nifti
from scanloom.pipeline import cli, evaluate
from scanloom.pipeline.bundle import SHIPPED, Bundle, find_bundle
from scanloom.pipeline.errors import BundleError, UsageError, exit_status
from scanloom.pipeline.evaluate import EvaluateOptions, Evaluation, find_bundles
from scanloom.pipeline.inference.prepare import canonical, canonical_spacing
from scanloom.pipeline.lock import FolderInUseError, locked
from scanloom.pipeline.progress import Report
from scanloom.pipeline.segment import PredictOptions, predict
from scanloom.pipeline.training.dataset import dataset_digest, read_dataset
from scanloom.pipeline.volume import Volume
from typer.testing import CliRunner

SHAPE = (9, 8, 7)
AFFINE = make_affine((1.0, 1.5, 2.0), (0, 15, 0))
CANARY = "PHICANARY"


class ReadsLabels:
    """Stands for a loaded network: the images hold ten times their labels, and 1 where it is to err."""

    device_name, precision = "cpu", "fp32"

    def __call__(self, volume: Volume, report: Report) -> np.ndarray:
        report("a line of the predictor", 0.5)
        return (volume.array[0] // 10).astype(np.uint8)


@pytest.fixture(autouse=True)
def loads(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Replaces the network but in tests marked `real_network`; a line for each time that one was loaded."""
    lines: list[str] = []

    def load(bundle: Bundle, options: EvaluateOptions) -> ReadsLabels:
        lines.append(bundle.name)
        return ReadsLabels()

    if "real_network" not in request.fixturenames:
        monkeypatch.setattr(evaluate, "_load", load)
    return lines


@pytest.fixture
def real_network() -> None:
    """Asks for the bundle's own network."""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Ten cases whose every voxel is labelled right by `ReadsLabels`; a canary stands in the path and the headers."""
    folder = tmp_path / CANARY / "dataset"
    listed = []
    for number in range(10):
        label = np.zeros(SHAPE, np.uint8)
        label[2:5, 2:5, 2:4] = 1
        label[2:5, 5:7, 2 : 4 + number % 2] = 2
        listed.append(write_case(folder, f"case_{number}", label))
    write_list(folder, listed)
    return folder


def write_case(folder: Path, name: str, label: np.ndarray, image: np.ndarray | None = None) -> dict[str, str]:
    entry = {kind: f"{kind}s/{name}.nii.gz" for kind in ("image", "label")}
    image = label.astype(np.int16) * 10 if image is None else image

    def edit(header: Any) -> None:
        header["descrip"] = CANARY.encode()

    write_nifti(folder / entry["image"], image, AFFINE, edit)
    write_nifti(folder / entry["label"], label, AFFINE, edit)
    return entry


def write_list(folder: Path, listed: list[dict[str, str]]) -> None:
    (folder / "dataset.json").write_text(json.dumps({"training": listed}))


def break_case(folder: Path, number: int, *, label: int = 0) -> None:
    """The image no longer shows a part of this label, so that it is labelled worse."""
    path = folder / "images" / f"case_{number}.nii.gz"
    image = np.asarray(nibabel.load(path).dataobj).astype(np.int16)
    image[2:5, 2:4] = label * 10
    write_nifti(path, image, AFFINE)


def trained(folder: Path, dataset: Path, fold: int | None = 0, folds: int = 5, **training: Any) -> Bundle:
    """A bundle of no network that says that it was trained on the dataset; as if it came with the package."""
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "models" / "model.pt").write_bytes(f"weights {fold}".encode())
    metadata = json.loads((SHIPPED / "hippocampus_mr_unet" / "configs" / "metadata.json").read_text())
    metadata["series_selection"] = {}
    metadata["training"] = {
        "mlflow_run_id": "1234",
        "fold": fold,
        "folds": folds,
        "dataset_sha256": dataset_digest(read_dataset(dataset)),
        "weights_sha256": Bundle(folder, {}).weights_sha256,
    } | training
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return find_bundle(folder)


@pytest.fixture
def bundle(tmp_path: Path, dataset: Path) -> Bundle:
    return trained(tmp_path / "bundle", dataset)


def run(tmp_path: Path, *bundles: Bundle, dataset: Path, **settings: Any) -> Evaluation:
    options = EvaluateOptions(
        dataset, tmp_path / "out", trust_bundle=True, pictures=settings.pop("pictures", 1), **settings
    )
    return evaluate.evaluate(bundles, options)


def rows_of(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / "out" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_held_out_cases_are_labelled_scored_and_shown(
    tmp_path: Path, dataset: Path, bundle: Bundle, loads: list[str]
) -> None:
    evaluation = run(tmp_path, bundle, dataset=dataset)
    assert exit_status(evaluation.cases) == 0
    assert len(loads) == 1
    rows = rows_of(tmp_path)
    assert len(rows) == 2 * 2
    assert {(row["seen"], row["fold"], row["dice"], row["hd95_mm"]) for row in rows} == {("no", "0", "1", "0")}
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "metrics.csv",
        "metrics.json",
        "table.md",
        "index.html",
        "worst_cases",
    }
    content = json.loads((out / "metrics.json").read_text())
    assert content == evaluation.content
    assert content["summary"]["over_labels"]["dice"]["mean"] == 1
    assert content["bundles"] == [
        {
            "name": "hippocampus_mr_unet",
            "version": bundle.version,
            "weights_sha256": bundle.weights_sha256,
            "mlflow_run_id": "1234",
            "fold": 0,
        }
    ]
    assert content["dataset"] == {"sha256": dataset_digest(read_dataset(dataset)), "cases": 10}
    assert content["settings"]["tolerance_mm"] == 1.0
    assert {"read", "load", "predict", "score", "pictures"} == {*content["seconds"]}
    assert content["versions"]["monai"]
    assert content["notices"] == []


def test_volumes_and_distances_are_in_the_grids_mm(tmp_path: Path, dataset: Path, bundle: Bundle) -> None:
    held_out = int(rows_names(run(tmp_path, bundle, dataset=dataset))[0][-1])
    break_case(dataset, held_out)
    run(tmp_path, trained(tmp_path / "again", dataset), dataset=dataset)
    row = next(row for row in rows_of(tmp_path) if row["case"] == f"case_{held_out}" and row["label"] == "anterior")
    assert float(row["reference_ml"]) == pytest.approx(18 * 3 / 1000)
    assert float(row["prediction_ml"]) == pytest.approx(6 * 3 / 1000)
    assert float(row["dice"]) == pytest.approx(0.5)
    assert float(row["hd95_mm"]) == pytest.approx(3, abs=0.5)  # two voxels of 1.5 mm are cut off


def rows_names(evaluation: Evaluation) -> list[str]:
    return [case.case for case in evaluation.cases]


def test_the_page_shows_the_worst_case_first_and_only_as_many_pictures_as_asked_for(
    tmp_path: Path, dataset: Path, bundle: Bundle
) -> None:
    for number in (3, 7):
        break_case(dataset, number, label=2 if number == 7 else 0)
    evaluation = run(tmp_path, bundle, dataset=dataset, pictures=2)
    assert len(evaluation.cases) == 10  # it is another dataset now
    shown = {path.stem for path in (tmp_path / "out" / "worst_cases").iterdir()}
    assert shown == {"case_3", "case_7"}
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("<img ") == 2
    assert "not the dataset that it was trained on" in page


def test_one_bad_case_does_not_stop_the_others(tmp_path: Path, dataset: Path, bundle: Bundle) -> None:
    (dataset / "labels" / "case_1.nii.gz").unlink()
    (dataset / "images" / "case_2.nii.gz").write_bytes(b"no scan")
    write_nifti(dataset / "labels" / "case_3.nii.gz", np.zeros((3, 3, 3), np.uint8), AFFINE)
    write_nifti(dataset / "labels" / "case_4.nii.gz", np.zeros(SHAPE, np.uint8), make_affine((1, 1, 1)))
    write_nifti(dataset / "labels" / "case_5.nii.gz", np.full(SHAPE, 7, np.uint8), AFFINE)
    write_nifti(dataset / "labels" / "case_6.nii.gz", np.full(SHAPE, 0.5, np.float32), AFFINE)
    write_nifti(dataset / "images" / "case_8.nii.gz", np.full(SHAPE, 90, np.int16), AFFINE)
    evaluation = run(tmp_path, bundle, dataset=dataset)
    errors = {case.case: str(case.error) for case in evaluation.cases if case.error}
    assert exit_status(evaluation.cases) == 4
    assert (evaluation.content["evaluated"], evaluation.content["failed"]) == (3, 7)
    for number, what in {
        1: "case case_1: its label is missing. Put it there",
        2: "case_2",
        3: "case case_3: its label 3 x 3 x 3 voxels, its image has 9 x 8 x 7",
        4: "case case_4: its label lies up to",
        5: "case case_5: its label holds 7: the labels are 0 background, 1 anterior, 2 posterior",
        6: "case case_6: its label holds 0.5: labels are whole numbers",
        8: "bundle hippocampus_mr_unet: labels hold 9, which label_classes does not name",
    }.items():
        assert what in errors[f"case_{number}"]
        assert "\n" not in errors[f"case_{number}"]
    assert {row["case"]: row["error"] for row in rows_of(tmp_path) if row["error"]} == errors
    assert evaluation.summary.over_labels["dice"].cases == 3


def test_a_network_that_can_not_be_loaded_ends_it_at_once(
    tmp_path: Path, dataset: Path, bundle: Bundle, real_network: None
) -> None:
    with pytest.raises(UsageError, match="--device steam"):
        run(tmp_path, bundle, dataset=dataset, device="steam")


def test_an_error_that_is_ours_names_the_case_and_not_its_values(
    tmp_path: Path, dataset: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ReadsLabels, "__call__", lambda self, volume, report: 1 / 0)
    evaluation = run(tmp_path, bundle, dataset=dataset)
    assert exit_status(evaluation.cases) == 1
    assert str(evaluation.cases[0].error).endswith(
        "ZeroDivisionError in scanloom itself. Run again with --debug and report the trace."
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert "ZeroDivisionError" in page


def test_ignored_voxels_count_nowhere(tmp_path: Path, dataset: Path, bundle: Bundle) -> None:
    description = json.loads((dataset / "dataset.json").read_text())
    description["labels"] = {"background": 0, "anterior": 1, "posterior": 2, "ignore": 3}
    (dataset / "dataset.json").write_text(json.dumps(description))
    path = dataset / "labels" / "case_0.nii.gz"
    label = np.asarray(nibabel.load(path).dataobj).astype(np.uint8)
    label[:, 4:] = 3  # half of what is labelled
    write_nifti(path, label, AFFINE)
    evaluation = run(tmp_path, bundle, dataset=dataset)
    assert evaluation.content["settings"]["ignored_label"] == 3
    [first] = [case for case in evaluation.cases if case.case == "case_0"]
    assert first.error is None
    assert [scores.dice for scores in first.labels] == pytest.approx([1, float("nan")], nan_ok=True)


def test_a_cross_validation_is_judged_fold_by_fold_on_what_each_held_out(
    tmp_path: Path, dataset: Path, loads: list[str]
) -> None:
    break_case(dataset, 0)
    for fold in range(3):
        trained(tmp_path / "run" / f"fold{fold}" / "bundle", dataset, fold, 3)
    evaluation = run(tmp_path, *find_bundles(str(tmp_path / "run")), dataset=dataset)
    assert sorted(rows_names(evaluation)) == [f"case_{number}" for number in range(10)]
    assert len(loads) == 3
    assert {case.seen for case in evaluation.cases} == {"no"}
    folds = evaluation.content["summary"]["labels"]["anterior"]["dice"]["folds"]
    assert sorted(folds["means"])[1:] == [1, 1]
    assert folds["mean"] == pytest.approx(sum(folds["means"]) / 3)
    assert [each["fold"] for each in evaluation.content["bundles"]] == [0, 1, 2]
    assert "over the folds" in (tmp_path / "out" / "table.md").read_text()
    assert "fold by fold" in (tmp_path / "out" / "index.html").read_text()


def test_a_cross_validation_that_is_not_done_is_not_pooled(tmp_path: Path, dataset: Path) -> None:
    for fold in range(2):
        trained(tmp_path / "run" / f"fold{fold}" / "bundle", dataset, fold, 3)
    (tmp_path / "run" / "fold1" / "bundle" / "models" / "model.pt").unlink()
    with pytest.raises(BundleError, match="fold 1 has no trained bundle"):
        find_bundles(str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "fold1")
    with pytest.raises(BundleError, match="fold 1 has no trained bundle"):
        find_bundles(str(tmp_path / "run"))
    [only] = find_bundles(str(tmp_path / "run" / "fold0" / "bundle"))
    assert run(tmp_path, only, dataset=dataset).cases[0].fold == 0


def test_a_fold_is_not_chosen_of_a_cross_validation(tmp_path: Path, dataset: Path) -> None:
    bundles = [trained(tmp_path / str(fold), dataset, fold, 2) for fold in range(2)]
    with pytest.raises(UsageError, match="each fold of a cross-validation is judged by its own"):
        run(tmp_path, *bundles, dataset=dataset, fold=0)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"tolerance_mm": -1.0}, "--tolerance-mm -1: it must be 0 or more"),
        ({"tolerance_mm": float("nan")}, "it must be 0 or more"),
        ({"pictures": -1}, "--pictures -1: it must be 0 or more"),
        ({"fold": 7}, "there are folds 0 to 4"),
        ({"folds": 11}, "the dataset has 10 cases"),
    ],
)
def test_numbers_that_can_not_be_are_refused_before_anything_is_written(
    tmp_path: Path, dataset: Path, bundle: Bundle, settings: dict[str, Any], what: str
) -> None:
    with pytest.raises(UsageError, match=what):
        run(tmp_path, bundle, dataset=dataset, **({"fold": 0} | settings))
    assert not (tmp_path / "out").exists()


def test_a_dataset_of_two_cases_of_one_name_is_refused(tmp_path: Path, dataset: Path, bundle: Bundle) -> None:
    listed = json.loads((dataset / "dataset.json").read_text())["training"]
    write_list(dataset, [*listed, listed[0]])
    with pytest.raises(UsageError, match="2 images are called case_0"):
        run(tmp_path, bundle, dataset=dataset)


def test_a_strangers_bundle_is_refused(tmp_path: Path, dataset: Path, bundle: Bundle, monkeypatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(BundleError, match="pass --trust-bundle"):
        evaluate.evaluate([bundle], EvaluateOptions(dataset, tmp_path / "out"))


@pytest.mark.parametrize("inside", ["", "evaluation"])
def test_nothing_is_written_into_the_bundle_the_dataset_or_over_a_training(
    tmp_path: Path, dataset: Path, bundle: Bundle, inside: str
) -> None:
    with pytest.raises(UsageError, match="lies in the bundle"):
        evaluate.evaluate([bundle], EvaluateOptions(dataset, bundle.folder / inside, trust_bundle=True))
    with pytest.raises(UsageError, match="lies in the dataset"):
        evaluate.evaluate([bundle], EvaluateOptions(dataset, dataset / inside, trust_bundle=True))
    (tmp_path / "out" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds a training"):
        run(tmp_path, bundle, dataset=dataset)


def test_two_evaluations_do_not_write_to_one_folder(tmp_path: Path, dataset: Path, bundle: Bundle) -> None:
    with locked(tmp_path / "out"), pytest.raises(FolderInUseError):
        run(tmp_path, bundle, dataset=dataset)


def test_an_interrupted_evaluation_leaves_its_rows_and_no_summary_of_an_earlier_one(
    tmp_path: Path, dataset: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, bundle, dataset=dataset)
    calls: list[int] = []

    def interrupted(self: ReadsLabels, volume: Volume, report: Report) -> np.ndarray:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return (volume.array[0] // 10).astype(np.uint8)

    monkeypatch.setattr(ReadsLabels, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, bundle, dataset=dataset)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"metrics.csv", "worst_cases"}
    assert len(rows_of(tmp_path)) == 2


def test_no_output_holds_a_path_or_a_word_of_the_headers(tmp_path: Path, dataset: Path, bundle: Bundle) -> None:
    (dataset / "labels" / "case_1.nii.gz").unlink()
    (dataset / "images" / "case_2.nii.gz").write_bytes(CANARY.encode())
    lines: list[str] = []
    options = EvaluateOptions(dataset, tmp_path / "out", trust_bundle=True, pictures=20)
    evaluation = evaluate.evaluate([bundle], options, lambda line, done=None: lines.append(str(line)))
    assert exit_status(evaluation.cases) == 4
    contents = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(contents) == 4 + 8
    for content in (*contents, "\n".join(lines).encode()):
        assert CANARY.encode() not in content
        assert str(tmp_path).encode() not in content


def test_the_progress_goes_from_none_to_all_with_a_line_a_case(tmp_path: Path, dataset: Path, bundle: Bundle) -> None:
    told: list[tuple[str | None, float | None]] = []
    options = EvaluateOptions(dataset, tmp_path / "out", trust_bundle=True, fold="all")
    evaluate.evaluate([bundle], options, lambda line, done=None: told.append((line, done)))
    shares = [done for _, done in told if done is not None]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert sum("Dice 1.0000" in str(line) for line, _ in told) == 10
    assert "trained on 8 of these 10 cases" in str(told[0][0])
    assert not any("a line of the predictor" in str(line) for line, _ in told)


def test_the_command_prints_the_table_or_json_and_ends_with_the_status(
    tmp_path: Path, dataset: Path, bundle: Bundle
) -> None:
    words = ["evaluate", "-b", str(bundle.folder), "-d", str(dataset), "-o", str(tmp_path / "out"), "--trust-bundle"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert "mean over labels" in result.stdout
    (dataset / "labels" / "case_1.nii.gz").unlink()
    result = CliRunner().invoke(cli.app, [*words, "--json", "--fold", "all"])
    assert result.exit_code == 4
    assert json.loads(result.stdout)["failed"] == 1
    assert "scanloom: case case_1: its label is missing" in result.stderr


@pytest.mark.parametrize("fold", ["first", "1.5"])
def test_a_fold_is_a_number_or_all(tmp_path: Path, dataset: Path, fold: str) -> None:
    result = CliRunner().invoke(
        cli.app, ["evaluate", "-b", "x", "-d", str(dataset), "-o", str(tmp_path / "out"), "--fold", fold]
    )
    assert result.exit_code == 2
    assert "it must be a number, or all" in result.stderr


def test_what_is_scored_is_what_predict_writes(tmp_path: Path, real_network: None) -> None:
    """A real network with random weights, on an oblique grid that it resamples: both must go the same way."""
    random = np.random.default_rng(0)
    image = random.normal(100, 30, (14, 12, 13)).astype(np.float32)
    label = random.integers(0, 3, image.shape).astype(np.uint8)
    folder = tmp_path / "dataset"
    write_list(folder, [write_case(folder, "head", label, image)])
    tiny = make_bundle(tmp_path / "tiny", spacing=(1.2, 1.2, 1.2))
    [done] = predict(tiny, PredictOptions([folder / "images" / "head.nii.gz"], tmp_path / "labels", trust_bundle=True))
    assert done.error is None
    written = np.asarray(nibabel.load(tmp_path / "labels" / "head" / "labels.nii.gz").dataobj)
    evaluation = run(tmp_path, tiny, dataset=folder)
    assert exit_status(evaluation.cases) == 0, evaluation.cases[0].error
    for scores in evaluation.cases[0].labels:
        one, other = written == scores.value, label == scores.value
        assert 0 < scores.dice < 1
        assert scores.dice == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_the_spacing_of_a_picture_is_that_of_its_turned_axes(axes: tuple[int, int, int]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = make_affine((1, 2, 3), (5, 5, 5))[:3, :3][:, list(axes)]
    volume = Volume(np.zeros((1, 4, 5, 6), np.float32), affine, "case")
    assert canonical_spacing(volume) == pytest.approx(canonical(volume).spacing)


@pytest.mark.data
def test_the_shipped_bundle_finds_both_parts_of_real_hippocampi(
    tmp_path: Path, data_folder: Path, real_network: None
) -> None:
    dataset = data_folder / "msd_hippocampus"
    listed = json.loads((dataset / "dataset.json").read_text())["training"][:3]
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_list(folder, [{kind: str(dataset / entry[kind]) for kind in ("image", "label")} for entry in listed])
    evaluation = run(tmp_path, find_bundle("hippocampus_mr_unet"), dataset=folder)
    assert exit_status(evaluation.cases) == 0
    for case in evaluation.cases:
        for scores in case.labels:
            assert scores.outcome == "found"
            assert scores.dice > 0.75
            assert scores.surface_distance_mm < 1
            assert abs(scores.volume_error) < 0.3
    assert str(data_folder).encode() not in b"".join(path.read_bytes() for path in (tmp_path / "out").glob("*.*"))
