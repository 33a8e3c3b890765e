"""Random noise: Gaussian, or Rician as in magnitude images of MR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from . import ranges
from .channel import Channel
from .intensity import Change, PointwiseChange, RandIntensityChange, RandIntensityChanged
from .ranges import Setting

KINDS = ("gaussian", "rician")
LEVELS = 1 << 16
"""Different numbers that noise on a processor is made of."""


@dataclass(frozen=True)
class Noise(PointwiseChange):
    """Add noise of `std` times the channel's standard deviation.

    Args:
        std: standard deviation of the noise, of each of the two components if Rician, in units of the channel's.
        seed: of the noise; each channel has its own. The numbers differ between kinds of device, not their law.
        rician: the magnitude of a complex number whose parts have Gaussian noise, above the channel's lowest value: the
            zero of a magnitude image, wherever normalisation has put it.
    """

    std: float
    seed: int
    rician: bool = False

    def apply(self, channel: Channel, stream: int) -> None:
        """One more pass over the values."""
        before = channel.moments()
        std = self.std * before.std
        normal = _Normal((self.seed + stream) % 2**63, channel.pieces[0])

        def add_gaussian(piece: Tensor) -> None:
            piece.add_(normal.draw(len(piece)), alpha=std)

        def take_magnitude(piece: Tensor) -> None:
            piece.sub_(before.low)
            add_gaussian(piece)
            imaginary = normal.draw(len(piece)).mul_(std)
            piece.square_().addcmul_(imaginary, imaginary).sqrt_().add_(before.low)

        channel.then(take_magnitude if self.rician else add_gaussian)


class _Normal:
    """Standard normal numbers, piece by piece.

    On a processor the distribution function is inverted at 65,536 levels, which costs two thirds of `torch.randn`: the
    mean is 0 and the deviation 1, and nothing lies beyond 4.3 deviations (of true normal numbers, 1 in 60,000).
    """

    def __init__(self, seed: int, like: Tensor) -> None:
        self.memory = torch.empty_like(like)
        if like.device.type == "cpu":
            self.bits = np.random.Generator(np.random.SFC64(seed))
            self.levels = _quantiles().to(like.dtype)
        else:
            self.generator = torch.Generator(like.device).manual_seed(seed)

    def draw(self, count: int) -> Tensor:
        """(count,) numbers, in memory that the next draw overwrites."""
        memory = self.memory[:count]
        if memory.device.type != "cpu":
            return memory.normal_(generator=self.generator)
        words = self.bits.integers(0, 2**64, (count + 3) // 4, dtype=np.uint64)
        level = torch.from_numpy(words.view(np.int16))[:count].to(torch.int32).bitwise_and_(LEVELS - 1)
        return torch.index_select(self.levels, 0, level, out=memory)


@lru_cache(maxsize=1)
def _quantiles() -> Tensor:
    """(LEVELS,), float32: of the normal distribution, in the middle of equally likely steps, of deviation 1."""
    quantiles = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    return (quantiles / quantiles.square().mean().sqrt()).float()


class RandNoise(RandIntensityChange):
    """Add random noise whose strength is a standard deviation, in units of each channel's own.

    So the same setting fits z-scored MR, CT in HU and 8-bit images.

    Args:
        std: of the noise, in units of the channel's standard deviation: a value, or a (low, high) range.
        kind: "gaussian"; "rician" for magnitude MR: see `Noise`.
        prob, channel_wise, background, spacing: see `RandIntensityChange`.

    Raises:
        ValueError: the kind is not known, a range is impossible.

    Source: Isensee 2021, supplementary note 2 (0 to 0.1); Gudbjartsson and Patz 1995, Magnetic Resonance in Medicine
        34(6) (Rician).
    """

    def __init__(
        self,
        prob: float = 0.1,
        std: Setting = (0.0, 0.1),
        kind: str = "gaussian",
        channel_wise: bool = False,
        background: float | None = None,
        spacing: Sequence[float] | None = None,
    ) -> None:
        super().__init__(prob, channel_wise, background, spacing)
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; it must be {' or '.join(map(repr, KINDS))}.")
        self.std, self.kind = ranges.non_negative("std", std), kind

    def draw(self, spatial_dims: int) -> list[Change]:
        """One `Noise`."""
        return [Noise(self.std.draw(self.R), int(self.R.randint(2**31)), self.kind == "rician")]


class RandNoised(RandIntensityChanged):
    """`RandNoise` for the images of a dictionary."""

    array = RandNoise
