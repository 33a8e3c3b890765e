"""A bundle's train config, with the command line's values in it, as a MONAI workflow; what is wrong, in one line."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle
from ..errors import BundleError, PipelineError, UsageError

if TYPE_CHECKING:
    from monai.bundle import ConfigWorkflow

PATHS = ("bundle_root", "dataset_dir", "output_dir")
"""Ids of a train config that hold paths of this machine: never tracked."""
TRAINER, EVALUATOR, KEY_METRIC = "train#trainer", "validate#evaluator", "validate#key_metric"
OPTIONS = {"dataset_dir": "-d", "output_dir": "-o", "bundle_root": "-b", "fold": "--fold", "folds": "--folds"} | {
    name: f"--{name}" for name in ("epochs", "seed", "device")
}
"""Ids of a train config that an option of the command line sets."""


def build_workflow(
    bundle: Bundle,
    values: Mapping[str, Any],
    overrides: Mapping[str, Any],
    device: str,
    teacher: Bundle | None = None,
) -> ConfigWorkflow:
    """The bundle's train config as a workflow, not initialized.

    Args:
        bundle: where the weights go, too.
        values: ids that the options of the command line set.
        overrides: ids that `--set` names; each must be in the config, or add an argument to a component of it.
        device: "auto" leaves it to the config.
        teacher: a trusted bundle that the network learns from, too.
    Raises:
        UsageError: there is no such id or device, or the teacher is of another task.
        BundleError: the config lacks what a training needs.
    """
    from monai.bundle import ConfigWorkflow

    from ..device import find_device

    config = bundle.config("train")
    given = {**values, "bundle_root": str(bundle.folder), "output_dir": str(bundle.folder / "models")}
    if device != "auto":
        given["device"] = f"$torch.device({str(find_device(device))!r})"
    metadata = str(config.parent / "metadata.json")
    with _silenced("monai.bundle.workflows"):  # it warns on standard output that it leaves the logging alone
        workflow = ConfigWorkflow(str(config), metadata, logging_file=False, workflow_type="train", **given)
    for key in (TRAINER, EVALUATOR):
        if key not in workflow.parser:
            raise BundleError(f"bundle {bundle.name}: {config.name} has no {key}. Name the engine so.")
    if teacher is not None:
        from .distilled_config import distilled_config

        workflow.parser.set(distilled_config(workflow.parser.get(), bundle, teacher))
    for key, value in overrides.items():
        _check_override(workflow.parser, key)
        workflow.parser[key] = value
    return workflow


def parsed(workflow: ConfigWorkflow, key: str, bundle: Bundle, overrides: Mapping[str, Any]) -> Any:
    """The object that the config describes under this id.

    Raises:
        PipelineError: a scan of the dataset is refused.
        UsageError: it can not be made with these `--set` values.
        BundleError: it can not be made.
    """
    try:
        return workflow.parser.get_parsed_content(key)
    except Exception as error:
        chain = list(_chain(error))
        for each in chain:
            if isinstance(each, PipelineError):
                raise each from None
        cause = str(chain[-1]).strip().partition("\n")[0].rstrip(".") or type(chain[-1]).__name__
        where = f"bundle {bundle.name}: train config: {_component(chain) or key} can not be made: {cause}"
        if overrides:
            raise UsageError(f"{where}. Check the values of --set.") from error
        raise BundleError(f"{where}. Mend the config, or override it with --set.") from error


def key_metric(workflow: ConfigWorkflow) -> str:
    """What metrics.csv calls the metric of a validation that the best epoch is chosen by, such as "val/mean_dice"."""
    metrics = workflow.parser.get(KEY_METRIC) or {}
    name = next(iter(metrics), "mean_dice") if isinstance(metrics, Mapping) else "mean_dice"
    return "val/" + str(name).removeprefix("val_")


def run_workflow(workflow: ConfigWorkflow) -> None:
    """Run it; an error is raised as what it is, not as MONAI's RuntimeError about the expression that ran."""
    try:
        workflow.run()
    except RuntimeError as error:
        if error.__cause__ is not None and str(error).startswith("Failed to evaluate ConfigExpression"):
            raise error.__cause__ from None
        raise


def _component(chain: list[BaseException]) -> str:
    """The class that MONAI was making, of its "Failed to instantiate component 'a.b.Class' …"."""
    words = [str(error).split("'") for error in chain if str(error).startswith("Failed to instantiate component '")]
    return words[-1][1] if words else ""


def _chain(error: BaseException | None) -> Any:
    """The error and what caused it, the root last."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _check_override(parser: Any, key: str) -> None:
    option = OPTIONS.get(key)
    if option:
        raise UsageError(f"--set {key}: the option {option} sets it. Use that.")
    parent, _, _ = key.replace("::", "#").rpartition("#")
    if key in parser or (parent and parent in parser and "_target_" in (parser[parent] or ())):
        return
    known = [str(each) for each in (parser[parent] if parent and parent in parser else parser.get())]
    near = difflib.get_close_matches(key.replace("::", "#").rpartition("#")[2], known, n=1)
    hint = f"Did you mean {parent + '#' if parent else ''}{near[0]}?" if near else "See configs/train.yaml for its ids."
    raise UsageError(f"--set {key}: the train config has no such id. {hint}")


@contextmanager
def _silenced(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    disabled, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = disabled


def without_paths(config: Any) -> Any:
    """The config with every absolute path cut to its last part: paths name machines, users, patients."""
    if isinstance(config, Mapping):
        return {key: without_paths(value) for key, value in config.items() if key not in (*PATHS, "_meta_")}
    if isinstance(config, list | tuple):
        return [without_paths(value) for value in config]
    if isinstance(config, str) and config.startswith(("/", "~")):
        return Path(config).name
    return config
