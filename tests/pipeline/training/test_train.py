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
from factories import SMALL_TRAINING
from mlflow import MlflowClient
from mlflow.entities import Run
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.errors import BundleError, DatasetError, PipelineError, UsageError
from scanloom.pipeline.lock import FolderInUseError, locked
from scanloom.pipeline.scans import read_scan
from scanloom.pipeline.training.all_folds import train_all_folds
from scanloom.pipeline.training.options import TrainOptions
from scanloom.pipeline.training.store import store_folders, tracking_uri
from scanloom.pipeline.training.train import train

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_store")]

NAME = "hippocampus_mr_unet"


@pytest.fixture
def bundle() -> Bundle:
    return find_bundle(NAME)


@pytest.fixture
def options(crops: Path, own_store: Path) -> TrainOptions:
    return TrainOptions(crops, own_store / "RUN", folds=3, epochs=3, device="cpu", overrides=SMALL_TRAINING)


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


def test_a_loss_that_is_no_number_fails_the_run_and_leaves_a_checkpoint(bundle: Bundle, options: TrainOptions) -> None:
    wild = replace(options, overrides={**SMALL_TRAINING, "optimizer#lr": 1e20, "lr_scheduler#max_lr": 1e20})
    with pytest.raises(
        PipelineError, match=r"^the loss is (nan|inf) in epoch \d, step \d of 2, cases crop_\d, crop_\d"
    ):
        train(bundle, wild, silent)
    assert only_run().info.status == "FAILED"
    states = torch.load(options.run_folder / "checkpoints" / "last.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in states["network"].values())


def test_a_disk_without_room_is_found_before_the_first_step(
    bundle: Bundle, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 100_000})
    monkeypatch.setattr("scanloom.pipeline.training.session.shutil.disk_usage", lambda folder: usage)
    lines: list[str] = []
    with pytest.raises(PipelineError, match=r"the training will need [\d,]+ bytes for its checkpoints and 100,000 are"):
        train(bundle, options, lambda line, done=None: lines.append(line))
    assert not [line for line in lines if line.startswith("epoch")]


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
        (replace(again, deterministic=False), "--deterministic not given, not False"),
        (replace(again, fold=1), "--fold 0, not 1"),
        (replace(again, epochs=2), "--epochs 1, not 2"),
        (replace(again, seed=4), "--seed not given, not 4"),
        (replace(again, overrides={**SMALL_TRAINING, "batch_size": 1}), "--set .*batch_size=2 .*, not .*batch_size=1 "),
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


def test_a_broken_checkpoint_falls_back_to_the_spare(bundle: Bundle, options: TrainOptions) -> None:
    train(bundle, options, silent)
    before = weights_of(options.run_folder)
    last = options.run_folder / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    lines: list[str] = []
    train(bundle, replace(options, resume=True), lambda line, done=None: lines.append(line))
    assert lines[0] == "checkpoint last.pt can not be read (BadZipFile); previous.pt is of epoch 2"
    assert lines[1] == "resumed after epoch 2"
    after = weights_of(options.run_folder)
    assert all(torch.equal(before[key], after[key]) for key in before)
    for path in last.parent.iterdir():
        path.write_bytes(b"nonsense")
    with pytest.raises(
        UsageError, match=r"^--resume: in .* checkpoint last\.pt can not be read \(BadZipFile\) and prev"
    ):
        train(bundle, replace(options, resume=True), silent)


def test_the_threads_of_a_resumption_are_compared(bundle: Bundle, options: TrainOptions) -> None:
    train(bundle, replace(options, epochs=1), silent)
    last = options.run_folder / "checkpoints" / "last.pt"
    states = torch.load(last, weights_only=True)
    states["about"]["threads"] = 99
    torch.save(states, last)
    lines: list[str] = []
    train(bundle, replace(options, epochs=1, resume=True), lambda line, done=None: lines.append(line))
    assert lines[0].endswith("99 before: the last bits of the weights may differ")


