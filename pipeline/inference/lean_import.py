"""MONAI without the packages that inference has no use for: half of the seconds that `import monai` takes.

MONAI imports each optional package that it finds. Ignite (its engines and handlers), MLflow, pandas and matplotlib
serve training; while they are hidden MONAI takes them for not installed. What this process imports afterwards finds
them again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

FOR_TRAINING = ("ignite", "mlflow", "pandas", "matplotlib")


def import_monai_for_inference() -> None:
    """Import MONAI for a process that only predicts; nothing where MONAI is imported already."""
    if "monai" not in sys.modules:
        with hidden(FOR_TRAINING):
            import_module("monai")


@contextmanager
def hidden(packages: tuple[str, ...]) -> Iterator[None]:
    """While the block lasts, importing any of the packages that is not imported yet raises ModuleNotFoundError."""
    absent = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
