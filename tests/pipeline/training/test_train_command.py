"""`scanloom train` as a user runs it: what it prints, what it leaves, how it ends."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import mlflow
import pytest
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow

NAME = "hippocampus_mr_unet"
SETTINGS = {
    "network_def#features": "[4,8]",
    "network_def::deep_supervision": "0",
    "batch_size": "2",
    "patch_size": "[16,16,16]",
    "val_interval": "1",
}
SMALL = [word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")]
COMMAND = [sys.executable, "-m", "scanloom.pipeline.cli"]


@dataclass(frozen=True)
class Training:
    """A finished command: its folder, and what it said."""

    work: Path
    done: subprocess.CompletedProcess[str]

    @property
    def run_folder(self) -> Path:
        return self.work / "RUN"

    def runs(self) -> list[Run]:
        client = MlflowClient(f"sqlite:///{self.work / 'mlflow.db'}")
        found = client.get_experiment_by_name(NAME)
        return list(client.search_runs([found.experiment_id])) if found else []


def environment(work: Path) -> dict[str, str]:
    """Nothing of the user's: a state and a cache folder of its own, no MLflow server, a login name to look for."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    login = dict.fromkeys(("LOGNAME", "USER", "LNAME", "USERNAME"), "LOGINCANARY")
    return {
        **kept,
        **login,
        "XDG_STATE_HOME": str(work / "state"),
        "XDG_CACHE_HOME": str(work / "cache"),
        "MPLCONFIGDIR": matplotlib.get_cachedir(),  # where its list of fonts is already, which takes seconds
        "GIT_PYTHON_REFRESH": "quiet",
    }


def scanloom(work: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=work, env=environment(work), capture_output=True, text=True, timeout=300
    )


def train_words(crops: Path, epochs: int = 2) -> list[str]:
    return ["train", "-b", NAME, "-d", str(crops), "-o", "RUN", "--folds", "3", "--epochs", str(epochs), *SMALL]


@pytest.fixture(scope="module")
def training(crops: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    work = tmp_path_factory.mktemp("work")
    return Training(work, scanloom(work, *train_words(crops)))


def test_it_prints_the_bundle_and_says_an_epoch_a_line(training: Training) -> None:
    assert training.done.returncode == 0, training.done.stderr
    assert training.done.stdout == f"{training.run_folder / 'bundle'}\n"
    lines = training.done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "training on 4 cases, 2 epochs",
        "epoch 1/2",
        "  validation",
        "epoch 2/2",
        "  validation",
        "looking at what the network makes of 2 cases that were held out",
        lines[-2],
        f"model {NAME} version 1",
    ]
    assert lines[-2].startswith("trained bundle in ") and lines[-1].endswith(": the first champion")


def test_libraries_warn_of_nothing_new(training: Training) -> None:
    log = (training.run_folder / "train.log").read_text()
    warned = [line for line in log.splitlines() if "WARNING py.warnings" in line or " ERROR " in line]
    assert [line for line in warned if "NvImgCodec" not in line and "noload" not in line] == []


def test_the_run_tells_the_whole_story(training: Training) -> None:
    (run,) = training.runs()
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"{NAME} fold 0")
    params = run.data.params
    assert (params["config/network_def/features"], params["config/network_def/deep_supervision"]) == ("[4, 8]", "0")
    assert (params["config/seed"], params["config/epochs"], params["dataset_cases"]) == ("0", "2", "6")
    assert params["device"].startswith("cpu (") and len(params["dataset_sha256"]) == 64
    assert (params["seed"], params["fold"], params["epochs"]) == ("0", "0", "2") and params["precision"] in (
        "bf16",
        "fp32",
    )
    assert (params["bundle"], params["bundle_version"]) == (NAME, run.data.tags["bundle_version"])
    assert {"version/torch", "git_commit", "config/optimizer/_target_"} <= set(params)
    assert len(params) > 100  # not four
    client = MlflowClient(f"sqlite:///{training.work / 'mlflow.db'}")
    names = ("train/loss", "train/learning_rate", "train/samples_per_second", "val/mean_dice", "val/dice/posterior")
    for name in (*names, "train/seconds", "val/dice/anterior"):
        assert [entry.step for entry in client.get_metric_history(run.info.run_id, name)] == [1, 2], name
    steps = client.get_metric_history(run.info.run_id, "train/step_loss")
    assert [entry.step for entry in steps] == [1, 2, 3, 4]
    best = client.get_metric_history(run.info.run_id, "val/best")
    assert str(best[-1].step) == run.data.tags["best_epoch"]


