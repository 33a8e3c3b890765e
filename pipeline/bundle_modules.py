"""Python files of a trusted bundle (the Model Zoo's `scripts` folder), made importable for its config alone.

They are never found before what is installed: a bundle's module that has the name of another is refused, trusted or
not. One bundle's modules are forgotten when the next one's are asked for, so that two `scripts` are not mixed up.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from pathlib import Path

from .bundle import Bundle
from .errors import BundleError


class BundlePath(str):
    """An entry of `sys.path` that is a bundle's folder."""


def python_names(folder: Path) -> list[str]:
    """Names that could be imported from the bundle's folder: its modules, and its folders with Python files in them."""
    modules = {path.stem for path in folder.glob("*.py")}
    packages = {path.parent.name for path in folder.glob("*/*.py")}
    return sorted(name for name in modules | packages if name.isidentifier())


def make_importable(bundle: Bundle) -> None:
    """Let `import scripts` find the bundle's own, where it has Python files and is trusted; else nothing.

    Raises:
        BundleError: one of its modules has the name of another that is installed.
    """
    _forget_others(bundle.folder)
    names = python_names(bundle.folder) if bundle.trusted else []
    for name in names:
        place = _installed(name, bundle.folder)
        if place is not None:
            raise BundleError(
                f"bundle {bundle.name}: its Python file or folder {name} has the name of {place}, which would run in "
                "its stead. Rename it, or uninstall the other."
            )
    if names and str(bundle.folder) not in sys.path:
        sys.path.append(BundlePath(bundle.folder))
        sys.dont_write_bytecode = True  # a written cache would be a changed bundle


def _installed(name: str, own: Path) -> str | None:
    """Where Python would find the name without the bundle; None for nowhere."""
    if name in sys.stdlib_module_names:
        return f"Python's own {name}"
    path = [entry for entry in sys.path if not isinstance(entry, BundlePath)]
    spec = PathFinder.find_spec(name, path)
    places = [] if spec is None else [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    elsewhere = [place for place in places if place and not Path(place).resolve().is_relative_to(own.resolve())]
    return elsewhere[0] if elsewhere else None


def _forget_others(folder: Path) -> None:
    """Take other bundles off the path, and what was imported from them out of memory."""
    others = [entry for entry in sys.path if isinstance(entry, BundlePath) and Path(entry) != folder]
    sys.path[:] = [entry for entry in sys.path if entry not in others]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), None)
        if file and any(Path(file).is_relative_to(other) for other in others):
            del sys.modules[name]
