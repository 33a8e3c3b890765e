"""The names of cases, each for one input of a run."""

from __future__ import annotations

import unicodedata

from ..errors import UsageError
from ..prediction import CaseResult
from .destination import Destination


class Names:
    """Which input has which name: no case is written over another of the same run.

    Args:
        destination: of the cases, held; where it ignores case, so do their names.
    """

    def __init__(self, destination: Destination) -> None:
        self._fold = _folded if destination.ignores_case() else str
        self._taken: dict[str, int] = {}

    def claim(self, number: int, result: CaseResult) -> None:
        """Refuse the case of an input where an earlier one has its name."""
        if result.error or result.case is None or self._taken.setdefault(self._fold(result.case), number) == number:
            return
        result.end(
            UsageError(f"two inputs are called {result.case}. Rename one, or predict them into two folders."),
            result.case,
        )


def _folded(name: str) -> str:
    """The same for names that a disk which ignores case takes for one."""
    return unicodedata.normalize("NFC", name).casefold()
