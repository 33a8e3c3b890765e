"""A new bundle for a dataset: looks at the data, plans, and writes a template's configs set to the plan."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..bundle import CONFIG_SUFFIXES, NETWORK, Bundle, find_bundle, shipped_bundles
from ..errors import BundleError, DatasetError, PipelineError, UsageError
from ..fingerprint import Fingerprint
from ..progress import Report, silent
from .config_text import ConfigText
from .dataset import read_json
from .dataset_check import DatasetCheck, Read, check_dataset
from .dataset_description import describe_dataset
from .fingerprint import FingerprintBuilder
from .new_metadata import label_names, model_card, new_metadata
from .plan import BUDGETS, Budget, Plan, inference_windows, plan_training
from .planned_config import FREE_OF_THE_WINDOW, require_template, set_images, set_network, set_training

NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
LEFT_OUT = ("models", "docs", "__pycache__", ".*")
"""Of the template's folder."""
COMMANDS = {
    "train": "scanloom train -b FOLDER -d DATASET -o RUN",
    "inference": "scanloom predict -b RUN/bundle -i STUDY -o OUT",
    "evaluate": "scanloom evaluate -b RUN/bundle -d DATASET -o OUT",
}
"""What runs a config."""


@dataclass(frozen=True)
class NewBundle:
    """What to make.

    Attributes:
        name: of the bundle; letters, digits, `_`, `-` and dots.
        folder: where it goes; must not be there.
        like: the template; its configs will be run, so it has to be trusted.
        dataset: Medical Decathlon's or nnU-Net's raw layout.
        budget: name of one of `plan.BUDGETS`.
    """

    name: str
    folder: Path
    like: Bundle
    dataset: Path
    budget: str = "cpu"


@dataclass(frozen=True)
class PlannedBundle:
    """What was made, and of what."""

    bundle: Bundle
    fingerprint: Fingerprint
    plan: Plan
    warnings: tuple[str, ...]


def make_bundle(new: NewBundle, read: Read, report: Report = silent) -> PlannedBundle:
    """Write a bundle that trains on the dataset as it is; whole or not at all.

    Args:
        new: what to make.
        read: of the dataset's files; see `dataset_check`.
        report: told how far it is.
    Raises:
        UsageError: the name or the folder can not be taken, or there is no such dataset or budget.
        BundleError: the template lacks what a plan sets.
        DatasetError: the dataset has faults, or labels that can not be planned for.
    """
    budget = _require_usable(new)
    configs = _configs(new.like)
    require_template(new.like, configs)
    check, fingerprint = _look(new.dataset, read, report)
    plan = plan_training(fingerprint, budget)
    names = [label.name for label in fingerprint.labels.values()]
    for name, config in configs.items():
        if NETWORK in config:
            set_network(config, plan, len(names) + 1)
        config.head(_head(new, name, fingerprint))
    windows = inference_windows(plan, fingerprint, _receptive_field(new.like, configs["train"]))
    for config in configs.values():
        set_images(config, plan, len(names) + 1, windows)
    set_training(configs["train"], plan, names)
    files = {f"configs/{new.like.config(name).name}": str(config) for name, config in configs.items()}
    metadata = new_metadata(new.name, new.like, check, fingerprint, plan)
    files["configs/metadata.json"] = json.dumps(metadata, indent=2, ensure_ascii=False) + "\n"
    files["docs/README.md"] = model_card(new.name, new.like, check, fingerprint, plan)
    return PlannedBundle(_written(new, files), fingerprint, plan, check.warnings)


def _require_usable(new: NewBundle) -> Budget:
    if not NAME.fullmatch(new.name):
        raise UsageError(f"{new.name!r} is no name for a bundle. Use letters, digits, '_', '-' and dots.")
    if new.name in shipped_bundles():
        raise UsageError(f"{new.name} is a bundle that comes with scanloom. Choose another name.")
    if new.folder.exists() or new.folder.is_symlink():
        raise UsageError(f"{new.folder} is there already. Choose another folder with -o.")
    if new.budget not in BUDGETS:
        raise UsageError(f"--budget {new.budget}: there is no such budget. Use one of {', '.join(BUDGETS)}.")
    return BUDGETS[new.budget]


