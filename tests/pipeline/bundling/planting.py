"""Changes to a bundle's files, by ids."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from scanloom.pipeline.bundle import find_bundle


def change_metadata(folder: Path, key: str, value: Any = None, *, drop: bool = False) -> None:
    """Set or drop an entry of metadata.json by its id."""
    path = folder / "configs" / "metadata.json"
    content = _changed(json.loads(path.read_text(encoding="utf-8")), key, value, drop=drop)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def change_config(folder: Path, name: str, key: str, value: Any = None, *, drop: bool = False) -> None:
    """Set or drop an entry of a YAML config by its id."""
    path = folder / "configs" / f"{name}.yaml"
    content = _changed(yaml.safe_load(path.read_text(encoding="utf-8")), key, value, drop=drop)
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def save_weights(
    folder: Path, state: dict[str, Any], edit: Callable[[dict[str, Any]], None] = lambda state: None
) -> None:
    """Write a state dict, edited, and its digest into the metadata."""
    edit(state)
    torch.save(state, folder / "models" / "model.pt")
    change_metadata(folder, "training#weights_sha256", find_bundle(folder).weights_sha256)


def _changed(content: Any, key: str, value: Any, *, drop: bool) -> Any:
    parent, parts = content, key.split("#")
    for part in parts[:-1]:
        parent = parent[int(part)] if isinstance(parent, list) else parent[part]
    last = int(parts[-1]) if isinstance(parent, list) else parts[-1]
    if drop:
        del parent[last]
    else:
        parent[last] = value
    return content
