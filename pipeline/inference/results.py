"""The outputs of a batch of images as MONAI's inferers give them: whole tensors, made when their size is known."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from monai.data import MetaTensor
from monai.utils import convert_to_dst_type
from torch import Tensor

from .estimate import require_room
from .reduction import Reduce, Reduction, ReductionOf, make_reduction


class Results:
    """The outputs of a batch, made when the first window shows how many channels they have.

    Args:
        output: what is made of the logits, as for `make_reduction`.
        inputs: (B, C, *spatial), whose type and metadata the outputs get.
        device: of the outputs.
    """

    def __init__(self, output: str | Reduce, inputs: Tensor, device: torch.device) -> None:
        self.output, self.inputs, self.device = output, inputs, device
        self._tensors: list[Tensor] = []

    def reduction_of(self, image: int) -> ReductionOf:
        """What makes the reductions of one image of the batch."""

        def make(index: int, channels: int, size: tuple[int, ...], order: Sequence[int]) -> Reduction:
            return make_reduction(
                self.output, channels, lambda count, kind: self._room(index, count, size, kind)[image]
            )

        return make

    def outputs(self) -> list[Tensor]:
        """(B, K', *spatial) each; MetaTensors where the inputs are."""
        if not isinstance(self.inputs, MetaTensor):
            return self._tensors
        like = MetaTensor([]).copy_meta_from(self.inputs, copy_attr=False)
        return [convert_to_dst_type(each, like, dtype=each.dtype, device=self.device)[0] for each in self._tensors]

    def _room(self, index: int, channels: int, size: tuple[int, ...], kind: torch.dtype) -> Tensor:
        if index == len(self._tensors):
            kind = self.inputs.dtype if kind.is_floating_point and self.inputs.is_floating_point() else kind
            shape = (len(self.inputs), channels, *size)
            require_room(prod(shape) * kind.itemsize, self.device, shape)
            self._tensors.append(torch.empty(shape, dtype=kind, device=self.device))
        return self._tensors[index]
