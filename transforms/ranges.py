"""Where random parameters come from: a value or a range, one for all axes or one an axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

Setting = float | Sequence[float]
"""A value, or (low, high)."""
AxisSetting = Setting | Sequence[Setting]
"""A setting for all axes, or a list with one for each. Two bare numbers are a range."""


@dataclass(frozen=True)
class Range:
    """The numbers from low to high, drawn uniformly, or uniformly in the logarithm."""

    low: float
    high: float
    logarithmic: bool = False

    def draw(self, random: np.random.RandomState) -> float:
        """One number."""
        if self.logarithmic:
            return math.exp(random.uniform(math.log(self.low), math.log(self.high)))
        return float(random.uniform(self.low, self.high))


def symmetric(name: str, setting: Setting) -> Range:
    """A value v means -v to v."""
    return Range(*_bounds(name, setting if isinstance(setting, Sequence) else (-abs(setting), abs(setting))))


def non_negative(name: str, setting: Setting) -> Range:
    """A value means itself: a standard deviation, a length."""
    low, high = _bounds(name, setting if isinstance(setting, Sequence) else (setting, setting))
    if low < 0:
        raise ValueError(f"{name} is {setting}; it must not be negative.")
    return Range(low, high)


def factor(name: str, setting: Setting) -> Range:
    """A value v means 1/v to v; drawn in the logarithm, so that halving is as likely as doubling."""
    low, high = _bounds(name, setting if isinstance(setting, Sequence) else (setting, setting))
    if low <= 0:
        raise ValueError(f"{name} is {setting}; factors must be positive.")
    if not isinstance(setting, Sequence):
        low, high = min(low, 1 / low), max(low, 1 / low)
    return Range(low, high, logarithmic=True)


def fraction(name: str, setting: Setting) -> Range:
    """A value means itself; above 0, at most 1."""
    low, high = _bounds(name, setting if isinstance(setting, Sequence) else (setting, setting))
    if not 0 < low <= high <= 1:
        raise ValueError(f"{name} is {setting}; it must lie above 0 and not above 1.")
    return Range(low, high)


def an_axis(kind: Callable[[str, Setting], Range], name: str, setting: AxisSetting) -> tuple[Range, ...]:
    """One range for all axes, or one for each: `kind` is one of the functions above.

    Three numbers, or a list that holds a list, are one setting an axis; two bare numbers are a range.
    """
    if isinstance(setting, Sequence) and (len(setting) > 2 or any(isinstance(each, Sequence) for each in setting)):
        return tuple(kind(f"{name}[{axis}]", each) for axis, each in enumerate(setting))
    return (kind(name, cast(Setting, setting)),)


def draw_axes(name: str, ranges: tuple[Range, ...], count: int, random: np.random.RandomState) -> np.ndarray:
    """(count,): a number for each axis, each drawn for itself."""
    if len(ranges) not in (1, count):
        raise ValueError(f"{name} has {len(ranges)} settings, the image {count} axes; give one, or one an axis.")
    return np.array([each.draw(random) for each in (ranges * count if len(ranges) == 1 else ranges)])


def draw_together(name: str, ranges: tuple[Range, ...], count: int, random: np.random.RandomState) -> tuple[float, ...]:
    """A number for each axis: one draw for all where there is one range, else each drawn for itself."""
    if len(ranges) == 1:
        return (ranges[0].draw(random),) * count
    return tuple(draw_axes(name, ranges, count, random))


def probability(name: str, value: float) -> float:
    """The value, if it is one of a probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must lie in 0 to 1.")
    return float(value)


def _bounds(name: str, pair: Sequence[float]) -> tuple[float, float]:
    if len(pair) != 2:
        raise ValueError(f"{name} is {tuple(pair)}; it must be a value, or a range of two numbers.")
    low, high = float(pair[0]), float(pair[1])
    if not low <= high or not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"{name} is {tuple(pair)}; it must be two finite numbers, the smaller first.")
    return low, high
