"""Random intensity changes of a whole batch: gamma, brightness, contrast and noise, a draw a sample."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import torch
from monai.transforms.transform import Randomizable
from torch import Tensor


class BatchRandIntensity(Randomizable):
    """Change the intensities of every sample of a batch by its own draw.

    Takes and returns a mapping of tensors (B, C, *spatial), on any device, of any unit: brightness and noise are in
    units of the sample's own standard deviation. In the order of nnU-Net: noise, brightness, contrast, gamma.

    Args:
        key: the image.
        noise_std: largest standard deviation of the Gaussian noise, drawn uniformly from 0.
        brightness_std: standard deviation of the Gaussian shift of the mean.
        contrast: range of the uniform factor about the mean; the range of values is kept.
        gamma: range of the log-uniform exponent applied to the values scaled to [0, 1]; mean and standard deviation
            are restored. Half of these draws act on the inverted image.
        prob_noise, prob_brightness, prob_contrast, prob_gamma: the probability of each part, drawn a sample.

    Raises:
        ValueError: a range is impossible.

    Source: Isensee 2021, Nature Methods 18, supplementary note 2 (the set and its ranges).
    """

    def __init__(
        self,
        key: Hashable = "image",
        noise_std: float = 0.3,
        brightness_std: float = 0.3,
        contrast: tuple[float, float] = (0.75, 1.25),
        gamma: tuple[float, float] = (0.7, 1.5),
        prob_noise: float = 0.15,
        prob_brightness: float = 0.15,
        prob_contrast: float = 0.15,
        prob_gamma: float = 0.3,
    ) -> None:
        for name, (low, high) in {"contrast": contrast, "gamma": gamma}.items():
            if not 0 < low <= high:
                raise ValueError(f"{name} is {(low, high)}; it must be two positive numbers, the smaller first.")
        for name, largest in {"noise_std": noise_std, "brightness_std": brightness_std}.items():
            if largest < 0:
                raise ValueError(f"{name} is {largest}; it must not be negative.")
        self.key = key
        self.noise_std, self.brightness_std = noise_std, brightness_std
        self.contrast, self.gamma = tuple(contrast), tuple(gamma)
        self.prob_noise, self.prob_brightness = prob_noise, prob_brightness
        self.prob_contrast, self.prob_gamma = prob_contrast, prob_gamma

    def __call__(self, data: Mapping[Hashable, Tensor]) -> dict[Hashable, Tensor]:
        """The mapping with a changed copy of the image; shape, type and device stay."""
        image = data[self.key]
        return {**data, self.key: torch.stack([self._change(sample) for sample in image])}

    def randomize(self, data: object = None) -> None:
        """Nothing is kept between calls: each sample's parameters are drawn as it is changed."""

    def _change(self, x: Tensor) -> Tensor:
        if self.R.rand() < self.prob_noise:
            generator = torch.Generator().manual_seed(int(self.R.randint(2**31)))
            noise = torch.randn(x.shape, generator=generator).to(x)
            x = x + noise * (self.R.uniform(0, self.noise_std) * _std(x))
        if self.R.rand() < self.prob_brightness:
            x = x + self.R.normal(0, self.brightness_std) * _std(x)
        if self.R.rand() < self.prob_contrast:
            low, high, mean = x.min(), x.max(), x.mean()
            x = ((x - mean) * self.R.uniform(*self.contrast) + mean).clamp(low, high)
        if self.R.rand() < self.prob_gamma:
            x = self._gamma(x)
        return x

    def _gamma(self, x: Tensor) -> Tensor:
        exponent = math.exp(self.R.uniform(*(math.log(bound) for bound in self.gamma)))
        x = -x if (inverted := self.R.rand() < 0.5) else x
        low, high, mean, std = x.min(), x.max(), x.mean(), _std(x)
        y = ((x - low) / (high - low).clamp(min=1e-8)).pow(exponent)
        y = (y - y.mean()) * (std / _std(y).clamp(min=1e-8)) + mean
        return -y if inverted else y


def _std(x: Tensor) -> Tensor:
    """Standard deviation from two sums, several times cheaper than `torch.std` on a volume.

    In single precision: a sum of squares over a volume leaves the range of half precision.
    """
    centred = (x - x.mean()).flatten().float()
    return (centred @ centred / centred.numel()).sqrt()
