"""Random noise: Gaussian, or Rician as in magnitude images of MR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import ranges
from .intensity import Change, RandIntensityChange, RandIntensityChanged
from .moments import extremes, mean_and_std, pieces
from .ranges import Setting

KINDS = ("gaussian", "rician")


@dataclass(frozen=True)
class Noise(Change):
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

    def apply_(self, values: Tensor, spacing: Sequence[float], stream: int) -> None:
        """Noise by noise-filled pieces that stay in the cache."""
        std = self.std * mean_and_std(values)[1]
        zero = extremes(values)[0] if self.rician else 0.0
        generator = torch.Generator(values.device).manual_seed((self.seed + stream) % 2**63)
        memory = torch.empty_like(pieces(values)[0])
        for piece in pieces(values):
            noise = memory[: len(piece)].normal_(generator=generator)
            if not self.rician:
                piece.add_(noise, alpha=std)
                continue
            piece.sub_(zero).add_(noise, alpha=std).square_()
            piece.addcmul_(noise.normal_(generator=generator).mul_(std), noise).sqrt_().add_(zero)


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
