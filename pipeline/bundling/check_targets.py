"""The components that a config names (`_target_`): they are there, and take the arguments that it gives them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from ..bundle import Bundle
from .components import NotFoundError, locate
from .configs import SEPARATOR, BundleConfig, written
from .finding import MISSING, Finding, shown

NO_ARGUMENTS = ("_target_", "_disabled_", "_requires_", "_desc_", "_mode_", "_debug_")
"""Keys of a component that are not given to it."""


def target_findings(bundle: Bundle, configs: Sequence[BundleConfig]) -> Iterator[Finding]:
    """A fault for each component that does not exist, and each argument that it does not take or has to have."""
    for config in configs:
        for id, component in config.own_components():
            target, key = component["_target_"], written(f"{id}{SEPARATOR}_target_")
            if not isinstance(target, str):
                problem, remedy = "it is no name", "Write the name of a class or function."
                yield Finding(config.file, key, shown(target), problem, remedy)
            elif not target.startswith(("$", "@", "%")):  # what these stand for is known when it runs
                try:
                    found = locate(target, bundle.folder)
                except NotFoundError as error:
                    yield Finding(config.file, key, shown(target), str(error), error.remedy)
                else:
                    yield from _arguments(config.file, id, component, found)


def _arguments(file: str, id: str, component: Mapping[str, Any], found: Any) -> Iterator[Finding]:
    parameters = _parameters(found)
    if parameters is None:
        return
    name = str(component["_target_"]).rpartition(".")[2]
    given = [str(key) for key in component if key not in NO_ARGUMENTS]
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        known = [each.name for each in parameters if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
        for key in given:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                hint = f"Did you mean {near[0]}?" if near else f"It takes {', '.join(known) or 'none'}."
                path = written(f"{id}{SEPARATOR}{key}")
                yield Finding(file, path, shown(component[key]), f"{name} takes no such argument", hint)
    if component.get("_mode_", "default") == "callable":
        return
    for each in parameters:
        needed = each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY) and each.default is each.empty
        if needed and each.name not in given:
            path = written(f"{id}{SEPARATOR}{each.name}")
            yield Finding(file, path, MISSING, f"{name} has to have this argument", "Add it.")


def _parameters(found: Any) -> list[inspect.Parameter] | None:
    """Of a class or function; None where they can not be told."""
    if found is None or not callable(found):
        return None
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return None