def test_the_artifacts_are_config_split_pictures_checkpoint_and_bundle(training: Training) -> None:
    (artifacts,) = (training.work / "mlruns").glob("*/*/artifacts")
    files = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file()}
    split = json.loads((artifacts / "config/split.json").read_text())
    assert files >= {
        "config/train.yaml",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "config/packages.txt",
        "config/cases.csv",
        "training/metrics.csv",
        "training/learning_curve.png",
        "bundle/models/model.pt",
        "bundle/configs/metadata.json",
        "model/MLmodel",
        "validation/per_case.csv",
        "validation/best.png",
        "validation/worst.png",
    }
    assert len(split["training"]) == 4 and len(split["validation"]) == 2
    assert set(split["training"]) | set(split["validation"]) == {f"crop_{number}" for number in range(6)}
    config = yaml.safe_load((artifacts / "config/train.yaml").read_text())
    assert config["network_def"]["features"] == [4, 8] and "dataset_dir" not in config
    assert all(path.read_bytes()[1:4] == b"PNG" for path in artifacts.rglob("*.png"))
    with (artifacts / "config/cases.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == split["training"] + split["validation"]


def test_the_data_are_inputs_of_the_run_by_their_digests(training: Training) -> None:
    (run,) = training.runs()
    found = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert set(found) == {"training", "validation"}
    assert json.loads(found["training"].profile)["num_rows"] == 4
    assert found["training"].digest != found["validation"].digest
    assert len(json.loads(found["validation"].source)["tags"]["sha256"]) == 64


def test_the_store_is_not_in_the_bundle_and_nothing_waits_to_be_sent(training: Training) -> None:
    assert not list((training.run_folder / "bundle").rglob("*.db")) + list(
        (training.run_folder / "bundle").rglob("mlruns")
    )
    (outbox,) = (training.run_folder / "tracking").iterdir()
    assert sorted(path.name for path in outbox.iterdir()) == ["records.jsonl", "sent"]
    assert int((outbox / "sent").read_text()) == len((outbox / "records.jsonl").read_text().splitlines())


def test_nothing_of_the_machine_is_tracked(training: Training) -> None:
    """The word in the dataset's path, the user's name, and in the words of the run any absolute path."""
    written = [path for path in (training.work / "mlruns").rglob("*") if path.is_file()]
    for path in [training.work / "mlflow.db", *written]:
        content = path.read_bytes()
        assert b"PHICANARY" not in content and b"LOGINCANARY" not in content, path
        assert path.suffix not in (".json", ".yaml", ".csv", ".md") or str(training.work).encode() not in content, path
    (run,) = training.runs()
    words = [*run.data.params.values(), *run.data.tags.values()]
    assert not [word for word in words if str(training.work) in word or word.startswith("/")]


def test_the_bundle_is_complete_and_says_where_its_weights_come_from(training: Training) -> None:
    folder = training.run_folder / "bundle"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    configs = {f"configs/{name}" for name in ("metadata.json", "train.yaml", "inference.yaml", "evaluate.yaml")}
    assert files >= {"LICENSE", "docs/README.md", "models/model.pt", "configs/logging.conf", *configs}
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    (run,) = training.runs()
    assert metadata["training"]["mlflow_run_id"] == run.info.run_id
    assert metadata["training"]["dataset_sha256"] == run.data.params["dataset_sha256"]
    assert len(metadata["training"]["weights_sha256"]) == 64
    with (training.run_folder / "metrics.csv").open(newline="") as file:
        rows = [(row["epoch"], row["metric"]) for row in csv.DictReader(file)]
    assert ("2", "val/dice/posterior") in rows and ("1", "train/loss") in rows
    assert (training.run_folder / "checkpoints" / "last.pt").is_file()


def test_the_bundle_is_a_registered_model(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(training.work)
    store = f"sqlite:///{training.work / 'mlflow.db'}"
    found = mlflow.artifacts.download_artifacts(f"models:/{NAME}@champion", tracking_uri=store, registry_uri=store)
    fetched = Path(found)
    trained = training.run_folder / "bundle" / "models" / "model.pt"
    assert (fetched / "data" / "bundle" / "models" / "model.pt").read_bytes() == trained.read_bytes()


@pytest.mark.parametrize("bundle", ["RUN/bundle", f"models:/{NAME}@champion"])
def test_the_bundle_predicts_without_being_trusted_by_hand(bundle: str, training: Training, crops: Path) -> None:
    out = f"out{len(bundle)}"
    done = scanloom(training.work, "predict", "-b", bundle, "-i", str(crops / "images/crop_0.nii.gz"), "-o", out)
    assert done.returncode == 0, done.stderr
    assert (training.work / out / "crop_0" / "labels.nii.gz").is_file()
    (run,) = training.runs()
    told = json.loads((training.work / out / "crop_0" / "report.json").read_text())
    assert told["bundle"]["mlflow_run_id"] == run.info.run_id


def test_a_second_training_in_the_folder_is_refused(training: Training, crops: Path) -> None:
    done = scanloom(training.work, *train_words(crops))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "scanloom: RUN already holds a training. Choose another folder with -o, or pass --resume.\n"
    assert len(training.runs()) == 1


def test_an_error_in_the_middle_is_one_line(crops: Path, tmp_path: Path) -> None:
    words = [*train_words(crops), "--set", "loss=$lambda prediction, label: 1 / 0"]
    training = Training(tmp_path, scanloom(tmp_path, *words))
    assert (training.done.returncode, training.done.stdout) == (1, "")
    assert training.done.stderr.splitlines()[1:] == [
        "scanloom: training stopped by ZeroDivisionError; the trace is in RUN/train.log. "
        "When its cause is mended, the same command starts again."
    ]
    (run,) = training.runs()
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "ZeroDivisionError")


LONG = 25
"""Epochs, each of a tenth of a second: enough that a signal comes before the last, whatever else the machine does."""


def test_ctrl_c_kills_the_run_and_resume_finishes_it(crops: Path, tmp_path: Path) -> None:
    words = train_words(crops, epochs=LONG)
    said = _interrupt(tmp_path, words, signal.SIGINT)
    assert said[-2:] == ["stopped; the same command with --resume goes on from the last epoch", "scanloom: interrupted"]
    training = Training(tmp_path, scanloom(tmp_path, *words, "--resume"))
    assert training.done.returncode == 0, training.done.stderr
    assert training.done.stderr.startswith("resumed after epoch ")
    (run,) = training.runs()
    assert run.info.status == "FINISHED"
    with (training.run_folder / "metrics.csv").open(newline="") as file:
        epochs = [int(row["epoch"]) for row in csv.DictReader(file) if row["metric"] == "val/mean_dice"]
    assert epochs == list(range(1, LONG + 1))
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert {entry.step for entry in client.get_metric_history(run.info.run_id, "train/loss")} == set(range(1, LONG + 1))


def test_sigterm_kills_the_run(crops: Path, tmp_path: Path) -> None:
    _interrupt(tmp_path, train_words(crops, epochs=LONG), signal.SIGTERM)


def _interrupt(work: Path, words: Sequence[str], number: int) -> list[str]:
    """Send the signal after the third epoch; returns what was said. The run is KILLED."""
    process = subprocess.Popen(
        [*COMMAND, *words], cwd=work, env=environment(work), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line.rstrip("\n"))
        if line.startswith("epoch 3/"):
            process.send_signal(number)
    _, _ = process.communicate(timeout=240)
    # Python dies of SIGINT itself where the interruption passed an eval(), as MONAI's does; a shell shows 130 for both.
    assert process.returncode in (130, -signal.SIGINT), said
    (run,) = Training(work, subprocess.CompletedProcess([], 0)).runs()
    assert run.info.status == "KILLED"
    return said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--fold", "9"], "--fold 9: there are folds 0 to 2. Choose one of them."),
        (["--fold", "x"], "--fold x: it must be a number, or all."),
        (["--folds", "7"], "--folds 7: the dataset has 6 cases. Choose between 2 and that."),
        (["--epochs", "0"], "--epochs 0: it must be at least 1."),
        (["--set", "epochs"], "--set epochs: write it as KEY=VALUE, for instance --set learning_rate=0.001."),
        (["--set", "x=[1"], "--set x=[1: the value is not YAML. Quote it."),
    ],
)
def test_wrong_arguments_are_one_line_and_leave_nothing(
    words: list[str], line: str, crops: Path, tmp_path: Path
) -> None:
    done = scanloom(tmp_path, *train_words(crops)[:9], *words)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"scanloom: {line}\n")
    assert list(tmp_path.iterdir()) == []
