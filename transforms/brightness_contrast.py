"""Random brightness and contrast, as one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import ranges
from .channel import Channel
from .intensity import Change, PointwiseChange, RandIntensityChange, RandIntensityChanged
from .ranges import Setting


@dataclass(frozen=True)
class BrightnessContrast(PointwiseChange):
    """Multiply all values, shift them, then spread them about their mean.

    Args:
        brightness: factor of all values, about 0.
        shift: added to all, in units of the channel's standard deviation.
        contrast: factor about the mean.
        preserve_range: contrast does not exceed the lowest and highest value that brightness and shift give.
    """

    brightness: float = 1.0
    shift: float = 0.0
    contrast: float = 1.0
    preserve_range: bool = True

    def apply(self, channel: Channel, stream: int) -> None:
        """All three are one affine map, and its bounds are known from the values before."""
        before = channel.moments()
        step = self.shift * before.std
        mean, low, high = (self.brightness * value + step for value in (before.mean, before.low, before.high))
        scale = self.brightness * self.contrast
        offset = (step - mean) * self.contrast + mean
        if self.preserve_range and self.contrast > 1:
            channel.then(lambda piece: piece.mul_(scale).add_(offset).clamp_(low, high), (low, high))
        else:
            ends = sorted((before.low * scale + offset, before.high * scale + offset))
            channel.then(lambda piece: piece.mul_(scale).add_(offset), (ends[0], ends[1]))


class RandBrightnessContrast(RandIntensityChange):
    """Change brightness and contrast.

    Args:
        brightness: range of the factor of all values, about 0; v means 1/v to v; drawn in the logarithm.
        contrast: range of the factor about the channel's mean; v means 1/v to v; drawn in the logarithm.
        shift: standard deviation of a Gaussian shift of all values, in units of the channel's standard deviation: for
            images whose 0 means nothing.
        preserve_range: contrast does not exceed the lowest and highest value.
        prob_brightness, prob_contrast: of each of the two, drawn separately; the shift goes with the brightness.
        prob, channel_wise, background, spacing: see `RandIntensityChange`.

    Raises:
        ValueError: a range is impossible.

    Source: Isensee 2021, supplementary note 2 (0.75 to 1.25 both, the range preserved).
    """

    def __init__(
        self,
        prob: float = 0.1,
        brightness: Setting = (0.75, 1.25),
        contrast: Setting = (0.75, 1.25),
        shift: Setting = 0.0,
        preserve_range: bool = True,
        prob_brightness: float = 1.0,
        prob_contrast: float = 1.0,
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        self.brightness = ranges.factor("brightness", brightness)
        self.contrast = ranges.factor("contrast", contrast)
        self.shift = ranges.non_negative("shift", shift)
        self.preserve_range = preserve_range
        self.prob_brightness = ranges.probability("prob_brightness", prob_brightness)
        self.prob_contrast = ranges.probability("prob_contrast", prob_contrast)

    def draw(self, spatial_dims: int) -> list[Change]:
        """One `BrightnessContrast`, or none."""
        brightness, shift, contrast = 1.0, 0.0, 1.0
        if self.R.rand() < self.prob_brightness:
            brightness, shift = self.brightness.draw(self.R), float(self.R.normal(0.0, self.shift.draw(self.R)))
        if self.R.rand() < self.prob_contrast:
            contrast = self.contrast.draw(self.R)
        change = BrightnessContrast(brightness, shift, contrast, self.preserve_range)
        return [] if (brightness, shift, contrast) == (1.0, 0.0, 1.0) else [change]


class RandBrightnessContrastd(RandIntensityChanged):
    """`RandBrightnessContrast` for the images of a dictionary."""

    array = RandBrightnessContrast
