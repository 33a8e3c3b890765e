"""What a check of a bundle finds: one line each, with file, key, value and remedy."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

SHOWN = 120
"""Characters of a value that a line shows."""
MISSING = "(missing)"
"""The value of a key that is not there."""


@dataclass(frozen=True)
class Finding:
    """A fault of a bundle, or what its user should know.

    Attributes:
        file: within the bundle, with `/`.
        key: of the value in the file, its parts with `#` between; empty for the file itself.
        value: as `shown` has it.
        problem: what is wrong about it, a phrase.
        remedy: what mends it, sentences.
        kind: a fault keeps the bundle from working, or from being what it says; a warning does not.
    """

    file: str
    key: str
    value: str
    problem: str
    remedy: str
    kind: Literal["fault", "warning"] = "fault"

    def __str__(self) -> str:
        place = f"{self.file}: {self.key} = {self.value}" if self.key else f"{self.file} {self.value}".rstrip()
        return f"{self.kind}: {place}: {self.problem}. {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """Its attributes."""
        return asdict(self)


@dataclass(frozen=True)
class LeftOut:
    """A step of the check that was not done, and why."""

    step: str
    why: str


@dataclass(frozen=True)
class CheckReport:
    """How a check ended.

    Attributes:
        bundle: its name and version.
        findings: in the order of the steps.
        done: the steps that were done.
        left_out: those that were not.
    """

    bundle: str
    findings: tuple[Finding, ...]
    done: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def faults(self) -> tuple[Finding, ...]:
        """The findings that are no warnings."""
        return tuple(finding for finding in self.findings if finding.kind == "fault")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that are."""
        return tuple(finding for finding in self.findings if finding.kind == "warning")

    def lines(self) -> list[str]:
        """A line for each finding and each step left out, and one that sums up."""
        faults, warnings = len(self.faults), len(self.warnings)
        said = f"{self.bundle}: {_count(faults, 'fault')}, {_count(warnings, 'warning')}; {len(self.done)} steps done"
        skipped = [
            f"left out: {', '.join(each.step for each in self.left_out if each.why == why)}: {why}"
            for why in dict.fromkeys(each.why for each in self.left_out)
        ]
        return [*map(str, self.findings), *skipped, f"{said}, {len(self.left_out)} left out"]

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "bundle": self.bundle,
            "ok": not self.faults,
            "findings": [finding.to_json() for finding in self.findings],
            "done": list(self.done),
            "left_out": [asdict(step) for step in self.left_out],
        }


def shown(value: Any) -> str:
    """A value as a line shows it: JSON, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
