"""The config files of a bundle: read, bounded, and laid upon those that they are to lie upon."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..bundle import CONFIG_SUFFIXES, NETWORK, Bundle
from .check_references import unresolved
from .configs import SEPARATOR, BundleConfig
from .finding import MISSING, Finding

WORKFLOWS = ("train", "inference", "evaluate")
BASES = (("train",), ("inference",), ("train", "evaluate"))
"""What a config that is none of its own may lie upon: `--config_file "['train.json', 'evaluate.json']"`."""
MOST_ENTRIES = 100_000
"""Of a config; YAML can make billions of a few lines."""
DEEPEST = 60


def read_configs(bundle: Bundle) -> tuple[list[BundleConfig], list[Finding]]:
    """The configs that can be read, and a finding for each that can not or is missing."""
    contents: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    findings: list[Finding] = []
    for path in sorted((bundle.folder / "configs").iterdir()):
        if path.suffix not in CONFIG_SUFFIXES or path.name == "metadata.json" or not path.is_file():
            continue
        content = _read(path, findings)
        if isinstance(content, Mapping):
            contents[path.stem] = path, content
    for name in WORKFLOWS:
        if not any((bundle.folder / "configs" / f"{name}{suffix}").is_file() for suffix in CONFIG_SUFFIXES):
            findings += _absence(name)
    return [_config(bundle, name, contents) for name in contents], findings


def _read(path: Path, findings: list[Finding]) -> Any:
    from monai.bundle import ConfigParser

    file = f"configs/{path.name}"
    remedy = "Make it a mapping of ids, in YAML or JSON."
    try:
        content = ConfigParser.load_config_file(str(path))
        _require_bounded(content)
    except Exception as error:  # whatever a parser of YAML or JSON makes of a broken file
        why = " ".join(str(error).split())[:200] or type(error).__name__
        findings.append(Finding(file, "", "", f"it can not be read: {why}", remedy))
        return None
    if not isinstance(content, Mapping) and path.stem in WORKFLOWS:
        findings.append(Finding(file, "", "", f"it holds a {type(content).__name__}", remedy))
    return content


def _require_bounded(content: Any) -> None:
    """Return where the content is no bomb: anchors of YAML may hold themselves, or grow without end."""
    entries, level = 0, [content]
    for _ in range(DEEPEST):
        level = [
            each
            for value in level
            if isinstance(value, Mapping | list)
            for each in (value.values() if isinstance(value, Mapping) else value)
        ]
        entries += len(level)
        if not level:
            return
        if entries > MOST_ENTRIES:
            break
    raise ValueError(f"it has more than {MOST_ENTRIES} entries, or more than {DEEPEST} levels")


def _absence(name: str) -> list[Finding]:
    file = f"configs/{name}.yaml"
    if name == "inference":
        remedy = "Add it; docs/bundles.md shows one."
        return [Finding(file, "", MISSING, "nothing can be predicted without it", remedy)]
    if name == "train":
        remedy = "Add it, or leave it out where the bundle is only to predict."
        return [Finding(file, "", MISSING, "the bundle can not be trained", remedy, kind="warning")]
    return []


def _config(bundle: Bundle, name: str, contents: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> BundleConfig:
    path, content = contents[name]
    file, meta = f"configs/{path.name}", {"_meta_": dict(bundle.metadata)}
    candidates = [BundleConfig(name, file, content, {**deepcopy(dict(content)), **meta})]
    if name not in ("train", "inference") and _is_overlay(content):
        for bases in BASES:
            if name not in bases and all(base in contents for base in bases):
                merged = _merged([str(contents[base][0]) for base in bases] + [str(path)])
                if merged is not None:
                    candidates.append(BundleConfig(name, file, content, {**merged, **meta}, bases))
        candidates = candidates[1:] or candidates
    return min(candidates, key=lambda config: len(unresolved(config)))


def _is_overlay(content: Mapping[str, Any]) -> bool:
    """Whether a config is to be laid upon another: it has no network, or changes entries within others."""
    return NETWORK not in content or any("#" in str(key) or SEPARATOR in str(key) for key in content)


def _merged(files: list[str]) -> dict[str, Any] | None:
    """The files upon each other as MONAI lays them; None where one changes an entry that the others do not have."""
    from monai.bundle import ConfigParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's, that a `+` merges into nothing: then it copies
        try:
            return dict(ConfigParser.load_config_files(files))
        except (LookupError, ValueError, TypeError):
            return None
