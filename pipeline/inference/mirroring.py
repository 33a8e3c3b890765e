"""Test-time averaging over mirror images, around any MONAI inferer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor


class MirroredInferer(Inferer):
    """The mean of the logits over the image and its mirror images, each mirrored back.

    Args:
        inferer: what runs the network on one (B, C, *spatial) image.
        axes: spatial axes along which the anatomy may be mirrored; n of them cost 2^n passes.
    Raises:
        ValueError: an axis is named twice or is negative.

    Source: Isensee 2021, test-time augmentation of nnU-Net.
    """

    def __init__(self, inferer: Inferer, axes: Sequence[int] = (0,)) -> None:
        if len(set(axes)) != len(axes) or any(axis < 0 for axis in axes):
            raise ValueError(f"axes is {tuple(axes)}; name each spatial axis once, from 0.")
        self.inferer = inferer
        self.axes = tuple(axes)

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """(B, C, *spatial) -> mean logits (B, K, *spatial).

        Raises:
            ValueError: the image has no such axis.
        """
        if max(self.axes, default=0) > inputs.ndim - 3:
            raise ValueError(f"axes is {self.axes} but the image has {inputs.ndim - 2} spatial axes.")
        subsets = [flips for count in range(len(self.axes) + 1) for flips in combinations(self.axes, count)]
        total: Tensor | None = None
        for flips in subsets:
            dims = [axis + 2 for axis in flips]
            logits = torch.flip(self.inferer(torch.flip(inputs, dims), network, *args, **kwargs), dims)
            total = logits if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(subsets))