def test_resume_needs_a_training(bundle: Bundle, options: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"--resume: .*RUN holds no training\. Start without --resume"):
        train(bundle, replace(options, resume=True), silent)


def test_one_seed_gives_the_same_weights_with_any_number_of_workers(bundle: Bundle, options: TrainOptions) -> None:
    def digest(name: str, seed: int = 5, **settings: Any) -> str:
        overrides = {**SMALL_TRAINING, **settings}
        own = replace(options, epochs=2, seed=seed, run_folder=options.run_folder / name, overrides=overrides)
        return train(bundle, own, silent).weights_sha256

    first = digest("first")
    assert digest("again") == first
    assert digest("two workers", **{"train#dataloader#num_workers": 2}) == first
    assert digest("another seed", seed=6) != first


def test_a_run_folder_in_which_a_training_runs_is_not_touched(bundle: Bundle, options: TrainOptions) -> None:
    train(bundle, replace(options, epochs=1), silent)
    config = options.run_folder / "bundle" / "configs" / "train.yaml"
    config.unlink()  # as it may be for a moment, while the other training begins
    with locked(options.run_folder), pytest.raises(FolderInUseError, match=r"RUN"):
        train(bundle, replace(options, epochs=1, resume=True), silent)
    assert not config.exists()


def test_a_setting_that_the_network_refuses_is_the_users(bundle: Bundle, options: TrainOptions) -> None:
    wrong = replace(options, overrides={**SMALL_TRAINING, "network_def#deep_supervision": 5})
    with pytest.raises(UsageError, match=r"scanloom\.networks\.UNet can not be made: deep_supervision is 5; .*--set"):
        train(bundle, wrong, silent)
    assert only_run().info.status == "FAILED"
    assert not (options.run_folder / "bundle").exists()


def test_a_batch_larger_than_the_dataset_is_refused(bundle: Bundle, options: TrainOptions) -> None:
    with pytest.raises(UsageError, match=r"4 training cases fill no batch of 5\. .*--set batch_size=1"):
        train(bundle, replace(options, overrides={**SMALL_TRAINING, "batch_size": 5}), silent)


def test_all_faults_of_the_dataset_are_told_before_anything_runs(
    bundle: Bundle, options: TrainOptions, tmp_path: Path, crops: Path
) -> None:
    broken = tmp_path / "broken"
    (broken / "images").mkdir(parents=True)
    for name in ("bad", "worse"):
        (broken / "images" / f"{name}.nii.gz").write_bytes(b"not a scan")
    listed = json.loads((crops / "dataset.json").read_text())["training"]
    full = [{key: str(crops / value) for key, value in entry.items()} for entry in listed]
    full += [{"image": f"images/{name}.nii.gz", "label": full[0]["label"]} for name in ("bad", "worse")]
    (broken / "dataset.json").write_text(json.dumps({"training": full}))
    for run in (train, train_all_folds):
        with pytest.raises(DatasetError, match=r"2 faults in 2 files\. .*\n.*bad\.nii\.gz.*\n.*worse\.nii\.gz"):
            run(bundle, replace(options, dataset=broken), silent, read_scan)
    assert all_runs() == []
    assert len((options.run_folder / "dataset_faults.txt").read_text().splitlines()) == 2


def test_a_config_without_engines_is_refused(options: TrainOptions, tmp_path: Path) -> None:
    configs = tmp_path / "empty" / "configs"
    configs.mkdir(parents=True)
    (configs / "metadata.json").write_text('{"version": "1", "name": "empty"}')
    (configs / "train.yaml").write_text("train: {}\n")
    with pytest.raises(BundleError, match=r"bundle empty: train\.yaml has no train#trainer\. Name the engine so"):
        train(find_bundle(tmp_path / "empty"), replace(options, overrides={}), silent)
    assert not options.run_folder.exists()


def test_without_a_validation_in_between_the_last_epoch_is_validated(bundle: Bundle, options: TrainOptions) -> None:
    train(bundle, replace(options, epochs=2, overrides={**SMALL_TRAINING, "val_interval": 10}), silent)
    validated = [row["epoch"] for row in rows_of(options.run_folder) if row["metric"] == "val/mean_dice"]
    assert validated == ["2"]


