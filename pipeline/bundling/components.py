"""Where a dotted name of a config leads, without running any code of the bundle.

Packages that scanloom itself needs are imported to look; of others it is only asked whether they are installed, and of
modules in the bundle their text is read.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import warnings
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

KNOWN = frozenset(
    [
        *("monai", "torch", "ignite", "numpy", "scanloom", "nibabel", "scipy", "skimage", "sklearn"),
        *("math", "os", "glob", "json", "pathlib", "functools", "itertools", "operator", "collections", "copy", "re"),
    ]
)
"""Packages that are imported to look into them: scanloom's own needs, and harmless ones of the standard library."""


class NotFoundError(Exception):
    """There is no such component.

    Attributes:
        remedy: what mends it.
    """

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


def locate(name: str, folder: Path) -> Any | None:
    """What a dotted name, or a bare name of MONAI's, leads to.

    Args:
        name: such as "LoadImaged" or "scanloom.networks.UNet".
        folder: of the bundle, whose modules can be named, too.
    Returns:
        The class or function; None where it is there but was not looked at.
    Raises:
        NotFoundError: there is no such thing.
    """
    top, _, rest = name.partition(".")
    if not rest:
        return _of_monai(name)
    if (folder / top).is_dir() or (folder / f"{top}.py").is_file():
        _require_in_bundle(name, folder)
        return None
    if top in KNOWN:
        return _imported(name)
    if not _is_installed(top):
        raise NotFoundError(f"there is no package {top}", f"Install the package that holds {top}, or mend the name.")
    return None


@cache
def monai_components() -> dict[str, str]:
    """The classes and functions of MONAI that a config may name bare, and their modules."""
    import monai.bundle

    locator = monai.bundle.ComponentLocator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecated members that are looked at
        locator.get_component_module_name("Compose")
    return {name: modules[0] for name, modules in (locator._components_table or {}).items()}


def _of_monai(name: str) -> Any:
    modules = monai_components()
    if name in modules:
        return getattr(importlib.import_module(modules[name]), name)
    if hasattr(builtins, name):
        return getattr(builtins, name)
    near = get_close_matches(name, modules, n=1)
    hint = f"Did you mean {near[0]}?" if near else "Write its full name, such as package.module.Class."
    raise NotFoundError(f"MONAI has no {name}", hint)


def _imported(name: str) -> Any:
    """The member of a known package, as `pydoc.locate` finds it: the longest module, then attributes."""
    parts = name.split(".")
    found: Any = _module(parts[0])
    if found is None:
        raise NotFoundError(f"there is no package {parts[0]}", f"Install {parts[0]}.")
    for place, part in enumerate(parts[1:], start=1):
        if not hasattr(found, part) and isinstance(found, ModuleType):
            _module(".".join(parts[: place + 1]))  # which becomes an attribute of its package
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), n=1)
            hint = f"Did you mean {'.'.join([*parts[:place], near[0]])}?" if near else "Mend the name."
            raise NotFoundError(f"{'.'.join(parts[:place])} has no {part}", hint)
        found = getattr(found, part)
    return found


def _module(name: str) -> ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a package says of itself as it is imported
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def _require_in_bundle(name: str, folder: Path) -> None:
    """Return where a module of the bundle defines or imports the last part of the name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = folder.joinpath(*parts[:length])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                member = parts[length] if length < len(parts) else None
                if member is None or member in _defined(file) or "*" in _defined(file):
                    return
                where = file.relative_to(folder).as_posix()
                raise NotFoundError(f"{where} has no {member}", f"Define {member} there, or mend the name.")
    raise NotFoundError(f"the bundle has no module {'.'.join(parts[:-1])}", "Add it, or mend the name.")


def _defined(file: Path) -> set[str]:
    """The names that a module's text defines or imports at its top level."""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError, OSError):
        return set()
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        else:
            names |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return names
