"""A train config with a teacher in it: what is replaced, what stays, which teachers are refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import make_bundle
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss
from scanloom.pipeline.bundle import Bundle
from scanloom.pipeline.errors import BundleError, UsageError
from scanloom.pipeline.training.distillation import DistillationLoss, TaughtBatch
from scanloom.pipeline.training.distilled_config import distilled_config
from scanloom.pipeline.training.step import AugmentedBatch


def channels(inputs: int = 1, outputs: int = 3) -> dict[str, Any]:
    return {"inputs": {"image": {"num_channels": inputs}}, "outputs": {"pred": {"num_channels": outputs}}}


def make(folder: Path, **options: Any) -> Bundle:
    return make_bundle(folder, **{"network_data_format": channels(), **options})


CONFIG: dict[str, Any] = {
    "device": "$torch.device('cpu')",
    "precision": "fp32",
    "network_def": {"_target_": "scanloom.networks.UNet", "out_channels": 3, "features": [4, 8], "spatial_dims": 3}
    | {"padding": "same"},
    "loss": {"_target_": "monai.losses.DiceCELoss", "softmax": True, "to_onehot_y": True},
    "train": {
        "augmentation": [],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "device": "@device",
            "max_epochs": 1,
            "train_data_loader": [
                {"image": "$torch.randn(1, 1, 8, 8, 8)", "label": "$torch.randint(3, (1, 1, 8, 8, 8)).float()"}
            ],
            "network": "@network_def",
            "loss_function": "@loss",
            "optimizer": {"_target_": "torch.optim.SGD", "params": "$@network_def.parameters()", "lr": 0.1},
            "prepare_batch": {
                "_target_": "scanloom.pipeline.training.step.AugmentedBatch",
                "transforms": "@train#augmentation",
            },
            "decollate": False,
        },
    },
    "imports": ["$import torch"],
}


def test_batch_and_loss_are_wrapped_and_all_else_stays(tmp_path: Path) -> None:
    student, teacher = make(tmp_path / "student"), make(tmp_path / "teacher", seed=1)
    before = copy.deepcopy(CONFIG)
    config = distilled_config(CONFIG, student, teacher, weight=0.25, temperature=3.0)
    assert before == CONFIG
    trainer, plain = config["train"]["trainer"], CONFIG["train"]["trainer"]
    assert trainer["loss_function"]["loss"] == plain["loss_function"]
    assert trainer["prepare_batch"]["prepare_batch"] == plain["prepare_batch"]
    assert config.pop("distillation") == {"weight": 0.25, "temperature": 3.0}
    assert config.pop("teacher")["bundle"] == str(teacher.folder)
    trainer |= {key: plain[key] for key in ("loss_function", "prepare_batch")}
    assert config == CONFIG


def test_it_parses_and_trains(tmp_path: Path) -> None:
    config = distilled_config(CONFIG, make(tmp_path / "student"), make(tmp_path / "teacher", seed=1))
    parser = ConfigParser(config)
    parser["distillation#weight"] = 0.75
    trainer = parser.get_parsed_content("train#trainer")
    assert isinstance(trainer.loss_function, DistillationLoss) and trainer.loss_function.weight == 0.75
    assert isinstance(trainer.loss_function.loss, DiceCELoss)
    assert isinstance(trainer.prepare_batch, TaughtBatch) and trainer.prepare_batch.precision == "fp32"
    before = [each.clone() for each in trainer.network.parameters()]
    trainer.run()
    assert trainer.state.iteration == 1 and trainer.state.output["loss"].isfinite()
    assert not all(torch.equal(one, other) for one, other in zip(trainer.network.parameters(), before, strict=True))


def test_a_trainer_without_a_prepare_batch_and_a_precision_gets_ours(tmp_path: Path) -> None:
    config = copy.deepcopy(CONFIG)
    del config["train"]["trainer"]["prepare_batch"], config["precision"]
    found = distilled_config(config, make(tmp_path / "student"), make(tmp_path / "teacher"))
    prepare = ConfigParser(found).get_parsed_content("train#trainer#prepare_batch")
    assert isinstance(prepare.prepare_batch, AugmentedBatch) and prepare.precision == "auto"


def test_a_config_without_a_trainer_is_refused(tmp_path: Path) -> None:
    student = make(tmp_path / "student")
    with pytest.raises(BundleError, match=r"the train config has no train#trainer with a loss_function\. Add it"):
        distilled_config({"loss": 1}, student, student)


def test_a_teacher_of_another_task_is_refused(tmp_path: Path) -> None:
    student = make(tmp_path / "student")
    more = make(tmp_path / "more", out_channels=4, name="more")
    with pytest.raises(UsageError, match=r"--teacher: bundle more has the labels 1 part1, 2 part2, 3 part3, tiny 1 p"):
        distilled_config(CONFIG, student, more)
    two = make(tmp_path / "two", network_data_format=channels(2), name="two")
    with pytest.raises(UsageError, match=r"--teacher: bundle two has the channels 2 -> 3, tiny 1 -> 3"):
        distilled_config(CONFIG, student, two)
    silent = make(tmp_path / "silent", network_data_format=None, name="silent")
    with pytest.raises(BundleError, match=r"silent: network_data_format .* does not say the num_channels"):
        distilled_config(CONFIG, student, silent)


def test_a_teacher_of_other_preprocessing_is_refused(tmp_path: Path) -> None:
    student = make(tmp_path / "student", spacing=(1.0, 1.0, 1.0))
    other = make(tmp_path / "other", spacing=(1.0, 1.0, 2.0), name="other")
    with pytest.raises(UsageError, match=r"--teacher: bundle other prepares its images in another way than tiny"):
        distilled_config(CONFIG, student, other)
    none = make(tmp_path / "none", config={"preprocessing": None}, name="none")
    with pytest.raises(BundleError, match=r"none: the inference config has no preprocessing"):
        distilled_config(CONFIG, student, none)


def test_preprocessing_is_compared_by_what_it_refers_to(tmp_path: Path) -> None:
    step = {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing"}

    def spaced(name: str, spacing: list[float]) -> Bundle:
        config = {"spacing": spacing, "preprocessing": {"_target_": "Compose", "transforms": [step]}}
        return make(tmp_path / name, config=config, name=name)

    student = spaced("student", [1.0, 1.0, 1.0])
    distilled_config(CONFIG, student, spaced("same", [1.0, 1.0, 1.0]))
    with pytest.raises(UsageError, match="bundle other prepares its images in another way"):
        distilled_config(CONFIG, student, spaced("other", [2.0, 1.0, 1.0]))
