"""How far from its fellows in training a number may lie before it is worth a look, and before it is beyond belief."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

from ..fingerprint import Spread
from .settings import Settings

NORMAL_P90 = 1.2816
"""The 90th percentile of a normal distribution, in its deviations."""
EXTREME = 3.5
"""Deviations from the median at which the outermost of some hundred cases lies, at most; one farther out widens the
range, which so always holds all of the training."""
FEW = 6.0
"""A range learned from n cases is wider by FEW / n of itself."""
TINY = 1e-9


@dataclass(frozen=True)
class Yardstick:
    """How a fact is measured.

    Attributes:
        floor: the least deviation, in the fact's own unit; where `ratio`, in logarithms.
        ratio: a number that is positive, and whose doubling and halving count alike.
        low, high: whether a number can be too small, too large.
    """

    floor: float
    ratio: bool = False
    low: bool = True
    high: bool = True


@dataclass(frozen=True)
class Range:
    """What is expected of a number; infinite where there is no limit.

    Attributes:
        check, reject: the lowest and the highest number that are not worth a look, and not beyond belief.
    """

    check: tuple[float, float]
    reject: tuple[float, float]

    def severity(self, value: float) -> str | None:
        """ "check" or "reject"; None for what is as expected. What is no number is beyond belief."""
        if not self.reject[0] <= value <= self.reject[1]:
            return "reject"
        return None if self.check[0] <= value <= self.check[1] else "check"

    def excess(self, value: float) -> float:
        """How far beyond the range a number lies, in widths of what lies between check and reject; 0 within."""
        if value < self.check[0]:
            return (self.check[0] - value) / max(self.check[0] - self.reject[0], TINY)
        if value > self.check[1]:
            return (value - self.check[1]) / max(self.reject[1] - self.check[1], TINY)
        return 0.0


def expected(spread: Spread, cases: int, how: Yardstick, settings: Settings) -> Range:
    """The range of a number, from its spread over the training cases.

    Args:
        spread: over the cases.
        cases: how many they were.
        how: of the fact.
        settings: of the bundle: the limits, in deviations from the median.
    """
    median, below, above = _middle(spread, cases, how)
    limits = []
    for far in (settings.check, settings.reject):
        low = median - far * below if how.low else -float("inf")
        high = median + far * above if how.high else float("inf")
        limits.append((exp(low), exp(high)) if how.ratio else (low, high))
    return Range(limits[0], limits[1])


def deviations(value: float, spread: Spread, cases: int, how: Yardstick) -> float:
    """How far a number lies from the median, in deviations of its side; negative below it."""
    median, below, above = _middle(spread, cases, how)
    away = (_logarithm(value) if how.ratio else value) - median
    return away / (above if away > 0 else below)


def _middle(spread: Spread, cases: int, how: Yardstick) -> tuple[float, float, float]:
    """The median, and the deviation of either side: that which the farthest tenth shows, or the very farthest case.

    Whichever is larger; and at least the floor.
    """
    least, p10, median, p90, most = (
        _logarithm(value) if how.ratio else value
        for value in (spread.least, spread.p10, spread.median, spread.p90, spread.most)
    )
    wider = 1 + FEW / max(cases, 1)
    below = max((median - p10) / NORMAL_P90, (median - least) / EXTREME, how.floor) * wider
    above = max((p90 - median) / NORMAL_P90, (most - median) / EXTREME, how.floor) * wider
    return median, below, above


def _logarithm(value: float) -> float:
    return log(max(value, TINY))
