"""The ids that MONAI's workflows and `scanloom` look for in the configs. Source: monai/bundle/properties.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .configs import BundleConfig, entry, holds, normal, written
from .finding import MISSING, Finding, shown

PREDICT = ("network_def", "preprocessing", "inferer")
"""Ids of the inference config without which `scanloom predict` has nothing to run."""
VALIDATION = "ValidationHandler"
OF_THE_HANDLER = ("evaluator", "val_interval")
"""Properties whose reference is an argument of the `ValidationHandler`, wherever it stands in the handlers."""


def id_findings(configs: Sequence[BundleConfig]) -> Iterator[Finding]:
    """A fault for each id that a workflow requires and does not find, or finds under another name."""
    for config in configs:
        properties = _properties(config)
        wanted = {prop["id"]: prop["description"].rstrip(".") for prop in properties.values() if prop["required"]}
        if config.name == "inference":
            wanted |= {id: wanted.get(id, f"the {id} that scanloom predict runs") for id in PREDICT}
        if wanted:
            wanted["run"] = "what python -m monai.bundle run evaluates, a list of expressions"
        for id, description in wanted.items():
            if not holds(config.whole, id):
                remedy = f"Add it: {description}."
                yield Finding(config.file, written(id), MISSING, "the workflow requires it", remedy)
        for name, prop in properties.items():
            yield from _reference(config, name, prop)
        if config.name == "train" and not config.bases:
            yield from _handlers(config)


def _properties(config: BundleConfig) -> Mapping[str, Mapping[str, Any]]:
    """What MONAI wants of such a config; of one that lies upon others, nothing."""
    from monai.bundle.properties import InferProperties, TrainProperties
    from monai.utils import BundleProperty, BundlePropertyConfig

    if config.bases or config.name not in ("train", "inference", "evaluate"):
        return {}
    found = TrainProperties if config.name == "train" else InferProperties
    return {
        str(name): {
            "description": str(prop[BundleProperty.DESC]),
            "required": bool(prop[BundleProperty.REQUIRED]),
            "id": str(prop[BundlePropertyConfig.ID]),
            "refers": prop.get(BundlePropertyConfig.REF_ID),
        }
        for name, prop in found.items()
    }


def _reference(config: BundleConfig, name: str, prop: Mapping[str, Any]) -> Iterator[Finding]:
    """An optional property that something refers to has to have its own id."""
    place = prop["refers"]
    if prop["required"] or place is None:
        return
    id, reference = str(place), config.get(str(place))
    if name in OF_THE_HANDLER:
        id, reference = _of_handler(config, str(place))
    if isinstance(reference, str) and not reference.startswith("$") and normal(reference) != f"@{prop['id']}":
        problem = f"MONAI looks for the {prop['description'].rstrip('.')} under {written(prop['id'])}"
        remedy = f"Name it {written(prop['id'])}, and refer to it as @{written(prop['id'])}."
        yield Finding(config.file, written(id), shown(reference), problem, remedy)


def _handlers(config: BundleConfig) -> Iterator[Finding]:
    """MONAI's `check_properties` looks for the `_target_` of each handler, and fails where one is a reference."""
    handlers = config.get("train::handlers")
    for place, handler in enumerate(handlers if isinstance(handlers, list) else ()):
        if not isinstance(handler, Mapping):
            problem, remedy = "MONAI's check_properties fails at it", f"Write it as _target_: '$lambda: {handler}'."
            yield Finding(config.file, f"train#handlers#{place}", shown(handler), problem, remedy, kind="warning")


def _of_handler(config: BundleConfig, argument: str) -> tuple[str, Any]:
    handlers = config.get("train::handlers")
    for place, handler in enumerate(handlers if isinstance(handlers, list) else ()):
        if isinstance(handler, Mapping) and handler.get("_target_") == VALIDATION:
            return f"train::handlers::{place}::{argument}", entry(handler, argument)
    return "", None
