"""The story of a training in one process: run folder, MLflow run, resumption, refusals."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.errors import BundleError, PipelineError, UsageError
from scanloom.pipeline.training.tracking import tracking_uri
from scanloom.pipeline.training.train import TrainOptions, train, train_all_folds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

NAME = "hippocampus_mr_unet"
SMALL = {
    "network_def#features": [2, 4],
    "network_def#deep_supervision": 0,
    "batch_size": 2,
    "patch_size": [16, 16, 16],
    "roi_size": [16, 16, 16],
    "val_interval": 1,
    "precision": "fp32",
}


@pytest.fixture
def bundle() -> Bundle:
    return find_bundle(NAME)


@pytest.fixture
def options(crops: Path, own_store: Path) -> TrainOptions:
    return TrainOptions(crops, own_store / "RUN", folds=3, epochs=3, device="cpu", overrides=SMALL)


def silent(line: str, done: float | None = None) -> None:
    pass


def stop_at(words: str, error: BaseException) -> Callable[..., None]:
    """A report that raises the error as soon as a line holds the words."""

    def report(line: str, done: float | None = None) -> None:
        if words in line:
            raise error

    return report


def only_run() -> Run:
    (run,) = all_runs()
    return run


def all_runs() -> list[Run]:
    client = MlflowClient(tracking_uri())
    found = client.get_experiment_by_name(NAME)
    return list(client.search_runs([found.experiment_id])) if found else []


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(folder / "bundle/models/model.pt", weights_only=True))


def test_an_error_in_the_middle_fails_the_run_and_resume_finishes_it(bundle: Bundle, options: TrainOptions) -> None:
    with pytest.raises(
        PipelineError, match=r"^training stopped by ZeroDivisionError; the trace is in .*train\.log\. .*"
    ):
        train(bundle, options, stop_at("epoch 2/3", ZeroDivisionError()))
    failed = only_run()
    assert (failed.info.status, failed.data.tags["error"]) == ("FAILED", "ZeroDivisionError")
    log = (options.run_folder / "train.log").read_text()
    assert "Traceback" in log and "ZeroDivisionError" in log

    lines: list[str] = []
    trained = train(bundle, replace(options, resume=True), lambda line, done=None: lines.append(line))
    assert lines[0] == "resumed after epoch 1"
    run = only_run()
    assert (run.info.run_id, run.info.status) == (failed.info.run_id, "FINISHED")
    assert "error" not in run.data.tags
    losses = [(row["epoch"], row["metric"]) for row in rows_of(options.run_folder) if row["metric"] == "train/loss"]
    assert losses == [("1", "train/loss"), ("2", "train/loss"), ("3", "train/loss")]
    assert trained.metadata["training"]["mlflow_run_id"] == run.info.run_id
    assert bundle.bf16_dice_cost is not None
    assert trained.bf16_dice_cost is None  # it was measured of other weights


def test_an_interruption_before_the_first_epoch_leaves_nothing_half_begun(
    bundle: Bundle, options: TrainOptions
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(bundle, options, stop_at("training on", KeyboardInterrupt()))
    assert only_run().info.status == "KILLED"
    assert not (options.run_folder / "bundle").exists()
    train(bundle, replace(options, epochs=1), silent)
    assert sorted(run.info.status for run in all_runs()) == ["FINISHED", "KILLED"]


def test_a_resumed_training_keeps_better_weights(
    bundle: Bundle, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(bundle, options, stop_at("epoch 2/3", KeyboardInterrupt()))
    checkpoint = options.run_folder / "checkpoints" / "last.pt"
    states = torch.load(checkpoint, weights_only=True)
    assert states["best"]["epoch"] == 1
    assert states["best"]["savers"][0][0][0] == pytest.approx(states["best"]["metric"])
    states["best"] = {"metric": 0.99, "epoch": 1, "savers": [[(0.99, "model.pt")]]}
    torch.save(states, checkpoint)
    before = weights_of(options.run_folder)
    trained = train(bundle, replace(options, resume=True), silent)
    after = weights_of(options.run_folder)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert trained.metadata["training"]["best_validation_metric"] == 0.99
    assert only_run().data.tags["best_epoch"] == "1"


def test_resuming_a_finished_training_trains_no_more(bundle: Bundle, options: TrainOptions) -> None:
    first = train(bundle, replace(options, epochs=1), silent)
    lines: list[str] = []
    again = train(bundle, replace(options, epochs=1, resume=True), lambda line, done=None: lines.append(line))
    assert not [line for line in lines if line.startswith("epoch")]
    assert again.weights_sha256 == first.weights_sha256
    client = MlflowClient(tracking_uri())
    assert [one.version for one in client.search_model_versions(f"name='{NAME}'")] == [1]
    assert again.metadata["training"] == first.metadata["training"]


def test_a_training_is_resumed_with_the_options_of_its_start(
    bundle: Bundle, options: TrainOptions, tmp_path: Path, crops: Path
) -> None:
    options = replace(options, epochs=1)
    train(bundle, options, silent)
    again = replace(options, resume=True)
    for changed, words in [
        (replace(again, fold=1), "--fold 0, not 1"),
        (replace(again, epochs=2), "--epochs 1, not 2"),
        (replace(again, seed=4), "--seed not given, not 4"),
        (replace(again, overrides={**SMALL, "batch_size": 1}), "--set .*batch_size=2 .*, not .*batch_size=1 "),
    ]:
        with pytest.raises(UsageError, match=rf"--resume: this training began with {words}"):
            train(bundle, changed, silent)
    other = tmp_path / "other"
    other.mkdir()
    listed = json.loads((crops / "dataset.json").read_text())["training"][:5]
    full = [{key: str(crops / value) for key, value in entry.items()} for entry in listed]
    (other / "dataset.json").write_text(json.dumps({"training": full}))
    with pytest.raises(UsageError, match="--resume: the dataset is not the one of this training's start"):
        train(bundle, replace(again, dataset=other), silent)
    assert only_run().info.status == "FINISHED"


def test_a_broken_checkpoint_is_refused(bundle: Bundle, options: TrainOptions) -> None:
    options = replace(options, epochs=1)
    train(bundle, options, silent)
    checkpoint = options.run_folder / "checkpoints" / "last.pt"
    whole = checkpoint.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x80\x04nonsense"):
        checkpoint.write_bytes(content)
        with pytest.raises(UsageError, match=r"--resume: checkpoint .*last\.pt can not be read \(\w+\)\. Start anew"):
            train(bundle, replace(options, resume=True), silent)
    torch.save({"foreign": torch.zeros(1)}, checkpoint)
    with pytest.raises(UsageError, match=r"can not be read \(it is no checkpoint of scanloom\)"):
        train(bundle, replace(options, resume=True), silent)
    states = torch.load(checkpoint.with_name("last.pt"), weights_only=True)
    states |= {"run": {"value": only_run().info.run_id}, "trainer": {}}
    torch.save(states, checkpoint)
    with pytest.raises(UsageError, match=r"last\.pt does not fit this training \(ValueError\)\. Resume with"):
        train(bundle, replace(options, resume=True), silent)


def test_resume_needs_a_training(bundle: Bundle, options: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"--resume: .*RUN holds no training\. Start without --resume"):
        train(bundle, replace(options, resume=True), silent)


def test_a_setting_that_the_network_refuses_is_the_users(bundle: Bundle, options: TrainOptions) -> None:
    wrong = replace(options, overrides={**SMALL, "network_def#deep_supervision": 5})
    with pytest.raises(UsageError, match=r"scanloom\.networks\.UNet can not be made: deep_supervision is 5; .*--set"):
        train(bundle, wrong, silent)
    assert only_run().info.status == "FAILED"
    assert not (options.run_folder / "bundle").exists()


def test_a_batch_larger_than_the_dataset_is_refused(bundle: Bundle, options: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"4 training cases fill no batch of 5\. .*--set batch_size=1"):
        train(bundle, replace(options, overrides={**SMALL, "batch_size": 5}), silent)


def test_a_scan_that_can_not_be_read_is_named(
    bundle: Bundle, options: TrainOptions, tmp_path: Path, crops: Path
) -> None:
    broken = tmp_path / "broken"
    (broken / "images").mkdir(parents=True)
    (broken / "images" / "bad.nii.gz").write_bytes(b"not a scan")
    listed = json.loads((crops / "dataset.json").read_text())["training"]
    full = [{key: str(crops / value) for key, value in entry.items()} for entry in listed]
    full.append({"image": "images/bad.nii.gz", "label": full[0]["label"]})
    (broken / "dataset.json").write_text(json.dumps({"training": full}))
    with pytest.raises(PipelineError, match=r"^case bad: ") as caught:
        train(bundle, replace(options, dataset=broken), silent)
    assert "\n" not in str(caught.value)


def test_a_config_without_engines_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    configs = tmp_path / "empty" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text('{"version": "1", "name": "empty"}')
    (configs / "train.yaml").write_text("train: {}\n")
    with pytest.raises(BundleError, match=r"bundle empty: train\.yaml has no train#trainer\. Name the engine so"):
        train(find_bundle(tmp_path / "empty"), replace(options, overrides={}), silent)
    assert not options.run_folder.exists()


def test_without_a_validation_in_between_the_last_epoch_is_validated(bundle: Bundle, options: TrainOptions) -> None:
    train(bundle, replace(options, epochs=2, overrides={**SMALL, "val_interval": 10}), silent)
    validated = [row["epoch"] for row in rows_of(options.run_folder) if row["metric"] == "val/mean_dice"]
    assert validated == ["2"]


def test_training_on_all_cases_says_so(bundle: Bundle, options: TrainOptions) -> None:
    trained = train(bundle, replace(options, fold=None, epochs=1), silent)
    assert trained.metadata["training"]["fold"] is None
    run = only_run()
    assert (run.info.run_name, run.data.tags["fold"]) == (f"{NAME} all cases", "None")


def test_all_folds_are_children_of_one_run(bundle: Bundle, options: TrainOptions) -> None:
    options = replace(options, folds=2, epochs=1)
    trained = train_all_folds(bundle, options, silent)
    assert [each.folder for each in trained] == [options.run_folder / f"fold{fold}" / "bundle" for fold in (0, 1)]
    runs = {run.info.run_name: run for run in all_runs()}
    parent = runs[f"{NAME} 2 folds"]
    children = [runs[f"{NAME} fold {fold}"] for fold in (0, 1)]
    assert {run.info.status for run in runs.values()} == {"FINISHED"} and len(runs) == 3
    assert {child.data.tags["mlflow.parentRunId"] for child in children} == {parent.info.run_id}
    pooled = rows_of(options.run_folder)
    dice = [float(row["value"]) for row in pooled if row["metric"] == "val/mean_dice"]
    assert [row["fold"] for row in pooled if row["metric"] == "val/mean_dice"] == ["0", "1"]
    assert parent.data.metrics["val/mean_dice"] == pytest.approx(sum(dice) / 2)

    with pytest.raises(UsageError, match=r"RUN already holds a training\. Choose another folder with -o, or pass"):
        train_all_folds(bundle, options, silent)


def test_all_folds_resume_where_they_stopped(bundle: Bundle, options: TrainOptions) -> None:
    options = replace(options, folds=2, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train_all_folds(bundle, options, stop_at("fold 1 of 2", KeyboardInterrupt()))
    assert sorted(run.info.status for run in all_runs()) == ["FINISHED", "KILLED"]
    train_all_folds(bundle, replace(options, resume=True), silent)
    assert sorted(run.info.run_name for run in all_runs() if run.info.status == "FINISHED") == [
        f"{NAME} 2 folds",
        f"{NAME} fold 0",
        f"{NAME} fold 1",
    ]


def test_the_logging_of_the_process_is_as_before(bundle: Bundle, options: TrainOptions) -> None:
    before = (logging.root.handlers[:], logging.root.level, logging.getLogger("mlflow").handlers[:])
    train(bundle, replace(options, epochs=1), silent)
    assert (logging.root.handlers, logging.root.level, logging.getLogger("mlflow").handlers) == before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, r"--epochs 0: it must be at least 1"),
        ({"seed": -1}, r"--seed -1: it must be between 0 and 4294967295"),
        ({"fold": 3}, r"--fold 3: there are folds 0 to 2"),
        ({"folds": 7}, r"--folds 7: the dataset has 6 cases"),
        ({"device": "nonsense"}, r"--device nonsense: there is no such device here"),
        ({"device": "cuda:99"}, r"--device cuda:99: there is no such device here"),
        ({"overrides": {"lerning_rate": 1}}, r"--set lerning_rate: .*Did you mean learning_rate\?"),
        ({"overrides": {"network_deff#features": 1}}, r"--set network_deff#features: the train config has no such id"),
        ({"overrides": {"zzz": 1}}, r"--set zzz: the train config has no such id\. See configs/train\.yaml"),
        ({"overrides": {"fold": 1}}, r"--set fold: the option --fold sets it"),
        ({"overrides": {"dataset_dir": "x"}}, r"--set dataset_dir: the option -d sets it"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    bundle: Bundle, options: TrainOptions, change: dict[str, Any], words: str
) -> None:
    for run in (train,) if "fold" in change else (train, train_all_folds):
        with pytest.raises(UsageError, match=words):
            run(bundle, replace(options, **change), silent)
    assert not options.run_folder.exists() and all_runs() == []


def test_a_run_folder_within_the_bundle_is_refused(bundle: Bundle, options: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"lies in the bundle .*\. Choose another folder with -o"):
        train(bundle, replace(options, run_folder=bundle.folder / "RUN"), silent)


def test_a_run_folder_that_can_not_be_made_is_refused(bundle: Bundle, options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"can not write to .*file/RUN: Not a directory\. Choose another folder"):
        train(bundle, replace(options, run_folder=tmp_path / "file" / "RUN"), silent)
