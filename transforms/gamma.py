"""Random gamma curves: contrast that differs between dark and bright."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import ranges
from .channel import Channel
from .intensity import Change, PointwiseChange, RandIntensityChange, RandIntensityChanged
from .ranges import Setting

TINY = 1e-7
"""A range of values this small, compared with the values, is a constant image."""
SMALLEST = 1e-18
"""So is a range this small: its square is none of float32's numbers."""


@dataclass(frozen=True)
class Gamma(PointwiseChange):
    """Scale the values to 0 to 1, raise them to the exponent, and give them back their mean and standard deviation.

    Args:
        exponent: positive; below 1 brightens the middle.
        inverted: act on the negative image.
    Raises:
        ValueError: the exponent is not positive.
    """

    exponent: float
    inverted: bool = False

    def __post_init__(self) -> None:
        if not self.exponent > 0:
            raise ValueError(f"exponent is {self.exponent}; it must be positive.")

    def apply(self, channel: Channel, stream: int) -> None:
        """A constant image stays."""
        low, high = channel.bounds()
        width = high - low
        if width <= max(TINY * max(abs(high), abs(low)), SMALLEST):
            return
        before = channel.moments_in_passing()
        start, sign = (high, -1.0) if self.inverted else (low, 1.0)
        # x^g as 2^(g log2 x): a third of the cost of pow; 0 stays 0
        channel.then(
            lambda piece: piece.sub_(start).mul_(sign / width).clamp_(0, 1).log2_().mul_(self.exponent).exp2_()
        )
        after = channel.moments()
        scale = sign * before.std / after.std
        offset = before.mean - scale * after.mean
        channel.then(lambda piece: piece.mul_(scale).add_(offset))


class RandGamma(RandIntensityChange):
    """Apply a random gamma curve; mean and standard deviation of each channel stay.

    Args:
        gamma: range of the exponent, drawn in the logarithm; v means 1/v to v.
        prob_inverted: the probability of acting on the negative image.
        prob, channel_wise, background, spacing: see `RandIntensityChange`.

    Raises:
        ValueError: a range is impossible.

    Source: Isensee 2021, Nature Methods 18, supplementary note 2 (0.7 to 1.5, a quarter of them inverted).
    """

    def __init__(
        self,
        prob: float = 0.1,
        gamma: Setting = (0.7, 1.5),
        prob_inverted: float = 0.25,
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        self.gamma = ranges.factor("gamma", gamma)
        self.prob_inverted = ranges.probability("prob_inverted", prob_inverted)

    def draw(self, spatial_dims: int) -> list[Change]:
        """One `Gamma`."""
        return [Gamma(self.gamma.draw(self.R), self.R.rand() < self.prob_inverted)]


class RandGammad(RandIntensityChanged):
    """`RandGamma` for the images of a dictionary."""

    array = RandGamma
