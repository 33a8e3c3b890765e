"""nnU-Net's intensity augmentation, its set and its order, as one transform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection

from . import ranges
from .blur import RandBlur
from .brightness_contrast import RandBrightnessContrast
from .gamma import RandGamma
from .intensity import Change, RandIntensityChange, RandIntensityChanged
from .low_resolution import RandSimulateLowResolution
from .noise import RandNoise
from .ranges import AxisSetting, Setting


class RandIntensity(RandIntensityChange):
    """Noise, blur, brightness, contrast, low resolution, inverted gamma and gamma, in this order: nnU-Net's.

    Each part is drawn with its own probability. Brightness and contrast are one pass, and all parts work in place on
    one copy.

    Args:
        prob: of changing an image at all; the parts' probabilities are within this.
        noise_std: see `RandNoise`; so for noise_kind.
        blur_sigma: see `RandBlur`, mm.
        brightness, shift, contrast: see `RandBrightnessContrast`.
        low_resolution: see `RandSimulateLowResolution`, the factor.
        gamma: see `RandGamma`.
        prob_noise, prob_blur, prob_brightness, prob_contrast, prob_low_resolution, prob_inverted_gamma, prob_gamma: of
            each part, drawn separately.
        channel_wise, background, spacing: see `RandIntensityChange`.

    Raises:
        ValueError: a range is impossible.

    Source: Isensee 2021, Nature Methods 18, supplementary note 2: the set, its order, ranges and probabilities (there
        blur and low resolution are drawn for 0.2 and 0.25 of the samples, and in these for half of the channels). Its
        brightness is a factor about 0, for z-scored images; noise there is called a variance and used as a standard
        deviation.
    """

    def __init__(
        self,
        prob: float = 1.0,
        noise_std: Setting = (0.0, 0.1),
        noise_kind: str = "gaussian",
        blur_sigma: AxisSetting = (0.5, 1.0),
        brightness: Setting = (0.75, 1.25),
        shift: Setting = 0.0,
        contrast: Setting = (0.75, 1.25),
        low_resolution: AxisSetting = (0.5, 1.0),
        gamma: Setting = (0.7, 1.5),
        prob_noise: float = 0.1,
        prob_blur: float = 0.1,
        prob_brightness: float = 0.15,
        prob_contrast: float = 0.15,
        prob_low_resolution: float = 0.125,
        prob_inverted_gamma: float = 0.1,
        prob_gamma: float = 0.3,
        channel_wise: bool = True,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        self.parts = (
            (prob_noise, RandNoise(std=noise_std, kind=noise_kind)),
            (prob_blur, RandBlur(sigma=blur_sigma)),
            (
                1.0,
                RandBrightnessContrast(
                    brightness=brightness,
                    shift=shift,
                    contrast=contrast,
                    prob_brightness=prob_brightness,
                    prob_contrast=prob_contrast,
                ),
            ),
            (prob_low_resolution, RandSimulateLowResolution(factor=low_resolution)),
            (prob_inverted_gamma, RandGamma(gamma=gamma, prob_inverted=1.0)),
            (prob_gamma, RandGamma(gamma=gamma, prob_inverted=0.0)),
        )
        for chance, part in self.parts:
            ranges.probability(f"probability of {type(part).__name__}", chance)
            part.R = self.R

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandIntensity:
        """Seed all parts: they draw from one state."""
        super().set_random_state(seed, state)
        for _, part in self.parts:
            part.R = self.R
        return self

    def draw(self, spatial_dims: int) -> list[Change]:
        """The changes of the parts that are drawn, in order."""
        return [change for chance, part in self.parts if self.R.rand() < chance for change in part.draw(spatial_dims)]


class RandIntensityd(RandIntensityChanged):
    """`RandIntensity` for the images of a dictionary."""

    array = RandIntensity

    def __init__(
        self, keys: KeysCollection, prob: float = 1.0, allow_missing_keys: bool = False, **arguments: Any
    ) -> None:
        super().__init__(keys, prob, allow_missing_keys, **arguments)
