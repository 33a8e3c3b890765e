"""Facts of a case against their spreads in training: the reasons that come of it."""

from __future__ import annotations

from collections.abc import Sequence

from ..fingerprint import Spreads
from ..verdict import CHECK, Reason
from .expected import Range, expected
from .settings import Settings
from .traits import AXES, Trait


def compared(
    trait: Trait,
    values: float | Sequence[float],
    spreads: Spreads,
    cases: int,
    settings: Settings,
    of: str = "",
    axes: Sequence[int] = (0, 1, 2),
) -> Reason | None:
    """The reason that a fact gives: of several components that which lies farthest out; None where all are as expected.

    Args:
        trait: the fact.
        values: of the case.
        spreads: over the training cases, one a component.
        cases: how many they were.
        settings: of the bundle.
        of: whose fact it is, such as a label's name.
        axes: to look at, where there is a component an axis.
    """
    numbers = [values] if isinstance(values, int | float) else list(values)
    an_axis_each = "{axis}" in trait.what
    places = [place for place in range(len(numbers)) if not an_axis_each or place in axes]
    ranges = {place: expected(spreads[place], cases, trait.how, settings) for place in places}
    worst = max(places, key=lambda place: ranges[place].excess(numbers[place]), default=None)
    severity = None if worst is None else ranges[worst].severity(numbers[worst])
    if worst is None or severity is None:
        return None
    what = trait.what.format(axis=AXES[worst]) if an_axis_each else trait.what
    found, limits = trait.say(numbers[worst]), _in_words(ranges[worst], trait)
    message = f"{of + ': ' if of else ''}{what} is {found}, expected {limits}"
    return Reason(trait.code, CHECK if trait.gravest == CHECK else severity, message)


def _in_words(limits: Range, trait: Trait) -> str:
    low, high = limits.check
    if not trait.how.low:
        return f"{trait.say(high)} at most"
    if not trait.how.high:
        return f"{trait.say(low)} at least"
    return f"{trait.say(low)} to {trait.say(high)}"