def test_training_on_all_cases_says_so(bundle: Bundle, options: TrainOptions) -> None:
    trained = train(bundle, replace(options, fold=None, epochs=1), silent)
    assert trained.metadata["training"]["fold"] is None
    run = only_run()
    assert (run.info.run_name, run.data.tags["fold"]) == (f"{NAME} all cases", "None")


def test_a_teacher_changes_what_is_learned_and_is_remembered(bundle: Bundle, options: TrainOptions) -> None:
    plain = train(bundle, replace(options, epochs=1, run_folder=options.run_folder / "plain"), silent)
    taught = replace(options, epochs=1, run_folder=options.run_folder / "taught", teacher=bundle)
    trained = train(bundle, taught, silent)
    assert trained.metadata["training"]["teacher_weights_sha256"] == bundle.weights_sha256
    assert trained.weights_sha256 != plain.weights_sha256
    assert trained.config("train").read_text() == plain.config("train").read_text()  # the bundle trains without it, too
    train(bundle, replace(taught, resume=True), silent)
    with pytest.raises(UsageError, match=r"this training began with --teacher \w{12}, not none"):
        train(bundle, replace(taught, resume=True, teacher=None), silent)


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
    dice = {row["fold"]: float(row["value"]) for row in pooled if row["metric"] == "val/dice/anterior"}
    assert list(dice) == ["0", "1", "mean", "spread"]
    assert dice["mean"] == pytest.approx((dice["0"] + dice["1"]) / 2)
    assert dice["spread"] == pytest.approx(abs(dice["0"] - dice["1"]) / 2**0.5)
    assert parent.data.metrics["val/dice/anterior"] == pytest.approx(dice["mean"])

    with pytest.raises(UsageError, match=r"RUN already holds a training\. Choose another folder with -o, or pass"):
        train_all_folds(bundle, options, silent)


def test_all_folds_resume_where_they_stopped(bundle: Bundle, options: TrainOptions) -> None:
    options = replace(options, folds=2, epochs=1)
    with pytest.raises(KeyboardInterrupt):
        train_all_folds(bundle, options, stop_at("fold 1 of 2", KeyboardInterrupt()))
    assert sorted(run.info.status for run in all_runs()) == ["FINISHED", "KILLED"]
    train_all_folds(bundle, replace(options, resume=True), silent)
    assert len(all_runs()) == 3  # the same parent, and no child twice
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


@pytest.mark.parametrize("store", [None, "sqlite:////elsewhere/mlflow.db", "postgresql://user@host/db"])
def test_working_in_a_bundle_is_refused_where_the_store_would_be_there(
    bundle: Bundle, options: TrainOptions, monkeypatch: pytest.MonkeyPatch, store: str | None
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    if store:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(bundle.folder / "configs")
    with pytest.raises(UsageError, match=r"MLflow's store would be in the bundle .*\. Work in another folder"):
        train(bundle, options, silent)
    assert not (bundle.folder / "configs" / "mlflow.db").exists()


@pytest.mark.parametrize("store", ["sqlite:///{}/mlflow.db", "{}/mlruns", "file:{}/mlruns", "file://{}/mlruns"])
def test_a_store_in_a_bundle_is_refused(
    bundle: Bundle, options: TrainOptions, monkeypatch: pytest.MonkeyPatch, store: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.format(bundle.folder))
    with pytest.raises(UsageError, match=r"MLflow's store would be in the bundle .*\. Work in another folder"):
        train(bundle, options, silent)


def test_a_server_may_be_used_from_anywhere(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example")
    assert store_folders() == []


def test_a_run_folder_that_can_not_be_made_is_refused(bundle: Bundle, options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"can not write to .*file/RUN: Not a directory\. Choose another folder"):
        train(bundle, replace(options, run_folder=tmp_path / "file" / "RUN"), silent)
