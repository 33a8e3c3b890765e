"""The folds as one bundle: it predicts what averaging by hand gives, says what made it, and appears whole or not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import make_bundle, make_volume, write_nifti
from scanloom.networks import Ensemble
from scanloom.pipeline.bundle import Bundle, find_bundle
from scanloom.pipeline.bundle_network import load_network
from scanloom.pipeline.cli import app
from scanloom.pipeline.errors import BundleError, PipelineError, UsageError
from scanloom.pipeline.inference.predictor import Predictor
from scanloom.pipeline.training import ensemble_bundle
from scanloom.pipeline.training.ensemble_bundle import find_folds, make_ensemble, make_fold_ensemble
from scanloom.pipeline.training.run_folder import finish_bundle, write_parent_run
from scanloom.pipeline.trust import record_trust, require_trust
from scanloom.pipeline.volume import Volume
from typer.testing import CliRunner

FOLDS = 3


def inferer(mode: str, **settings: Any) -> Mapping[str, Any]:
    return {"inferer": {"_target_": "scanloom.pipeline.inference.StreamingInferer", "mode": mode, **settings}}


def train_fold(run: Path, fold: int, folds: int = FOLDS, dataset: str = "d" * 64, **options: Any) -> Bundle:
    """What `scanloom train --all-folds` leaves of a fold: a finished bundle in run/fold<n>/bundle."""
    folder = run / f"fold{fold}" / "bundle"
    options.setdefault("config", inferer("seamless", roi_size=[24, 24, 24]))
    bundle = make_bundle(folder, seed=fold, measured_dice={"fp32": 0.9, "bf16": 0.9}, **options)
    (folder / "configs" / "train.yaml").write_text("train: {}\n")
    (folder / "docs").mkdir()
    (folder / "docs" / "README.md").write_text("# tiny\n")
    training = {"mlflow_run_id": f"run{fold}", "fold": fold, "folds": folds, "dataset_sha256": dataset}
    return finish_bundle(bundle, training)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "RUN"
    for fold in range(FOLDS):
        train_fold(folder, fold)
    write_parent_run(folder, "parent")
    return folder


def make_scan(shape: tuple[int, int, int] = (48, 20, 22)) -> Volume:
    array, affine = make_volume(shape, spacing=(1.0, 1.0, 1.0))
    return Volume(array[None].astype(np.float32), affine, "case")


def mean_probabilities(run: Path, volume: Volume) -> torch.Tensor:
    """In float64, the whole scan in one pass, fold by fold."""
    image = torch.from_numpy((volume.array - volume.array.mean(dtype=float)) / volume.array.std(dtype=float))[None]
    with torch.no_grad():
        each = [load_network(find_bundle(run / f"fold{n}/bundle")).eval()(image.float()).double() for n in range(FOLDS)]
    return torch.stack([logits.softmax(1) for logits in each]).mean(0)[0]


def test_it_predicts_the_largest_mean_probability_of_the_folds(run: Path, tmp_path: Path) -> None:
    bundle = make_fold_ensemble(run, tmp_path / "ensemble")
    volume = make_scan()
    predictor = Predictor(bundle, "cpu")
    labels = predictor(volume)
    mean = mean_probabilities(run, volume)
    differing = torch.from_numpy(labels.astype(np.int64)) != mean.argmax(0)
    two = mean.topk(2, dim=0).values
    assert float((two[0] - two[1])[differing].max() if differing.any() else 0) < 1e-5  # ties of float32
    assert differing.float().mean() < 1e-3
    assert predictor.facts["windows"] > 1
    single = Predictor(find_bundle(run / "fold0/bundle"), "cpu")(volume)
    assert (single != labels).mean() > 0.05  # the folds do differ


def test_mirrored_views_are_averaged_as_probabilities_too(tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    for fold in range(FOLDS):
        train_fold(run, fold, config=inferer("seamless", roi_size=[48, 32, 32], mirror_axes=[0]))
    labels = Predictor(make_fold_ensemble(run, tmp_path / "ensemble"), "cpu")(make_scan())
    volume = make_scan()
    mirrored = Volume(np.ascontiguousarray(volume.array[:, ::-1]), volume.affine, "mirrored")
    mean = (mean_probabilities(run, volume) + mean_probabilities(run, mirrored).flip(1)) / 2
    assert (torch.from_numpy(labels.astype(np.int64)) != mean.argmax(0)).float().mean() < 1e-3


def test_a_mask_of_one_channel_is_averaged_too(tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    for fold in range(FOLDS):
        train_fold(run, fold, out_channels=1)
    labels = Predictor(make_fold_ensemble(run, tmp_path / "ensemble"), "cpu")(make_scan())
    image = torch.from_numpy(
        (make_scan().array - make_scan().array.mean(dtype=float)) / make_scan().array.std(dtype=float)
    )
    with torch.no_grad():
        networks = [load_network(bundle).eval() for bundle in find_folds(run)]
        mean = torch.stack([network(image[None].float()).double().sigmoid() for network in networks]).mean(0)[0, 0]
    assert (torch.from_numpy(labels.astype(np.int64)) != (mean > 0.5)).float().mean() < 1e-3


def test_the_bundle_is_complete_and_says_what_made_it(run: Path, tmp_path: Path) -> None:
    bundle = make_fold_ensemble(run, tmp_path / "new" / "ensemble")
    assert bundle.name == "tiny_ensemble" and [label.name for label in bundle.labels] == ["part1", "part2"]
    training = bundle.metadata["training"]
    assert (training["fold"], training["folds"], training["mlflow_run_id"]) == (None, FOLDS, "parent")
    assert [(each["fold"], each["mlflow_run_id"]) for each in training["members"]] == [
        (fold, f"run{fold}") for fold in range(FOLDS)
    ]
    hashes = [find_bundle(run / f"fold{fold}/bundle").weights_sha256 for fold in range(FOLDS)]
    assert [each["weights_sha256"] for each in training["members"]] == hashes
    assert training["weights_sha256"] == bundle.weights_sha256
    assert bundle.bf16_dice_cost is None  # it was measured of other weights
    assert not (bundle.folder / "configs" / "train.yaml").exists()
    assert (
        (bundle.folder / "docs" / "README.md").read_text().startswith(f"> An ensemble of the networks of {FOLDS} folds")
    )
    network = load_network(bundle)
    assert isinstance(network, Ensemble) and len(network.members) == FOLDS
    state = torch.load(bundle.weights, weights_only=True)
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert [path.name for path in bundle.folder.parent.iterdir()] == ["ensemble"]


def test_without_a_parent_run_it_names_none(run: Path, tmp_path: Path) -> None:
    bundle = make_ensemble(find_folds(run), tmp_path / "ensemble")
    assert bundle.metadata["training"]["mlflow_run_id"] is None


def test_every_config_with_the_network_gets_the_ensemble(run: Path, tmp_path: Path) -> None:
    config = find_bundle(run / "fold0/bundle").config("inference")
    network = json.loads(config.read_text())["network_def"]
    config.with_name("evaluate.json").write_text(json.dumps({"network_def": network, "more": [1]}))
    config.with_name("other.yaml").write_text("a: 1\n")
    bundle = make_fold_ensemble(run, tmp_path / "ensemble")
    written = json.loads((bundle.folder / "configs/evaluate.json").read_text())
    assert written == {
        "network_def": {"_target_": "scanloom.networks.Ensemble", "members": [network] * FOLDS},
        "more": [1],
    }
    assert (bundle.folder / "configs/other.yaml").read_text() == "a: 1\n"


def test_a_failure_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ensemble_bundle.torch, "save", fail)
    with pytest.raises(PipelineError, match=r"model\.pt: can not be written \(No space left"):
        make_fold_ensemble(run, tmp_path / "out" / "ensemble")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_can_not_be_made_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UsageError, match=r"can not write to .*ensemble: Not a directory\. Choose another folder with -o"
    ):
        make_fold_ensemble(run, tmp_path / "file" / "ensemble")


def test_a_folder_that_holds_something_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(UsageError, match=r"full is not empty\. Choose another folder with -o"):
        make_fold_ensemble(run, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert make_fold_ensemble(run, tmp_path / "empty").weights.is_file()


def test_folds_that_are_missing_or_not_finished_are_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no folds\. Name the folder of a scanloom train --all-folds"):
        find_folds(tmp_path)
    weights = run / "fold1/bundle/models/model.pt"
    weights.write_bytes(weights.read_bytes() + b"later epoch")
    (run / "fold2").rename(run / "elsewhere")
    with pytest.raises(
        UsageError, match=r"not finished: fold1, fold2\. Go on with scanloom train --all-folds --resume"
    ):
        find_folds(run)
    weights.unlink()
    with pytest.raises(UsageError, match=r"not finished: fold1, fold2"):
        find_folds(run)


def test_folds_that_are_none_of_one_training_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    train_fold(run, 0, folds=2)
    train_fold(run, 1, folds=2, dataset="e" * 64)
    with pytest.raises(BundleError, match="fold1 was trained on another dataset than fold0"):
        find_folds(run)
    other = tmp_path / "OTHER"
    train_fold(other, 0, folds=2)
    train_fold(other, 1, folds=2, spacing=(1.0, 1.0, 2.0))
    with pytest.raises(BundleError, match="fold1 has another inference config than fold0"):
        find_folds(other)


def test_the_command_makes_a_trusted_bundle_of_trusted_folds(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    command = ["bundle", "ensemble", str(run), "-o", str(tmp_path / "ensemble")]
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 1 and "was not trained here" in refused.output
    assert not (tmp_path / "ensemble").exists()
    for member in find_folds(run):
        record_trust(member)
    made = CliRunner().invoke(app, command)
    assert made.exit_code == 0, made.output
    assert made.output.strip().endswith("ensemble: 3 networks, weights of 0.1 MB")
    require_trust(find_bundle(tmp_path / "ensemble"))
    scan = write_nifti(tmp_path / "scan.nii.gz", *make_volume((12, 12, 12)))
    predicted = CliRunner().invoke(
        app, ["predict", "-b", str(tmp_path / "ensemble"), "-i", str(scan), "-o", str(tmp_path / "out"), "--no-pages"]
    )
    assert predicted.exit_code == 0, predicted.output
    assert json.loads((tmp_path / "out/scan/report.json").read_text())["bundle"]["mlflow_run_id"] == "parent"
