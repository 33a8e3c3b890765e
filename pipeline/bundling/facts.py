"""What a bundle says of itself, for people and programs, without running it or importing torch, MONAI or NumPy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from ..bundle import CONFIG_SUFFIXES, Bundle
from ..errors import BundleError
from ..trust import trust_state
from .execution import read_plainly

METADATA = (
    *("task", "description", "authors", "copyright", "intended_use", "data_source", "data_type", "references"),
    *("changelog", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "eval_metrics"),
)
"""What is told as the metadata have it."""
LICENCES = {"apache": "Apache-2.0", "mit license": "MIT", "attribution-sharealike 4.0": "CC-BY-SA-4.0",
            "attribution-noncommercial": "CC-BY-NC"}  # fmt: skip
"""Words of a licence's first lines -> its SPDX name."""


def bundle_facts(bundle: Bundle) -> dict[str, Any]:
    """Everything of use that its metadata, configs and files say; what is not there is None."""
    trust = trust_state(bundle)
    return {
        "name": bundle.name,
        "version": _text(bundle.metadata.get("version")),
        "folder": str(bundle.folder),
        **{key: bundle.metadata[key] for key in METADATA if key in bundle.metadata},
        "labels": labels_of(bundle),
        "series": _series(bundle),
        "spacing_mm": _argument(bundle, "Spacingd", "pixdim"),
        "windows_voxels": _argument(bundle, "Inferer", "roi_size"),
        "network": _network(bundle),
        "weights": weights_of(bundle),
        "training": bundle.metadata.get("training"),
        "score": score_of(bundle),
        "license": _licence(bundle),
        "fingerprint": _fingerprint(bundle),
        "trust": {**asdict(trust), "runs": trust.runs, "changes": list(trust.changes)},
    }


def labels_of(bundle: Bundle) -> list[dict[str, Any]]:
    """The labels with their codes; none where the metadata do not name them usably."""
    try:
        return [asdict(label) for label in bundle.labels]
    except BundleError:
        return []


def weights_of(bundle: Bundle) -> dict[str, Any] | None:
    """File, bytes and SHA-256 of the weights; None where there are none."""
    if not bundle.weights.is_file():
        return None
    name = bundle.weights.relative_to(bundle.folder).as_posix()
    return {"file": name, "bytes": bundle.weights.stat().st_size, "sha256": bundle.weights_sha256}


def score_of(bundle: Bundle) -> dict[str, Any] | None:
    """How good it is, as its training measured it, or else its metadata name it: value and what it is; or None."""
    training = bundle.metadata.get("training")
    found = training.get("cross_validation") if isinstance(training, Mapping) else None
    if isinstance(found, Mapping) and _number(found.get("mean")) is not None:
        return {"value": found["mean"], "what": "mean Dice in cross-validation"}
    for key in ("eval_metrics", "measured_dice"):
        metrics = bundle.metadata.get(key)
        numbers = {n: v for n, v in metrics.items() if _number(v) is not None} if isinstance(metrics, Mapping) else {}
        if numbers:
            name = next(iter(numbers))
            return {"value": numbers[name], "what": f"{key} {name}"}
    return None


def modality_of(bundle: Bundle) -> str | None:
    """Of the scans that it takes."""
    try:
        return bundle.series_rule.modality or _image(bundle).get("modality")
    except BundleError:
        return None


def _series(bundle: Bundle) -> dict[str, Any] | None:
    try:
        return asdict(bundle.series_rule)
    except BundleError:
        return None


def _network(bundle: Bundle) -> dict[str, Any]:
    network = _config(bundle).get("network_def")
    formats = bundle.metadata.get("network_data_format")
    return {
        "target": network.get("_target_") if isinstance(network, Mapping) else None,
        "format": formats if isinstance(formats, Mapping) else None,
    }


def _image(bundle: Bundle) -> Mapping[str, Any]:
    try:
        image = bundle.metadata["network_data_format"]["inputs"]["image"]
    except (KeyError, TypeError):
        return {}
    return image if isinstance(image, Mapping) else {}


def _argument(bundle: Bundle, component: str, argument: str) -> Any:
    """Of the first component of the inference config whose name ends so; None where it is missing or an expression."""
    for each in _components(_config(bundle)):
        if str(each["_target_"]).endswith(component) and not isinstance(each.get(argument), str | None):
            return each[argument]
    return None


def _components(value: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    if depth > 20:
        return
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield value
        for each in value.values():
            yield from _components(each, depth + 1)
    elif isinstance(value, list):
        for each in value:
            yield from _components(each, depth + 1)


def _config(bundle: Bundle) -> Mapping[str, Any]:
    """The inference config as plain data; empty where it is missing or broken."""
    for suffix in CONFIG_SUFFIXES:
        path = bundle.folder / "configs" / f"inference{suffix}"
        if path.is_file():
            try:
                content = read_plainly(path)
            except (ValueError, OSError):
                return {}
            return content if isinstance(content, Mapping) else {}
    return {}


def _licence(bundle: Bundle) -> str | None:
    """The SPDX name that the file's first lines are known by, else its first line."""
    for name in ("LICENSE", "LICENSE.txt", "docs/LICENSE"):
        path = bundle.folder / name
        if path.is_file():
            lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[:40]]
            start = re.sub(r"\s+", " ", " ".join(lines).lower())
            known = next((spdx for words, spdx in LICENCES.items() if words in start), None)
            return known or next((line for line in lines if line), None)
    return None


def _fingerprint(bundle: Bundle) -> dict[str, Any] | None:
    """The numbers of the training data's fingerprint that say at a glance what it was trained on."""
    found = bundle.metadata.get("fingerprint")
    if not isinstance(found, Mapping):
        return None
    spread = {key: found[key] for key in ("spacing_mm", "size_voxels", "extent_mm") if key in found}
    medians = {key: _medians(value) for key, value in spread.items()}
    return {
        "cases": found.get("cases"),
        "modality": found.get("modality"),
        **{f"median_{k}": v for k, v in medians.items()},
    }


def _medians(spreads: Any) -> list[Any]:
    return [each.get("median") for each in spreads if isinstance(each, Mapping)] if isinstance(spreads, list) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