def _configs(template: Bundle) -> dict[str, ConfigText]:
    """The template's configs that MONAI reads, by their names."""
    required = {template.config(name) for name in ("train", "inference")}
    found = {path for path in (template.folder / "configs").iterdir() if path.suffix in CONFIG_SUFFIXES}
    configs = {}
    for path in sorted((found | required) - {template.folder / "configs" / "metadata.json"}):
        try:
            configs[path.stem] = ConfigText(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BundleError(f"bundle {template.name}: {path.name} can not be read: {error}. Mend it.") from None
    return configs


def _look(dataset: Path, read: Read, report: Report) -> tuple[DatasetCheck, Fingerprint]:
    """Check the dataset and take its fingerprint in one pass over its files."""
    ignore = describe_dataset(read_json(dataset.expanduser())).ignore
    builder = FingerprintBuilder(ignore)
    check = check_dataset(dataset, None, read, visit=builder.add, report=report)
    check.require_faultless()
    labels = check.description.labels or {value: f"label {value}" for value in check.label_cases if value}
    where = f"dataset {check.folder}"
    if ignore is not None:
        raise DatasetError(
            f"{where}: label {ignore} is to be ignored, which is not planned for. Give those voxels a label, or write "
            "the bundle by hand: docs/training.md says how a loss ignores a label."
        )
    if sorted(labels) != list(range(1, len(labels) + 1)):
        raise DatasetError(
            f"{where}: its labels are {', '.join(map(str, sorted(labels)))}; they must be 1, 2, … without a gap. "
            "Renumber them."
        )
    try:
        return check, builder.build(label_names(labels), check.description.modality)
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from None


def _receptive_field(template: Bundle, train: ConfigText) -> tuple[int, ...] | None:
    """Of the planned network; None where it can not be tiled without seams."""
    import torch
    from monai.bundle import ConfigParser

    definition = yaml.safe_load(str(train))[NETWORK]
    try:
        with torch.device("meta"):
            network = ConfigParser({NETWORK: definition}).get_parsed_content(NETWORK)
    except Exception as error:
        raise BundleError(
            f"bundle {template.name}: the planned {NETWORK} can not be built: {_innermost(error)}. "
            "Take another template."
        ) from error
    if definition.get("norm", "none") not in FREE_OF_THE_WINDOW:
        return None
    return tuple(network.receptive_field_voxels)


def _head(new: NewBundle, config: str, fingerprint: Fingerprint) -> list[str]:
    """The comment that a config begins with."""
    return [
        f"The {config} config of {new.name}, planned by `scanloom bundle init` from {fingerprint.cases} cases.",
        f"Like {new.like.name} {new.like.version}; docs/README.md has the plan.",
        *([f"  {COMMANDS[config]}"] if config in COMMANDS else []),
    ]


def _written(new: NewBundle, files: Mapping[str, str]) -> Bundle:
    """The bundle in its folder; written beside it and renamed, so that nothing is there where that fails."""
    aside = new.folder.with_name(f".part-{secrets.token_hex(4)}-{new.folder.name}")
    try:
        new.folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(new.like.folder, aside, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for name, text in files.items():
            (aside / name).parent.mkdir(exist_ok=True)
            (aside / name).write_text(text, encoding="utf-8")
        _require_whole(find_bundle(aside))
        aside.rename(new.folder)
    except OSError as error:
        raise PipelineError(
            f"{new.folder}: can not be written ({error.strerror}). Free space there or choose another folder with -o."
        ) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return find_bundle(new.folder)


def _require_whole(bundle: Bundle) -> None:
    """Return where the configs read as they should: the same network in all, as many outputs as labels."""
    networks: list[Any] = []
    for path in sorted((bundle.folder / "configs").iterdir()):
        if path.suffix in CONFIG_SUFFIXES and path.name != "metadata.json":
            networks.append(yaml.safe_load(path.read_text(encoding="utf-8")).get(NETWORK))
    known = [network for network in networks if network]
    if any(network != known[0] for network in known) or known[0]["out_channels"] != len(bundle.labels) + 1:
        raise BundleError(
            f"bundle {bundle.name}: its configs do not agree about {NETWORK}. Take a template whose configs do."
        )


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
