"""Pictures of the worst cases of an evaluation, kept as the cases come, one at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from .scores import CaseScores, worst_first

FOLDER = "worst_cases"


class Gallery:
    """One picture each of the worst cases so far: drawn when a case comes among them, gone when it no longer is.

    Args:
        folder: OUT; the pictures go to a folder in it.
        room: how many there may be.
    """

    def __init__(self, folder: Path, room: int) -> None:
        self.folder, self.room = folder, room
        self._shown: list[CaseScores] = []

    def remove_old(self) -> None:
        """Pictures of an earlier evaluation are not to stand beside those of this one."""
        for path in (self.folder / FOLDER).glob("*.png"):
            path.unlink()

    def offer(self, case: CaseScores, draw: Callable[[Path], None]) -> None:
        """Let the case be drawn, by the function and to the path that it is given, where it is among the worst."""
        self._shown = worst_first([*self._shown, case])
        dropped = self._shown.pop() if len(self._shown) > self.room else None
        if dropped is not case:
            draw(self.folder / _name(case))
        if dropped is not None and dropped is not case:
            (self.folder / _name(dropped)).unlink()

    @property
    def names(self) -> dict[str, str]:
        """Case -> path of its picture in OUT, the worst first."""
        return {case.case: _name(case) for case in self._shown}


def _name(case: CaseScores) -> str:
    """After the case, whatever stands in its name: it comes from a dataset's list and may be no file's name."""
    safe = re.sub(r"[^\w.+=@ -]", "_", case.case).strip(" .")
    unique = "" if safe == case.case else f"-{sha256(case.case.encode()).hexdigest()[:8]}"
    return f"{FOLDER}/{safe}{unique}.png"
