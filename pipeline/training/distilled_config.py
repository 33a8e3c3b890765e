"""A train config in which the network learns from a teacher, too."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser

from ..bundle import Bundle
from ..bundle_network import inference_config
from ..errors import BundleError, UsageError
from .workflow import TRAINER

TEACHER, DISTILLATION = "teacher", "distillation"
"""Ids that a distilled config has beside those of the plain one."""

CHANNELS = (("inputs", "image"), ("outputs", "pred"))
"""Where a bundle's metadata say how many channels its network takes and makes."""

PLAIN_BATCH = {"_target_": "scanloom.pipeline.training.step.AugmentedBatch", "transforms": []}


def distilled_config(
    config: Mapping[str, Any], student: Bundle, teacher: Bundle, *, weight: float = 0.5, temperature: float = 2.0
) -> dict[str, Any]:
    """The train config of the student with the teacher in it.

    `train#trainer#prepare_batch` and `train#trainer#loss_function` are put into a `TaughtBatch` and a
    `DistillationLoss`; new are `teacher` and `distillation` (`weight` and `temperature`). All else stays.

    Args:
        config: of the student, as `ConfigParser.get()` gives it; left as it is.
        student: whose train config it is.
        teacher: its inference config will be run, so it has to be trusted.
        weight: of the teacher, 0 to 1.
        temperature: what the logits of both are divided by.
    Raises:
        UsageError: the teacher's labels, channels or preprocessing are others than the student's.
        BundleError: the config has no trainer with a loss, or an inference config can not be read.
    """
    _require_alike(student, teacher)
    parser = ConfigParser(copy.deepcopy(dict(config)))
    if TRAINER not in parser or "loss_function" not in parser[TRAINER]:
        raise BundleError(f"bundle {student.name}: the train config has no {TRAINER} with a loss_function. Add it.")
    trainer = parser[TRAINER]
    trainer["loss_function"] = {
        "_target_": "scanloom.pipeline.training.distillation.DistillationLoss",
        "loss": trainer["loss_function"],
        "weight": f"@{DISTILLATION}#weight",
        "temperature": f"@{DISTILLATION}#temperature",
    }
    trainer["prepare_batch"] = {
        "_target_": "scanloom.pipeline.training.distillation.TaughtBatch",
        "prepare_batch": trainer.get("prepare_batch", PLAIN_BATCH),
        "teacher": f"@{TEACHER}",
        "precision": "@precision" if "precision" in parser else "auto",
    }
    parser[DISTILLATION] = {"weight": weight, "temperature": temperature}
    parser[TEACHER] = {
        "_target_": "scanloom.pipeline.training.distillation.load_teacher",
        "bundle": str(teacher.folder),
        "device": "@device",
    }
    return dict(parser.get())


def _require_alike(student: Bundle, teacher: Bundle) -> None:
    """Return where the teacher labels the same things in the same input."""
    for what, of_student, of_teacher in (
        ("labels", _labels(student), _labels(teacher)),
        ("channels", _channels(student), _channels(teacher)),
    ):
        if of_student != of_teacher:
            raise UsageError(
                f"--teacher: bundle {teacher.name} has the {what} {of_teacher}, {student.name} {of_student}. "
                "Take a teacher of the same task."
            )
    if _preprocessing(student) != _preprocessing(teacher):
        raise UsageError(
            f"--teacher: bundle {teacher.name} prepares its images in another way than {student.name} (preprocessing "
            "in configs/inference). Take a teacher with the same preprocessing."
        )


def _labels(bundle: Bundle) -> str:
    return ", ".join(f"{label.value} {label.name}" for label in bundle.labels)


def _channels(bundle: Bundle) -> str:
    """Of the network's input and output, as the metadata have them."""
    formats = bundle.metadata.get("network_data_format", {})
    try:
        return " -> ".join(str(formats[kind][name]["num_channels"]) for kind, name in CHANNELS)
    except (KeyError, TypeError):
        raise BundleError(
            f"bundle {bundle.name}: network_data_format in configs/metadata.json does not say the num_channels of "
            "image and pred. Add them."
        ) from None


def _preprocessing(bundle: Bundle) -> Any:
    parser = inference_config(bundle)
    if "preprocessing" not in parser:
        raise BundleError(f"bundle {bundle.name}: the inference config has no preprocessing. Add it.")
    return _expanded(parser["preprocessing"], parser)


def _expanded(value: Any, parser: ConfigParser) -> Any:
    """The value with what it refers to (`@id`) in the references' places."""
    if isinstance(value, Mapping):
        return {key: _expanded(each, parser) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_expanded(each, parser) for each in value]
    if isinstance(value, str) and value.startswith("@") and value[1:] in parser:
        return _expanded(parser[value[1:]], parser)
    return value
