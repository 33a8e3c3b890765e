"""Whether a result can be trusted, and why not: what `verdicts` gives and the outputs show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

OK, CHECK, REJECT = "ok", "check", "reject"
SEVERITIES = (CHECK, REJECT)
"""Of a reason: look before you use it; do not use it."""


@dataclass(frozen=True)
class Reason:
    """One thing about a case that is not as it was in training.

    Attributes:
        code: machine-readable, such as "spacing"; see docs/verdicts.md.
        severity: "check" or "reject".
        message: one line: what was found, what was expected.
    """

    code: str
    severity: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """What is thought of a case.

    Attributes:
        reasons: the gravest first; none where all is well.
        notes: what could not be judged, a line each.
    """

    reasons: tuple[Reason, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """ "ok", "check" or "reject": that of the gravest reason."""
        return max((reason.severity for reason in self.reasons), key=SEVERITIES.index, default=OK)

    @property
    def line(self) -> str:
        """The status and the first reasons, in one line."""
        if not self.reasons:
            return self.status
        more = len(self.reasons) - 2
        shown = "; ".join(reason.message for reason in self.reasons[:2])
        return f"{self.status}: {shown}" + (f"; and {more} more" if more > 0 else "")

    def to_json(self) -> dict[str, Any]:
        """Plain values for report.json."""
        return {"status": self.status, "reasons": [asdict(reason) for reason in self.reasons], "notes": [*self.notes]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Verdict:
        """What `to_json` wrote.

        Raises:
            ValueError: it is something else.
        """
        try:
            reasons = tuple(Reason(**each) for each in values["reasons"])
            verdict = cls(reasons, tuple(map(str, values["notes"])))
            if values["status"] != verdict.status:
                raise ValueError(f"status {values['status']!r} does not follow from the reasons")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"no verdict: {error!r}. Predict the case again.") from None
        return verdict


def gravest_first(reasons: Sequence[Reason]) -> tuple[Reason, ...]:
    """Rejections before checks, else in their order."""
    return tuple(sorted(reasons, key=lambda reason: -SEVERITIES.index(reason.severity)))
